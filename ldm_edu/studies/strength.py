"""What is decided when? True scenes, noised part of the way and denoised under their own captions.

`python -m ldm_edu.studies strength [--count N] [--threads 1]` takes the first N validation scenes whose caption names
three things, begins at every strength, and writes what is still right to data/samplers/strength.csv. What goes wrong
between two strengths is what the model decides wrongly between these two levels of noise.
"""
from __future__ import annotations

import itertools
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score, surplus
from ..metrics.evaluation import generate
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..support.tables import read_table, write_table
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import TinyWorlds, render, to_float
from . import print_row

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GUIDANCE_SCALES = (2.0, 4.0)
THINGS = 3     # named by the caption: the most that scenes have, and the hardest
TABLE = DATA / "samplers" / "strength.csv"


class Decided(NamedTuple):
    """A row of the table."""

    strength: float          # where sampling begins: 0 is the autoencoder's copy, 1 noise alone
    guidance_scale: float
    kind: float              # share of the kinds stated that the oracle finds; nan if none is stated
    colour: float
    place: float
    all_right: float         # share of captions with every attribute found
    surplus: float           # share of pictures with more things than named


def crowded(count: int) -> tuple[Tensor, list[Caption]]:
    """The first `count` validation scenes whose caption names `THINGS` things: (N, 3, 64, 64) in [-1, 1], captions."""
    dataset = TinyWorlds("validation", 100 * count)
    all_captions = ((i, dataset.caption(i)) for i in range(len(dataset)))
    named = ((i, caption) for i, caption in all_captions if sum(m.count for m in caption.mentions) == THINGS)
    pick, captions = map(list, zip(*itertools.islice(named, count)))
    return to_float(render("validation", pick[-1] + 1)[0][pick]), captions


def redrawn(ldm: LatentDiffusion, images: Tensor, prompts: list[str], strength: float, guidance_scale: float,
            steps: int = 30, batch: int = 64) -> Tensor:
    """Pictures begun from `images` at `strength`, (N, 3, 64, 64); batch k has seed k."""
    if strength == 1:    # noise alone: the noisiest level would keep a rest of the picture
        return generate(ldm, prompts, steps, guidance_scale, batch=batch)
    return torch.cat([ldm.image_to_image(prompts[i:i + batch], images[i:i + batch], strength, steps, guidance_scale,
                                         seed=i // batch) for i in range(0, len(prompts), batch)])


def strength_table(ldm: LatentDiffusion, count: int = 128, strengths: Sequence[float] = STRENGTHS,
                   guidance_scales: Sequence[float] = GUIDANCE_SCALES) -> list[Decided]:
    """Measure every strength with every guidance scale on `count` scenes."""
    oracle, (images, captions) = Oracle.load(), crowded(count)
    prompts, rows = [caption.text for caption in captions], []
    for scale, strength in tqdm(list(itertools.product(guidance_scales, strengths)), desc="strengths"):
        seen = oracle.read(redrawn(ldm, images, prompts, strength, scale))
        found = score(captions, seen)
        counts = (found.by_name.get(name, (0, 0)) for name in ("kind", "colour", "place"))
        shares = (right / stated if stated else math.nan for right, stated in counts)
        rows.append(Decided(strength, scale, *shares, found.all_right, surplus(captions, seen)))
    return rows


def load_strength(path: Path = TABLE) -> list[Decided]:
    """Load the recorded table. Raises FileNotFoundError if there is none."""
    return read_table(path, Decided)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds")
    parser.add_argument("--count", type=int, default=128, help="scenes")
    parser.add_argument("--out", type=Path, default=TABLE)


def run(args: Namespace) -> None:
    """Measure a checkpoint and write its table."""
    rows = strength_table(LatentDiffusion.from_pretrained(args.checkpoint), args.count)
    write_table(args.out, rows)
    for row in rows:
        print_row(row)
