"""How each shipped network is trained: one configuration a stage, for two CPU cores and for one GPU."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Generator, nn

from ..training import LossFn, TrainConfig

Recipe = tuple[nn.Module, LossFn, Callable[[nn.Module], Path]]    # a model, its loss, and what saves it to a folder


@dataclass(frozen=True)
class Profile:
    """How one network is trained: for how long, and on how many scenes."""

    train: TrainConfig
    batch: int              # scenes a step
    scenes: int             # painted once, before the first step
    minutes: float = 1.0    # that it took where it was measured; only the time left is reckoned from them


def step_of(generator: Generator) -> int:
    """Find the number of the step, from 0 on, that `train` made this generator for."""
    return generator.initial_seed() % 2**32


def _profile(steps: int, lr: float, batch: int, scenes: int, minutes: float, **more) -> Profile:
    return Profile(TrainConfig(steps, lr, muon=True, **more), batch, scenes, minutes)


# In the order of training. Muon needs half of AdamW's steps or fewer; lr: the largest of two or three that was stable.
PROFILES = {
    "cpu": {
        "oracle": _profile(4000, 1e-3, batch=64, scenes=100_000, minutes=15),     # many scenes: it judges
        "segmenter": _profile(1500, 2e-3, batch=16, scenes=10_000, minutes=5),
        "features": _profile(1500, 1e-3, batch=32, scenes=10_000, minutes=5),
        "vae": _profile(15_000, 1.5e-3, batch=8, scenes=60_000, minutes=120),      # small batches: more steps an hour
        "clip": _profile(3000, 1e-3, batch=128, scenes=30_000, minutes=30, weight_decay=0.05),
        "ldm": _profile(20_000, 2e-3, batch=64, scenes=100_000, minutes=270)},
    "gpu": {
        "oracle": _profile(4000, 1e-3, batch=256, scenes=200_000, minutes=1, precision="bfloat16"),
        "segmenter": _profile(2000, 2e-3, batch=64, scenes=50_000, minutes=1, precision="bfloat16"),
        "features": _profile(2000, 1e-3, batch=128, scenes=50_000, minutes=1, precision="bfloat16"),
        "vae": _profile(8000, 2e-3, batch=64, scenes=200_000, minutes=3, precision="bfloat16"),
        "clip": _profile(3000, 1e-3, batch=512, scenes=100_000, minutes=1, weight_decay=0.05, precision="bfloat16"),
        "ldm": _profile(8000, 2e-3, batch=512, scenes=200_000, minutes=3, precision="bfloat16")}}
