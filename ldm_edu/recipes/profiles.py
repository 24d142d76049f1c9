"""How each shipped network is trained: one configuration a stage, for two CPU cores and for one GPU."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Generator, Tensor, nn

from ..tiny_worlds.datasets import render
from ..training import LossFn, TrainConfig

Recipe = tuple[nn.Module, LossFn, Callable[[nn.Module], Path]]    # a model, its loss, and what saves it to a folder


@dataclass(frozen=True)
class Profile:
    """How one network is trained: for how long, and on how many scenes."""

    train: TrainConfig
    batch: int              # scenes a step
    scenes: int             # painted once, before the first step
    minutes: float = 1.0    # expected duration; the progress bar computes the time left of all stages from it


_painted: list[Tensor] = []    # images and maps


def training_scenes(count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` scenes as `render` does; they are painted once for all stages that need no more."""
    if not _painted or len(_painted[0]) < count:
        _painted[:] = render("train", count)
    images, maps = _painted
    return images[:count], maps[:count]


def step_of(generator: Generator) -> int:
    """Find the number of the step, from 0 on, that `train` made this generator for."""
    return generator.initial_seed() % 2**32


def _profile(steps: int, lr: float, batch: int, scenes: int, minutes: float, muon: bool = True, **more) -> Profile:
    return Profile(TrainConfig(steps, lr, muon=muon, **more), batch, scenes, minutes)


_gpu = partial(_profile, precision="bfloat16", recorded=True, save_every=1000)


# In the order of training. What holds for all stages:
# - Muon: in trials at equal steps it was far ahead of AdamW on the autoencoder, and well ahead on the U-Net; the thin
#   matrices of few_steps' LoRA learned faster with AdamW.
# - lr: between 2e-3 and 4e-3 the U-Net learned alike; the smaller networks take less, as with AdamW.
# - Small batches on a CPU, where a step takes as long as its batch is large; on a GPU large ones, which fill it.
# - bfloat16 and recorded steps on a GPU alone: CPUs without AMX only emulate the one, and cannot do the other.
# - The gpu profile has made the shipped weights, on an H200 that was lent for ten minutes; the steps of its two long
#   stages are those that fitted in. The minutes of the cpu profile are reckoned from trials on an EPYC.
PROFILES = {
    "cpu": {
        "oracle": _profile(4000, 1e-3, batch=64, scenes=100_000, minutes=20),     # it judges: so many scenes
        "segmenter": _profile(1500, 2e-3, batch=16, scenes=10_000, minutes=5),
        "features": _profile(1500, 1e-3, batch=32, scenes=10_000, minutes=10),    # its loss is flat by then
        "vae": _profile(30_000, 1.5e-3, batch=8, scenes=60_000, minutes=160),     # what it blurs, the U-Net never sees
        "clip": _profile(3000, 1e-3, batch=128, scenes=30_000, minutes=30,        # large: others are the negatives
                         weight_decay=0.05),
        "ldm": _profile(14_000, 2e-3, batch=64, scenes=100_000, minutes=215),     # what is left of eight hours
        "dit": _profile(5000, 4e-3, batch=64, scenes=30_000, minutes=55),
        # A pair of noise and picture teaches more than a scene, since nothing is left to chance; 6000 take 40 minutes.
        "few_steps": _profile(1800, 2e-3, batch=64, scenes=6000, minutes=70, muon=False)},
    "gpu": {
        "oracle": _gpu(2000, 1e-3, batch=256, scenes=60_000, minutes=0.7),
        "segmenter": _gpu(800, 2e-3, batch=64, scenes=20_000, minutes=0.2),
        "features": _gpu(1000, 1e-3, batch=128, scenes=20_000, minutes=0.2),
        "vae": _gpu(10_200, 2e-3, batch=64, scenes=100_000, minutes=3),
        "clip": _gpu(2000, 1e-3, batch=512, scenes=20_000, minutes=0.5, weight_decay=0.05),
        "ldm": _gpu(6700, 2e-3, batch=512, scenes=100_000, minutes=3.7),
        "dit": _gpu(6000, 3e-3, batch=512, scenes=60_000, minutes=1.2),
        "few_steps": _gpu(2000, 2e-3, batch=256, scenes=20_480, minutes=1.2, muon=False)}}
