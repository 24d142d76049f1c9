"""Train the transformer of chapter 12: a DiT that learns the velocity of rectified flow, told by texts alone."""
from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ..clip import TextTransformer
from ..dit import DiT
from ..flow import flow_loss, logit_normal
from ..tokenizer import load_tokenizer
from ..training import pick_batch
from ..weights import load_autoencoder, load_text, save_module
from .profiles import Profile, Recipe, training_scenes
from .train_unet import CAPTIONS, drop_some, encode_and_caption


@cache
def latents_and_captions(folder: Path, scenes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """As `encode_and_caption`, with the autoencoder of a model's folder, on the device."""
    images = training_scenes(scenes)[0].to(device)
    return encode_and_caption(images, load_autoencoder(folder / "vae").eval(), load_tokenizer(folder / "tokenizer"))


def pick_pairs(latents: Tensor, ids: Tensor, text: TextTransformer, batch: int,
               generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw `batch` latents and the states of a caption of each, or of none, for guidance. `text` learns nothing."""
    pick = pick_batch(len(latents), batch, generator)
    which = 1 + CAPTIONS * pick + pick_batch(CAPTIONS, batch, generator)
    with torch.no_grad():
        return latents[pick], text(drop_some(ids, which, generator))


def flow_step(model: nn.Module, z_0: Tensor, context: Tensor, generator: Generator) -> Tensor:
    """What a step of training minimises: `flow_loss` of each latent at a time of its own, averaged: ()."""
    t = logit_normal(len(z_0), generator)
    eps = torch.randn(z_0.shape, generator=generator, device=z_0.device)
    return flow_loss(model, z_0, context, t, eps).mean()


def frozen_text(folder: Path, device: torch.device) -> TextTransformer:
    """Load the text transformer of a model's folder, which learns no more."""
    return load_text(folder / "text_encoder").requires_grad_(False).eval().to(device)


def dit_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train a DiT on the latents of `root`'s autoencoder and the text states of its second stage."""
    folder = root / "tiny-worlds"
    latents, ids = latents_and_captions(folder, profile.scenes, device)
    text = frozen_text(folder, device)

    def loss_fn(model: DiT, generator: Generator) -> dict[str, Tensor]:
        return {"velocity": flow_step(model, *pick_pairs(latents, ids, text, profile.batch, generator), generator)}

    def save(model: DiT) -> Path:
        save_module(model, saved := root / "dit", torch.float16)
        return saved

    return DiT(), loss_fn, save
