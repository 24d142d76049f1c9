"""The losses of diffusion and of CLIP, weights over t, how t is drawn. LPIPS and the adversarial ones: `perceptual`."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .schedule import Schedule


def l_simple(model: nn.Module, x0: Tensor, schedule: Schedule, generator: Generator) -> Tensor:
    """L_simple: mean squared error of the noise predicted in x0 (B, ...) at random t. Ho et al. 2020, eq. 14."""
    t = torch.randint(schedule.T, (len(x0),), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    return F.mse_loss(model(schedule.add_noise(x0, eps, t), t), eps)


def latent_loss(model: nn.Module, z_0: Tensor, context: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """|eps - eps_theta(z_t, t, tau(y))|² of each latent, averaged over its numbers: (B,). Rombach et al. 2021, eq. 3.

    z_0: scaled latents (B, 4, h, w); context: tau(y), (B, N, D); t: (B,); eps: like z_0, standard normal.
    """
    z_t = schedule.add_noise(z_0, eps, t)
    return (model(z_t, t, context) - eps).square().mean((1, 2, 3))


def loss_weights(schedule: Schedule, most: float = 30.0) -> Tensor:
    """Loss weights over t: 1 / alpha_bar, at most `most`, scaled to a mean of 1. (T,)

    An error in eps is 1 / sqrt(alpha_bar) as large in v: this is the loss of v-prediction (arXiv:2202.00512), cut off.
    It gives more weight to large t, where the layout of a picture is settled.
    """
    weight = (1 / schedule.alpha_bar).clamp(max=most)
    return weight / weight.mean()


def stratified(count: int, T: int, generator: Generator) -> Tensor:
    """Draw `count` timesteps, one from each of as many equal parts of 0 ... T - 1, in random order: (count,)."""
    parts = torch.randperm(count, generator=generator, device=generator.device)
    t = ((parts + torch.rand(count, generator=generator, device=generator.device)) / count * T).long()
    return t.clamp(max=T - 1)    # float32 may round the last one up to T


def noise_loss(model: nn.Module, z_0: Tensor, context: Tensor, schedule: Schedule, weight: Tensor,
               generator: Generator) -> Tensor:
    """What a step of training minimises: `latent_loss` of each latent at a t of its own, times weight[t], averaged: ().

    z_0, context: as in `latent_loss`; weight: (T,); generator: on their device.
    """
    t = stratified(len(z_0), schedule.T, generator)
    eps = torch.randn(z_0.shape, generator=generator, device=z_0.device)
    return (weight[t] * latent_loss(model, z_0, context, t, eps, schedule)).mean()


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Cross-entropy of matching B texts to B images and B images to B texts. Radford et al. 2021, figure 3.

    images, texts: unit vectors (B, D), pair by pair; logit_scale: () -> ().
    """
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T                          # (B, B)
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
