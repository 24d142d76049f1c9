"""Train the oracle, the classifier that reads a scene's attributes."""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..metrics.oracle import NOTHING, Oracle, labels
from ..tiny_worlds.datasets import render, seeds_of, to_float
from ..tiny_worlds.scenes import make_scene
from ..training import pick_batch
from .profile import Profile, Recipe


def blur_and_noise(images: Tensor, generator: Generator) -> Tensor:
    """Blur half of the batch and add a little noise, as a decoder might."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=images.shape[2:], mode="bilinear")
    amount = torch.rand(len(images), 1, 1, 1, generator=generator).mul(2).sub(1).clamp(min=0).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return images.lerp(blurred, amount) + 0.04 * noise


def oracle_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train the oracle on renders alone, never on what a model drew."""
    images, _ = render("train", profile.scenes)
    answers = torch.stack([labels(make_scene(seed)) for seed in seeds_of("train", profile.scenes)])

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        logits = model(blur_and_noise(to_float(images[pick].to(device)), generator))
        target = answers[pick].to(device)
        asked = [i for i in range(target.shape[1]) if (target[:, i] != NOTHING).any()]
        return {"cross_entropy": sum(F.cross_entropy(logits[i], target[:, i], ignore_index=NOTHING) for i in asked)}

    path = out / "model.safetensors"
    return Oracle.load(path) if warm else Oracle(), loss_fn, lambda model: model.save(path)
