"""What differs between a laptop and a GPU."""
from __future__ import annotations

from dataclasses import dataclass

from ..training import TrainConfig


@dataclass(frozen=True)
class Profile:
    """What differs between a laptop and a GPU: `scenes` rendered once, `batch` of them a step."""

    train: TrainConfig
    batch: int
    scenes: int
