"""Train a LoRA on a few pictures and their prompts."""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from ..lora import add_lora
from ..losses import loss_weights, noise_loss
from ..pipeline import LatentDiffusion
from ..support.checks import expect
from ..training import Progress, TrainConfig, pick_batch, train


def train_lora(ldm: LatentDiffusion, images: Tensor, prompts: list[str], config: TrainConfig, rank: int = 4,
               batch: int = 8) -> Iterator[Progress]:
    """Add a LoRA to a model's U-Net and teach it what pictures show and their prompts say; yield like `train`.

    images: (B, 3, H, W) in [-1, 1], with one prompt each; one prompt in ten is dropped.
    """
    expect(len(images) == len(prompts) > 0, "prompts", f"{len(images)} images and {len(prompts)} prompts", "as many")
    with torch.no_grad():
        latents, contexts, empty = ldm.autoencoder.to_latent(images), ldm.text(prompts), ldm.text([""])
    weight = loss_weights(ldm.schedule).to(latents)
    add_lora(ldm.unet, rank)

    def loss_fn(unet: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), batch, generator)
        dropped = torch.rand(batch, generator=generator, device=latents.device) < 0.1
        context = torch.where(dropped[:, None, None], empty, contexts[pick])
        return {"loss": noise_loss(unet, latents[pick], context, ldm.schedule, weight, generator)}

    yield from train(ldm.unet, loss_fn, config)
