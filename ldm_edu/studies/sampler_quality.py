"""How many steps does a picture need? Four samplers from the same noise, scored by the oracle and a Fréchet distance.

`python -m ldm_edu.studies sampler_quality [--count N] [--threads 1]` draws the first N validation prompts with every
sampler at every number of steps, then with DDIM at every guidance scale, for data/samplers/quality.csv; and 4 N prompts
with DDIM at every eta, for randomness.csv beside it.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score, surplus
from ..metrics.distances import features, frechet_distance
from ..metrics.evaluation import GUIDANCE_SCALE, captions_of, generate
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..samplers import SAMPLERS, ddim
from ..schedule import timesteps
from ..support.tables import read_table, write_table
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import render, to_float
from . import print_row

STEPS = (2, 4, 8, 15, 30, 60)
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
GUIDANCE_SCALE_STEPS = 15
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
REAL = 1024    # renders for the Fréchet distance
TABLE = DATA / "samplers" / "quality.csv"
RANDOMNESS = TABLE.with_name("randomness.csv")


class Quality(NamedTuple):
    """A row of quality.csv."""

    sampler: str             # or "renders", the true scenes, or "rebuilt", these through the autoencoder
    steps: int
    guidance_scale: float
    accuracy: float          # share of the stated attributes that the oracle finds
    all_right: float         # share of prompts with every attribute found
    surplus: float           # share of pictures with more things than named, where any is named
    distance: float          # Fréchet distance to the renders of REAL other scenes, in the space of `features`


class Randomness(NamedTuple):
    """A row of randomness.csv; scores as in `Quality`."""

    eta: float    # of `ddim`: 0 draws no noise, 1 as much as `ddpm`
    accuracy: float
    all_right: float
    surplus: float


def score_pictures(pictures: Tensor, captions: list[Caption], oracle: Oracle) -> tuple[float, float, float]:
    """accuracy, all_right and surplus of pictures (B, 3, 64, 64) in [-1, 1]."""
    seen = oracle.read(pictures)
    found = score(captions, seen)
    return found.accuracy, found.all_right, surplus(captions, seen)


def quality_table(ldm: LatentDiffusion, count: int = 128, steps: Sequence[int] = STEPS,
                  guidance_scales: Sequence[float] = GUIDANCE_SCALES) -> list[Quality]:
    """Score, for `count` prompts: renders, rebuilt, samplers against steps, DDIM against the guidance scale."""
    captions, oracle = captions_of("validation", count), Oracle.load()
    prompts = [caption.text for caption in captions]
    renders = to_float(render("validation", count + REAL)[0])
    own, real = renders[:count], features(renders[count:])
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in own.split(64)])

    def row(sampler: str, steps: int, guidance_scale: float, pictures: Tensor) -> Quality:
        return Quality(sampler, steps, guidance_scale, *score_pictures(pictures, captions, oracle),
                       frechet_distance(real, features(pictures)))

    runs = [(sampler, n, GUIDANCE_SCALE) for n in steps for sampler in SAMPLERS]
    runs += [("ddim", GUIDANCE_SCALE_STEPS, scale) for scale in guidance_scales]
    rows = [row("renders", 0, 0.0, own), row("rebuilt", 0, 0.0, rebuilt)]
    for sampler, n, scale in tqdm(list(dict.fromkeys(runs)), desc="samplers"):
        rows.append(row(sampler, n, scale, generate(ldm, prompts, n, scale, sampler=sampler)))
    return rows


@torch.no_grad()
def draw_with_eta(ldm: LatentDiffusion, prompts: list[str], eta: float, steps: int = 30, batch: int = 64) -> Tensor:
    """Draw as `generate` with "ddim" does, but with fresh noise in every step: (B, 3, S, S) in [-1, 1]."""
    pictures, config, levels = [], ldm.unet.config, timesteps(steps, ldm.schedule.T)
    for i in range(0, len(prompts), batch):
        eps, context = ldm.predictor(prompts[i:i + batch], GUIDANCE_SCALE)
        generator = torch.Generator().manual_seed(i // batch)
        noise = torch.randn(len(context), config.in_channels, *[config.sample_size] * 2, generator=generator)
        pictures.append(ldm.draw(ddim(eps, noise.to(context), ldm.schedule, levels, eta=eta, generator=generator)))
    return torch.cat(pictures)


def randomness_table(ldm: LatentDiffusion, count: int = 512, etas: Sequence[float] = ETAS) -> list[Randomness]:
    """Score every eta on the first `count` validation prompts, 30 steps."""
    captions, oracle = captions_of("validation", count), Oracle.load()
    prompts = [caption.text for caption in captions]
    return [Randomness(eta, *score_pictures(draw_with_eta(ldm, prompts, eta), captions, oracle))
            for eta in tqdm(etas, desc="eta")]


def load_quality(path: Path = TABLE) -> list[Quality]:
    """Load quality.csv. Raises FileNotFoundError if there is none."""
    return read_table(path, Quality)


def load_randomness(path: Path = RANDOMNESS) -> list[Randomness]:
    """Load randomness.csv. Raises FileNotFoundError if there is none."""
    return read_table(path, Randomness)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds")
    parser.add_argument("--count", type=int, default=128, help="prompts")
    parser.add_argument("--out", type=Path, default=TABLE)


def run(args: Namespace) -> None:
    """Measure a checkpoint and write both tables."""
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    for path, table, count in ((args.out, quality_table, args.count),
                               (args.out.with_name(RANDOMNESS.name), randomness_table, 4 * args.count)):
        rows = table(ldm, count)
        write_table(path, rows)
        for row in rows:
            print_row(row)
