"""GAN against diffusion: the same data, the same training compute, five seeds each.

`python -m ldm_edu.studies gan_versus_diffusion [--threads 1]` trains all of them in about 15 minutes on a core and
writes scores and samples to data/gan. A killed run continues where it was: finished trainings are not repeated.
"""
from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm.auto import tqdm

from .. import DATA
from ..losses import l_simple
from ..metrics.distances import coverage, features, frechet_distance, precision_recall
from ..samplers import ddim
from ..schedule import cosine_schedule, timesteps
from ..support.checks import expect
from ..support.commands import new_folder
from ..support.tables import read_table, write_table
from ..training import TrainConfig, pick_batch, train
from . import gan, print_row
from .pixel_unet import SmallUNet, little_world

FOLDER = DATA / "gan"
MODELS = {"plane": ("GAN", "GAN, no penalty", "GAN, sharp judge", "GAN, sharp, no penalty", "diffusion"),
          "worlds": ("GAN", "GAN, no penalty", "diffusion")}    # as recorded; "sharp": a discriminator that sees waves
SEEDS = 5                                       # of each model
BUDGET = {"plane": 400.0, "worlds": 1800.0}     # GFLOP of a run's training, forward and backward
LOOKS = {"plane": 10, "worlds": 3}              # at its samples, evenly spaced
DRAWN = {"plane": 2500, "worlds": 240}          # samples at each look
PENALTY = {"GAN": 0.02, "GAN, sharp judge": 0.4}    # of R1 in the plane, the best of a few each; 0 for the others
COLUMNS = {"model": str, "seed": int, "step": int, "gflop": float, "seconds": float}    # seconds of the CPU
SCORES = {"plane": {"modes": int, "good": float, "counts": str},
          "worlds": dict.fromkeys(("covered", "good", "frechet", "precision", "recall", "coverage"), float)}
ROWS = {study: NamedTuple("Row", (COLUMNS | scores).items()) for study, scores in SCORES.items()}    # of data/gan/*.csv


def begin_run(study: str, model: str, seed: int, steps: int) -> Iterator:
    """Prepare a training run, which yields as `train` or `train_gan`. study: "plane" or "worlds"; model: of MODELS."""
    torch.manual_seed(seed)
    plane, schedule, pictures = study == "plane", cosine_schedule(), little_world()

    def real(count: int, generator: torch.Generator) -> Tensor:
        return gan.draw_grid(count, generator) if plane else pictures[pick_batch(len(pictures), count, generator)]

    def loss_fn(net: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        return {"eps": l_simple(net, real(256 if plane else 16, generator), schedule, generator)}

    if model == "diffusion":
        net, lr = (gan.PlaneDenoiser(schedule), 3e-3) if plane else (SmallUNet(schedule), 4e-3)
        return train(net, loss_fn, TrainConfig(steps, lr=lr, warmup=20, ema=0.995, seed=seed))
    if plane:
        config = gan.GanConfig(steps, batch=128, r1=PENALTY.get(model, 0.0), seed=seed)
        return gan.train_gan(gan.PlaneGenerator(), gan.PlaneDiscriminator(waves="sharp" in model), real, config)
    config = gan.GanConfig(steps, batch=16, lr=3e-3, r1=0.1 * (model == "GAN"), seed=seed)
    return gan.train_gan(gan.LittleGenerator(), gan.LittleDiscriminator(), real, config)


class Operations(TorchDispatchMode):
    """Count multiplications and additions in matrix products and convolutions, backward passes included."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):    # FlopCounterMode stops at `torch.autograd.grad`
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


@torch.no_grad()
def samples_of(net: nn.Module, study: str, count: int, steps: int = 25) -> Tensor:
    """Draw samples from a generator or, in `steps` DDIM steps, from a denoiser: always from the same noise."""
    rng = torch.Generator().manual_seed(9)
    if hasattr(net, "noise"):
        return net(torch.randn(count, net.noise, generator=rng))
    noise = torch.randn((count, 2) if study == "plane" else (count, 3, 16, 16), generator=rng)
    *_, last = ddim(net, noise, cosine_schedule(), timesteps(steps, spacing="trailing"))
    return last.x if study == "plane" else last.x.clamp(-1, 1)


def score_worlds(samples: Tensor, pictures: Tensor, seen: Tensor) -> dict[str, float]:
    """Score samples (N, 3, 16, 16) against the world's pictures (M, 3, 16, 16) and their `features` (M, 96).

    A sample is good if a picture is within 0.2 (root mean square over pixels in [-1, 1]). good: share of good samples;
    covered: share of pictures that are the nearest to a good sample; the rest as in `metrics.distances`.
    """
    apart = torch.cdist(samples.flatten(1), pictures.flatten(1)) / pictures[0].numel() ** 0.5
    distance, nearest = apart.min(1)
    found = features(samples)
    return {"covered": len(nearest[distance < 0.2].unique()) / len(pictures),
            "good": (distance < 0.2).float().mean().item(), "frechet": frechet_distance(seen, found),
            **precision_recall(seen, found)._asdict(), "coverage": coverage(seen, found)}


def contact(samples: Tensor, path: Path) -> None:
    """Save pictures (N, 3, H, W) side by side as a PNG."""
    pixels = (samples.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(2, 0, 3, 1).flatten(1, 2)
    Image.fromarray(pixels.numpy()).save(path)


def load_contact(path: Path, side: int = 16) -> Tensor:
    """Load the pictures that `contact` saved: (N, 3, side, side) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(Image.open(path))).unflatten(1, (-1, side))        # (H, N, side, 3)
    return pixels.permute(1, 3, 0, 2) / 127.5 - 1


