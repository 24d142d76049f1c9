"""Beginning from a picture instead of from noise: image-to-image, inpainting, inversion.

Chapter 08. `image_to_image` and `inpaint` are methods of `LatentDiffusion`: their `self` is one.
"""
from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor

from .pictures import Picture, to_masks, to_pictures
from .samplers import SAMPLERS, EpsFn, Step, alpha_bar_at, check_request, first_x, last_x, visited
from .schedule import Schedule


@torch.no_grad()
def image_to_image(self, prompt: str | list[str], image: Picture | list[Picture], strength: float = 0.6,
                   steps: int = 30, guidance: float = 4.0, seed: int = 0, negative_prompt: str | list[str] = "",
                   sampler: str | None = None) -> Tensor:
    """Repaint pictures as prompts say: noise them part of the way, then remove the noise. (B, 3, H, W) in [-1, 1].

    SDEdit, Meng et al. 2021 (arXiv:2108.01073). image: one for all prompts or one for each, what `to_pictures` takes;
    all but tensors are scaled until the shorter side is the size of training. strength: the share of the steps that
    are done, int(steps * strength) of them, from 0, which gives the autoencoder's copy, to 1, where the picture hardly
    matters. Rest as in `text_to_image`. The same as diffusers' StableDiffusionImg2ImgPipeline from the same weights,
    scheduler and seed: the draws are the posterior's, then the noise. Raises ValueError for a strength outside 0 ... 1
    and as `text_to_image` and `to_pictures` do.
    """
    sampler = check_request(sampler or self.sampler, steps, self.schedule.T, seed)
    start = first_step(strength, steps)
    eps, context = self.predictor(prompt, guidance, negative_prompt)
    z_0, noise, generator = _begun(self, image, context, seed)
    z = first_x(sampler, noise, self.schedule, steps, start, z_0)
    run = SAMPLERS[sampler](eps, z, self.schedule, steps, start=start, generator=generator)
    return self.decode(last_x(run, z))


@torch.no_grad()
def inpaint(self, prompt: str | list[str], image: Picture | list[Picture], mask: Picture, strength: float = 1.0,
            steps: int = 30, guidance: float = 4.0, seed: int = 0, negative_prompt: str | list[str] = "",
            sampler: str | None = None, rounds: int = 1) -> Tensor:
    """Paint anew where `mask` is 1, by a prompt; elsewhere keep the picture, as the autoencoder copies it.

    After each step the latent outside of the mask is replaced by the picture's, noised as far: blended latent
    diffusion, Avrahami et al. 2022 (arXiv:2206.02779). rounds: do each step so many times, noised back in between, so
    that both parts can agree: RePaint, Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1. mask: see `to_masks`; a
    latent pixel is painted if the mask is 1 at its upper left corner. strength: below 1 the masked part, too, begins
    from the picture. Rest as in `image_to_image`. With one round the same as diffusers' StableDiffusionInpaintPipeline
    with a U-Net of 4 channels. Returns (B, 3, H, W) in [-1, 1]. Raises ValueError for `rounds` under 1 and as
    `image_to_image` and `to_masks` do.
    """
    sampler = check_request(sampler or self.sampler, steps, self.schedule.T, seed)
    if isinstance(rounds, bool) or not isinstance(rounds, Integral) or rounds < 1:
        raise ValueError(f"rounds: got {rounds!r}, expected a positive integer")
    start = first_step(strength, steps)
    eps, context = self.predictor(prompt, guidance, negative_prompt)
    z_0, noise, generator = _begun(self, image, context, seed)
    mask = to_masks(mask, *(side * self.autoencoder.factor for side in z_0.shape[2:]))
    if len(mask) not in (1, len(context)):
        raise ValueError(f"mask: got {len(mask)} masks, expected 1 or as many as prompts, {len(context)}")
    mask = F.interpolate(mask, z_0.shape[2:], mode="nearest").to(z_0)
    z = first_x(sampler, noise, self.schedule, steps, start, z_0 if strength < 1 else None)
    for k in range(start, steps):
        kept = first_x(sampler, noise, self.schedule, steps, k + 1, z_0)    # where step k leads; at the end clean
        for again in reversed(range(rounds if k + 1 < steps else 1)):
            if k == start or again < rounds - 1:    # else the sampler goes on, with what it remembers
                run = SAMPLERS[sampler](eps, z, self.schedule, steps, start=k, generator=generator)
            step = next(run)
            step.x = z = mask * step.x + (1 - mask) * kept
            if again:
                z = renoised(z, sampler, self.schedule, steps, k, generator)
    return self.decode(z)


def first_step(strength: float, steps: int) -> int:
    """How many of `steps` a strength from 0 to 1 leaves out: steps - int(steps * strength), as diffusers counts.

    Raises ValueError for another strength.
    """
    if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength!r}, expected a number from 0 (a copy) to 1 (nearly all new)")
    return steps - int(steps * strength)


def renoised(x: Tensor, sampler: str, schedule: Schedule, steps: int, k: int, generator: torch.Generator) -> Tensor:
    """x (B, ...) of the level that step `k` leads to, noised back to the one it came from: DDPM eq. 2 over both."""
    here, there = alpha_bar_at(schedule, visited(sampler, steps, schedule.T)[k:k + 2])
    alpha = here / there
    return alpha.sqrt() * x + (1 - alpha).sqrt() * torch.randn(x.shape, generator=generator).to(x)


@torch.no_grad()
def ddim_invert(eps: EpsFn, x_0: Tensor, schedule: Schedule, steps: int) -> Iterator[Step]:
    """DDIM run backwards: from data x_0 (B, ...) up to the noise from which `ddim` would have made it, nearly.

    Song et al. 2020 (arXiv:2010.02502), section 4.3. A step up asks for the noise at the level it goes to, in the x it
    comes from; the step down will ask in another x: the smaller the steps, the smaller the difference. Guidance makes
    it large, so invert without. Yields `steps` steps, t rising; x of the last is the noise. diffusers:
    DDIMInverseScheduler. Raises ValueError as `visited` does.
    """
    x, below = x_0, schedule.alpha_bar[0]
    for t in visited("ddim", steps, schedule.T).flip(0):
        alpha_bar = schedule.alpha_bar[t]
        e = eps(x, t.to(x.device))
        x0 = (x - (1 - below).sqrt() * e) / below.sqrt()
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * e
        yield (step := Step(int(t), x, x0, e))
        x, below = step.x, alpha_bar


def _begun(ldm, image: Picture | list[Picture], context: Tensor, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """(latents of the pictures, noise, both (B, 4, h, w), the generator that drew them), B as in `context`."""
    side = ldm.unet.config.sample_size * ldm.autoencoder.factor
    images = to_pictures(image, ldm.autoencoder.factor, shorter=side)
    if len(images) not in (1, len(context)):
        raise ValueError(f"image: got {len(images)} pictures, expected 1 or as many as prompts, {len(context)}")
    generator = torch.Generator().manual_seed(int(seed))
    z_0 = ldm.autoencoder.to_latent(images.to(context), generator).expand(len(context), -1, -1, -1)
    return z_0, torch.randn(z_0.shape, generator=generator).to(z_0), generator
