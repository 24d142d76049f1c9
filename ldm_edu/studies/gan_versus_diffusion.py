"""GAN against diffusion: the same data, the same training compute, several seeds.

`python -m ldm_edu.gan_study [--threads 1] [--out DIR]` trains them all and keeps figures and samples in data/gan.
It may be killed: what is there is not done again. About 15 minutes on a core.
"""
from __future__ import annotations

import argparse
import csv
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm.auto import tqdm

from .. import DATA
from ..losses import l_simple
from ..metrics.distances import coverage, features, frechet_distance, precision_recall
from ..recipes.pixel_unet import SmallUNet, little_world, pixel_recipe
from ..samplers import ddim
from ..schedule import cosine_schedule
from ..support.files import replacing
from ..training import TrainConfig, pick_batch, train
from .gan import (
    GanConfig,
    LittleJudge,
    LittleMaker,
    PlaneDenoiser,
    PlaneJudge,
    PlaneMaker,
    draw_grid,
    score_grid,
    train_gan,
)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `recipes`
os.environ.setdefault("GOMP_SPINCOUNT", "0")
FOLDER = DATA / "gan"
MODELS = {"plane": ("GAN", "GAN, no penalty", "GAN, sharp judge", "GAN, sharp, no penalty", "diffusion"),
          "worlds": ("GAN", "GAN, no penalty", "diffusion")}
SEEDS = 5                                       # of each model
BUDGET = {"plane": 400.0, "worlds": 1800.0}     # GFLOP of a run's training, forward and backward
LOOKS = {"plane": 10, "worlds": 3}              # at its samples, evenly spaced
DRAWN = {"plane": 2500, "worlds": 240}          # samples at each look
PENALTY = {"GAN": 0.02, "GAN, sharp judge": 0.4}    # of R1 in the plane, the best of a few each; 0 for the others


class Look(NamedTuple):
    """A run looked at: how far it is, and what it draws then."""

    step: int
    gflop: float
    seconds: float    # of the CPU
    samples: Tensor


def begin_run(study: str, model: str, seed: int, steps: int) -> Iterator:
    """A run of `steps` steps, not begun. Yields what `train` or `train_gan` yields.

    study: "plane" or "worlds"; model: one of its MODELS. A "sharp" judge sees the waves that the denoiser sees. Raises
    ValueError for other names.
    """
    if model not in MODELS.get(study, ()):
        raise ValueError(f"study, model: got {study!r} and {model!r}, expected one of {MODELS}")
    torch.manual_seed(seed)
    schedule = cosine_schedule()
    if study == "plane":
        if model == "diffusion":
            def loss_fn(net: nn.Module, generator: Generator) -> dict[str, Tensor]:
                return {"eps": l_simple(net, draw_grid(256, generator), schedule, generator)}

            plan = TrainConfig(steps, lr=3e-3, warmup=20, cooldown=0.3, ema=0.995, seed=seed)
            return train(PlaneDenoiser(schedule), loss_fn, plan)
        plan = GanConfig(steps, batch=128, r1=PENALTY.get(model, 0.0), seed=seed)
        return train_gan(PlaneMaker(), PlaneJudge(waves="sharp" in model), draw_grid, plan)
    if model == "diffusion":
        _, loss_fn, _ = pixel_recipe()
        return train(SmallUNet(schedule), loss_fn, TrainConfig(steps, lr=4e-3, warmup=20, ema=0.995, seed=seed))
    pictures = little_world()

    def real(count: int, generator: Generator) -> Tensor:
        return pictures[pick_batch(len(pictures), count, generator)]

    plan = GanConfig(steps, batch=16, lr=3e-3, r1=0.1 * (model == "GAN"), seed=seed)
    return train_gan(LittleMaker(), LittleJudge(), real, plan)


class Operations(TorchDispatchMode):
    """Counts multiplications and additions in matrices and convolutions, of gradients of gradients as well.

    (torch's own FlopCounterMode stops at `torch.autograd.grad`.)
    """

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def cost_of_step(study: str, model: str) -> float:
    """GFLOP of one training step, forward and backward, of all networks that it trains."""
    with Operations() as counter:
        next(begin_run(study, model, 0, 1))
    return counter.flops / 1e9


@torch.no_grad()
def samples_of(net: nn.Module, study: str, count: int, steps: int = 25) -> Tensor:
    """`count` samples of a maker or, in `steps` DDIM steps, of a denoiser: always from the same noise."""
    generator = Generator().manual_seed(9)
    if hasattr(net, "noise"):
        return net(torch.randn(count, net.noise, generator=generator))
    shape = (count, 2) if study == "plane" else (count, 3, 16, 16)
    *_, last = ddim(net, torch.randn(shape, generator=generator), cosine_schedule(), steps, spacing="trailing")
    return last.x if study == "plane" else last.x.clamp(-1, 1)