def load_rows(study: str, folder: Path = FOLDER) -> list[dict]:
    """Load the recorded rows of a study, by name of the column; `counts` as a list of integers."""
    rows = [row._asdict() for row in read_table(folder / f"{study}.csv", ROWS[study])]
    return [row | {"counts": [int(n) for n in row["counts"].split()]} if study == "plane" else row for row in rows]


def run_once(study: str, model: str, seed: int, budget: float, out: Path) -> list[tuple]:
    """Train for `budget` GFLOP; return a row of ROWS for each look. The last "worlds" are saved as a picture."""
    with Operations() as counter:    # of one training step, of all networks that it trains
        next(begin_run(study, model, 0, 1))
    steps, pictures, rows = max(1, round(budget * 1e9 / counter.flops)), little_world(), []
    seen = features(pictures)
    marks = {round(steps * i / LOOKS[study]) for i in range(1, LOOKS[study] + 1)}
    training = begin_run(study, model, seed, steps)
    seconds, begun = 0.0, time.process_time()
    for progress in tqdm(training, f"{study}, {model}, seed {seed}", steps, mininterval=5, leave=False):
        if progress.step in marks:
            seconds += time.process_time() - begun
            samples = samples_of(progress.ema, study, DRAWN[study])
            look = model, seed, progress.step, progress.step * counter.flops / 1e9, seconds
            if study == "plane":
                modes, good, counts = gan.score_grid(samples)
                rows.append(ROWS[study](*look, modes, good, " ".join(map(str, counts.tolist()))))
            else:
                rows.append(ROWS[study](*look, **score_worlds(samples, pictures, seen)))
            begun = time.process_time()    # looking is not counted
    if study == "worlds":
        contact(samples[:24], out / f"worlds-{MODELS[study].index(model)}-{seed}.png")
    return rows


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--studies", nargs="+", default=list(BUDGET), choices=list(BUDGET), help="the data to train on")
    parser.add_argument("--share", type=float, default=1.0, help="of the budget, for a trial")
    parser.add_argument("--out", type=new_folder, default=FOLDER, help="folder for tables and samples")


def run(args: Namespace) -> None:
    """Train every model with every seed, as far as it is not recorded in `args.out`."""
    expect(args.share > 0, "--share", args.share, "a number above 0")
    args.out.mkdir(parents=True, exist_ok=True)
    for study in args.studies:
        table = args.out / f"{study}.csv"
        kept = read_table(table, ROWS[study]) if table.exists() else []
        for seed, model in itertools.product(range(SEEDS), MODELS[study]):
            if (model, seed) not in [row[:2] for row in kept]:
                kept += run_once(study, model, seed, args.share * BUDGET[study], args.out)
                write_table(table, kept)
                print_row(kept[-1])
