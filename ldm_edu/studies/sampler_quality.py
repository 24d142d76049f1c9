"""How many steps does a picture need? Four samplers from the same noise, judged by the oracle and by a distance.

`python -m ldm_edu.sampler_study [--count N] [--threads 1] [--out FILE]` draws the pictures of the first N validation
prompts with every sampler at every number of steps, then with DDIM at every guidance, and keeps a table in
data/samplers/quality.csv; then those of four times as many prompts with more and more noise on the way, in
randomness.csv beside it.
"""
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score, surplus
from ..metrics.distances import features, frechet_distance
from ..metrics.evaluation import GUIDANCE_SCALE, captions_of
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..samplers import SAMPLERS, ddim, last_x
from ..support.tables import read_table, write_table
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import render, to_float

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `recipes`
os.environ.setdefault("GOMP_SPINCOUNT", "0")
STEPS = (2, 4, 8, 15, 30, 60)
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
GUIDANCE_SCALE_STEPS = 15
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
REAL = 1024    # renders that the pictures are held against
TABLE = DATA / "samplers" / "quality.csv"
RANDOMNESS = TABLE.with_name("randomness.csv")


class Quality(NamedTuple):
    """One line of the table. sampler: or "renders", the true scenes, or "rebuilt", these through the autoencoder.

    accuracy: share of the stated attributes that the oracle finds; all_right: share of prompts with every one found;
    surplus: share of those naming things whose pictures have more; distance: Fréchet distance in our space of features
    (`distances`) to the renders of `REAL` other scenes.
    """

    sampler: str
    steps: int
    guidance: float
    accuracy: float
    all_right: float
    surplus: float
    distance: float


class Randomness(NamedTuple):
    """Does noise on the way help? eta: of `ddim`, 0 adds none, 1 as much as `ddpm`. The rest as in `Quality`."""

    eta: float
    accuracy: float
    all_right: float
    surplus: float


def score_pictures(pictures: Tensor, captions: Sequence[Caption], real: Tensor,
                   oracle: Oracle) -> tuple[float, float, float, float]:
    """accuracy, all_right, surplus and distance of pictures (B, 3, 64, 64) in [-1, 1].

    real: features (N, 96) of renders. Raises ValueError for another number of captions than pictures.
    """
    captions, seen = list(captions), oracle.read(pictures)
    found = score(captions, seen)
    return found.accuracy, found.all_right, surplus(captions, seen), frechet_distance(real, features(pictures))


def draw_captions(ldm: LatentDiffusion, captions: Sequence[Caption], sampler: str, steps: int, guidance: float,
                  batch: int = 64) -> Tensor:
    """A picture of each caption, (B, 3, S, S) in [-1, 1]; batch k of them starts from the noise of seed k."""
    prompts = [caption.text for caption in captions]
    return torch.cat([ldm.text_to_image(prompts[i:i + batch], steps, guidance, seed=i // batch, sampler=sampler)
                      for i in range(0, len(prompts), batch)])


def quality_table(ldm: LatentDiffusion, count: int = 128, steps: Sequence[int] = STEPS,
                  guidances: Sequence[float] = GUIDANCE_SCALES) -> list[Quality]:
    """The whole table for `count` prompts: renders, rebuilt, samplers against steps, DDIM against guidance."""
    captions, oracle = captions_of("validation", count), Oracle.load()
    renders = to_float(render("validation", count + REAL)[0])
    own, real = renders[:count], features(renders[count:])
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in own.split(64)])
    rows = [Quality(name, 0, 0.0, *score_pictures(pictures, captions, real, oracle))
            for name, pictures in (("renders", own), ("rebuilt", rebuilt))]
    runs = [(sampler, n, GUIDANCE_SCALE) for n in steps for sampler in SAMPLERS]
    runs += [("ddim", GUIDANCE_SCALE_STEPS, scale) for scale in guidances]
    for run in tqdm(list(dict.fromkeys(runs)), desc="samplers"):
        rows.append(Quality(*run, *score_pictures(draw_captions(ldm, captions, *run), captions, real, oracle)))
    return rows


@torch.no_grad()
def draw_with_eta(ldm: LatentDiffusion, captions: Sequence[Caption], eta: float, steps: int = 30,
                    batch: int = 64) -> Tensor:
    """As `draw_captions` with "ddim" at `GUIDANCE_SCALE`, but with fresh noise in every step, `eta` of it: 0 ... 1."""
    prompts, pictures, config = [caption.text for caption in captions], [], ldm.unet.config
    for seed, i in enumerate(range(0, len(prompts), batch)):
        eps, context = ldm.predictor(prompts[i:i + batch], GUIDANCE_SCALE)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(context), config.in_channels, *[config.sample_size] * 2, generator=generator)
        steps_done = ddim(eps, noise.to(context), ldm.schedule, steps, eta=eta, generator=generator)
        pictures.append(ldm.decode(last_x(steps_done)))
    return torch.cat(pictures)


def randomness_table(ldm: LatentDiffusion, count: int = 512, etas: Sequence[float] = ETAS) -> list[Randomness]:
    """A row for each eta: pictures of the first `count` validation prompts, 30 steps."""
    captions, oracle, rows = captions_of("validation", count), Oracle.load(), []
    for eta in tqdm(etas, desc="eta"):
        seen = oracle.read(draw_with_eta(ldm, captions, eta))
        found = score(captions, seen)
        rows.append(Randomness(eta, found.accuracy, found.all_right, surplus(captions, seen)))
    return rows


def load_quality(path: Path = TABLE) -> list[Quality]:
    """The table that the command has stored. Raises FileNotFoundError if there is none."""
    return read_table(path, Quality)


def load_randomness(path: Path = RANDOMNESS) -> list[Randomness]:
    """The other table that it has stored. Raises FileNotFoundError if there is none."""
    return read_table(path, Randomness)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.sampler_study", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds")
    parser.add_argument("--count", type=int, default=128, help="prompts")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    tables = ((args.out, lambda: quality_table(ldm, args.count)),
              (args.out.with_name(RANDOMNESS.name), lambda: randomness_table(ldm, 4 * args.count)))
    for path, made in tables:
        write_table(path, rows := made())
        for row in rows:
            print(" | ".join(f"{v:.3f}" if isinstance(v, float) else f"{v!s:>10s}" for v in row))


if __name__ == "__main__":
    main()