def watched_run(study: str, model: str, seed: int, budget: float | None = None,
                count: int | None = None) -> Iterator[Look]:
    """Train for `budget` GFLOP and look LOOKS times at `count` samples, which costs time that is not counted."""
    cost = cost_of_step(study, model)
    steps = max(1, round((budget or BUDGET[study]) / cost))
    marks = {round(steps * i / LOOKS[study]) for i in range(1, LOOKS[study] + 1)}
    seconds, begun = 0.0, time.process_time()
    for progress in tqdm(begin_run(study, model, seed, steps), f"{study}, {model}, seed {seed}", total=steps,
                         mininterval=5, leave=False):
        if progress.step in marks:
            seconds += time.process_time() - begun
            samples = samples_of(progress.ema, study, count or DRAWN[study])
            yield Look(progress.step, progress.step * cost, seconds, samples)
            begun = time.process_time()


def judge_worlds(samples: Tensor, pictures: Tensor, seen: Tensor) -> dict[str, float]:
    """Figures of samples (N, 3, 16, 16) against the world's pictures (M, 3, 16, 16) with their `features` (M, 96).

    covered: share of the pictures that are the nearest to a sample, and that no further than 0.2 (root mean square over
    pixels in [-1, 1]); good: share of the samples that are so near to one.
    """
    apart = torch.cdist(samples.flatten(1), pictures.flatten(1)) / pictures[0].numel() ** 0.5
    distance, nearest = apart.min(1)
    found = features(samples)
    return {"covered": len(nearest[distance < 0.2].unique()) / len(pictures),
            "good": (distance < 0.2).float().mean().item(), "frechet": frechet_distance(seen, found),
            **precision_recall(seen, found)._asdict(), "coverage": coverage(seen, found)}


def contact(samples: Tensor, path: Path) -> None:
    """Keep pictures (N, 3, H, W) side by side as a PNG."""
    pixels = (samples.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(2, 0, 3, 1).flatten(1, 2)
    Image.fromarray(pixels.numpy()).save(path)


def load_contact(path: Path, side: int = 16) -> Tensor:
    """The pictures that `contact` has kept: (N, 3, side, side) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(Image.open(path))).unflatten(1, (-1, side))        # (H, N, side, 3)
    return pixels.permute(1, 3, 0, 2) / 127.5 - 1


def load_rows(study: str, folder: Path = FOLDER) -> list[dict]:
    """The rows that the command has kept of a study: numbers as such, `counts` as a list."""
    with open(folder / f"{study}.csv", newline="") as file:
        return [{name: value if name == "model" else [int(n) for n in value.split()] if name == "counts"
                 else float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.gan_study", description=__doc__)
    parser.add_argument("--studies", nargs="+", default=list(BUDGET), choices=list(BUDGET))
    parser.add_argument("--share", type=float, default=1.0, help="of the budget, for a trial")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for study in args.studies:
        kept = load_rows(study, args.out) if (args.out / f"{study}.csv").exists() else []
        for seed, model in itertools.product(range(SEEDS), MODELS[study]):
            if not any(row["model"] == model and row["seed"] == seed for row in kept):
                kept += run_once(study, model, seed, args.share * BUDGET[study], args.out)
                write_rows(kept, args.out / f"{study}.csv")


def run_once(study: str, model: str, seed: int, budget: float, out: Path) -> list[dict]:
    """The rows of one run; its last samples of "worlds" are kept as a picture."""
    rows, pictures = [], little_world()
    seen = features(pictures)
    for look in watched_run(study, model, seed, budget):
        row = {"model": model, "seed": seed, "step": look.step, "gflop": round(look.gflop, 1),
               "seconds": round(look.seconds, 1)}
        if study == "plane":
            score = score_grid(look.samples)
            row |= {"modes": score.modes, "good": round(score.good, 4), "counts": score.counts.tolist()}
        else:
            row |= {name: round(value, 4) for name, value in judge_worlds(look.samples, pictures, seen).items()}
        rows.append(row)
    if study == "worlds":
        contact(look.samples[:24], out / f"worlds-{MODELS[study].index(model)}-{seed}.png")
    print(" | ".join(f"{name} {value}" for name, value in rows[-1].items() if name != "counts"), flush=True)
    return rows


def write_rows(rows: list[dict], path: Path) -> None:
    """Keep rows as `load_rows` reads them."""
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({name: _written(value) for name, value in row.items()} for row in rows)


def _written(value: str | float | list[int]) -> str | float:
    """`value` for a cell: a whole number without point, so that rows read and written again are what they were."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
