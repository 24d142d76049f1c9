"""When is what decided? True scenes, noised part of the way and walked back under their own captions.

`python -m ldm_edu.strength_study [--count N] [--threads 1] [--out FILE]` takes the first N validation scenes whose
caption names three things, begins at every strength, and keeps what is still right in data/samplers/strength.csv.
What goes wrong between two strengths is what the model decides wrongly between these two levels of noise.
"""
from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score, surplus
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..support.tables import read_table, write_table
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import TinyWorlds, render, to_float

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `recipes`
os.environ.setdefault("GOMP_SPINCOUNT", "0")
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GUIDANCE_SCALES = (2.0, 4.0)
THINGS = 3     # named by the caption: all there are, and the hardest
TABLE = DATA / "samplers" / "strength.csv"


class Decided(NamedTuple):
    """One line of the table: chains begun at `strength`, from 0, the autoencoder's copy, to 1, noise alone.

    kind, colour, place: share of those stated that the oracle finds, nan if none is; all_right: share of captions with
    every attribute found; surplus: share of pictures with more things than named.
    """

    strength: float
    guidance: float
    kind: float
    colour: float
    place: float
    all_right: float
    surplus: float


def crowded(count: int) -> tuple[Tensor, list[Caption]]:
    """The first `count` validation scenes whose caption names `THINGS` things: (N, 3, 64, 64) in [-1, 1], captions."""
    dataset = TinyWorlds("validation", 100 * count)
    told = ((i, dataset.caption(i)) for i in range(len(dataset)))
    named = ((i, caption) for i, caption in told if sum(mention.count for mention in caption.mentions) == THINGS)
    pick, captions = map(list, zip(*itertools.islice(named, count)))
    return to_float(render("validation", pick[-1] + 1)[0][pick]), captions


def redrawn(ldm: LatentDiffusion, images: Tensor, prompts: list[str], strength: float, guidance: float,
                steps: int = 30, batch: int = 64) -> Tensor:
    """Pictures begun from `images` at `strength`; at 1 from noise alone, without the rest of the signal that is in the
    noisiest level. (N, 3, 64, 64); batch k has seed k."""
    parts = []
    for k, i in enumerate(range(0, len(prompts), batch)):
        told = prompts[i:i + batch]
        parts.append(ldm.text_to_image(told, steps, guidance, k) if strength == 1 else
                     ldm.image_to_image(told, images[i:i + batch], strength, steps, guidance, k))
    return torch.cat(parts)


def strength_table(ldm: LatentDiffusion, count: int = 128, strengths: Sequence[float] = STRENGTHS,
                   guidances: Sequence[float] = GUIDANCE_SCALES) -> list[Decided]:
    """The whole table for `count` scenes. Lines of strength 0 do not depend on guidance and are equal."""
    oracle, (images, captions) = Oracle.load(), crowded(count)
    prompts, rows = [caption.text for caption in captions], []
    for guidance, strength in tqdm([(g, s) for g in guidances for s in strengths], desc="strengths"):
        seen = oracle.read(redrawn(ldm, images, prompts, strength, guidance))
        found = score(captions, seen)
        kept = (found.by_name.get(name, (0, 0)) for name in ("kind", "colour", "place"))
        shares = (right / stated if stated else math.nan for right, stated in kept)
        rows.append(Decided(strength, guidance, *shares, found.all_right, surplus(captions, seen)))
    return rows


def load_strength(path: Path = TABLE) -> list[Decided]:
    """The table that the command has stored. Raises FileNotFoundError if there is none."""
    return read_table(path, Decided)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.strength_study", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds")
    parser.add_argument("--count", type=int, default=128, help="scenes")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = strength_table(LatentDiffusion.from_pretrained(args.checkpoint), args.count)
    write_table(args.out, rows)
    for row in rows:
        print(" | ".join(f"{value:.3f}" for value in row))


if __name__ == "__main__":
    main()
