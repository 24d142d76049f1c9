"""Train the two networks that judge pictures: the oracle reads attributes, the segmenter semantic maps.

Both see renders alone, never what a model drew.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from ..metrics.oracle import NOTHING, Oracle, labels
from ..metrics.segmenter import Segmenter
from ..support.files import save_weights
from ..tiny_worlds.datasets import seeds_of, to_float
from ..tiny_worlds.scenes import make_scene
from ..training import pick_batch
from .profiles import Profile, Recipe, training_scenes


def blur_and_noise(images: Tensor, generator: Generator) -> Tensor:
    """Blur half of the batch and add a little noise, as a decoder might."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=images.shape[2:], mode="bilinear")
    amount = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device).mul(2).sub(1).clamp(min=0)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images.lerp(blurred, amount) + 0.04 * noise


def oracle_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train the oracle to tell the kind, colour and size in each slot, the sky, the ground and the weather."""
    images = training_scenes(profile.scenes)[0].to(device)
    seeds = tqdm(seeds_of("train", profile.scenes), "labels", leave=False)
    answers = torch.stack([labels(make_scene(seed)) for seed in seeds]).to(device)

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        logits = model(blur_and_noise(to_float(images[pick]), generator))
        right = answers[pick]
        wrong = torch.stack([F.cross_entropy(*pair, ignore_index=NOTHING, reduction="none")
                             for pair in zip(logits, right.unbind(1))], 1)                # (B, 21), 0 for NOTHING
        return {"cross_entropy": (wrong.sum(0) / (right != NOTHING).sum(0).clamp(min=1)).sum()}

    return Oracle(), loss_fn, lambda model: save_weights(model, root / "oracle/model.safetensors")


def segmenter_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train the segmenter to tell the class of each pixel."""
    images, maps = (part.to(device) for part in training_scenes(profile.scenes))

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        return {"cross_entropy": F.cross_entropy(model(blur_and_noise(to_float(images[pick]), generator)),
                                                 maps[pick].long())}

    return Segmenter(), loss_fn, lambda model: save_weights(model, root / "segmenter/model.safetensors")
