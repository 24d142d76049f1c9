"""How each shipped network is trained: one configuration a stage, for two CPU cores and for one GPU."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..training import LossFn, TrainConfig

Recipe = tuple[nn.Module, LossFn, Callable[[nn.Module], Path]]    # a model, its loss, and what saves it to a folder


@dataclass(frozen=True)
class Profile:
    """How one network is trained: for how long, and on how many scenes."""

    train: TrainConfig
    batch: int              # scenes a step
    scenes: int             # painted once, before the first step
    minutes: float = 1.0    # that it took where it was measured; only the time left is reckoned from them


def _cpu(steps: int, lr: float, batch: int, scenes: int, minutes: float, **more) -> Profile:
    return Profile(TrainConfig(steps, lr, **more), batch, scenes, minutes)


def _gpu(steps: int, lr: float, batch: int, scenes: int, minutes: float, **more) -> Profile:
    return Profile(TrainConfig(steps, lr, precision="bfloat16", **more), batch, scenes, minutes)


PROFILES = {    # in the order of training
    "cpu": {
        "oracle": _cpu(8000, 1e-3, 64, 100_000, 30),
        "segmenter": _cpu(2000, 2e-3, 16, 10_000, 5),
        "features": _cpu(1500, 1e-3, 32, 10_000, 5),
        "vae": _cpu(8000, 7e-4, 8, 30_000, 60),
        "clip": _cpu(4000, 1e-3, 128, 30_000, 40, weight_decay=0.05),
        "ldm": _cpu(12_000, 8e-4, 64, 100_000, 240)},
    "gpu": {
        "oracle": _gpu(6000, 1e-3, 256, 200_000, 1),
        "segmenter": _gpu(3000, 2e-3, 64, 50_000, 1),
        "features": _gpu(3000, 1e-3, 128, 50_000, 1),
        "vae": _gpu(10_000, 1e-3, 64, 200_000, 2),
        "clip": _gpu(4000, 1e-3, 512, 100_000, 1, weight_decay=0.05),
        "ldm": _gpu(8000, 1e-3, 512, 200_000, 3)}}
