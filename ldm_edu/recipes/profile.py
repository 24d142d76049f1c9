"""What every recipe is given and what it returns."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..training import LossFn, TrainConfig

Recipe = tuple[nn.Module, LossFn, Callable[[nn.Module], None]]    # a model, its loss, how to save the averaged model


@dataclass(frozen=True)
class Profile:
    """How one network is trained: for how long, and on how many scenes."""

    train: TrainConfig
    batch: int     # scenes a step
    scenes: int    # rendered once, before the first step
