"""Train the segmenter, which reads semantic maps."""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..metrics.segmenter import Segmenter
from ..support.files import save_weights
from ..tiny_worlds.datasets import render, to_float
from ..training import pick_batch
from .profile import Profile, Recipe
from .train_oracle import blur_and_noise


def segmenter_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train the segmenter on renders alone, never on what a model drew."""
    images, maps = render("train", profile.scenes)

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        logits = model(blur_and_noise(to_float(images[pick].to(device)), generator))
        return {"cross_entropy": F.cross_entropy(logits, maps[pick].long().to(device))}

    path = out / "model.safetensors"
    return Segmenter.load(path) if warm else Segmenter(), loss_fn, lambda model: save_weights(model, path)
