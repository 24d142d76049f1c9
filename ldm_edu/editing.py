"""Starting from a picture instead of from noise: image to image, inpainting, inversion.

`image_to_image` and `inpaint` are methods of `LatentDiffusion`: their `self` is one.
"""
from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .samplers import SAMPLERS, EpsFn, Step, alpha_bar_at, sampler_levels, start_from
from .schedule import Schedule
from .support.checks import check_request, expect
from .support.pictures import Picture, to_masks, to_pictures


@torch.no_grad()
def image_to_image(self, prompt: str | list[str], image: Picture | list[Picture], strength: float = 0.6,
                   steps: int = 30, guidance_scale: float | None = None, seed: int = 0,
                   negative_prompt: str | list[str] = "", sampler: str | None = None,
                   spacing: str | None = None) -> Tensor:
    """Noise pictures part of the way, then denoise them as prompts say: (B, 3, H, W) in [-1, 1]. SDEdit, 2108.01073.

    image: one, or one for each prompt, whatever `to_pictures` takes. strength: the share of the steps that are done,
    from 0 (the autoencoder's copy) to 1 (almost nothing of the picture is left). Rest as in `text_to_image`.
    """
    sampler, levels = begin(self, sampler, spacing, steps, seed, guidance_scale, strength)
    eps, context = self.predictor(prompt, guidance_scale, negative_prompt)
    z_0, noise, generator = encode_pictures(self, image, context, seed)
    z = start_from(z_0, noise, self.schedule, levels)
    return self.draw(SAMPLERS[sampler](eps, z, self.schedule, levels, generator=generator), z)


@torch.no_grad()
def inpaint(self, prompt: str | list[str], image: Picture | list[Picture], mask: Picture, strength: float = 1.0,
            steps: int = 30, guidance_scale: float | None = None, seed: int = 0, negative_prompt: str | list[str] = "",
            sampler: str | None = None, rounds: int = 1, spacing: str | None = None) -> Tensor:
    """Paint anew where `mask` is 1, by a prompt; keep the picture elsewhere. (B, 3, H, W) in [-1, 1].

    mask: see `to_masks`; a latent pixel is painted if the mask is 1 at its upper left corner. strength: below 1 the
    masked part starts from the picture, too. rounds: repeat each step so many times (RePaint). Rest as above.
    """
    sampler, levels = begin(self, sampler, spacing, steps, seed, guidance_scale, strength, rounds)
    eps, context = self.predictor(prompt, guidance_scale, negative_prompt)
    z_0, noise, generator = encode_pictures(self, image, context, seed)
    factor = self.autoencoder.factor
    mask = to_masks(mask, *(side * factor for side in z_0.shape[2:]), multiple=factor)
    expect(len(mask) in (1, len(context)), "mask", f"{len(mask)} masks", f"1 or one a prompt, {len(context)}")
    mask = F.interpolate(mask, z_0.shape[2:], mode="nearest").to(z_0)
    z = noise
    if strength < 1 or sampler == "euler" and levels[0] == self.schedule.T - 1:
        z = start_from(z_0 if strength < 1 else 0.0, noise, self.schedule, levels)
    return self.draw(blended(eps, z, z_0, noise, mask, self.schedule, sampler, levels, rounds, generator), z)


def blended(eps: EpsFn, z: Tensor, z_0: Tensor, noise: Tensor, mask: Tensor, schedule: Schedule, sampler: str,
            levels: Tensor, rounds: int, generator: torch.Generator) -> Iterator[Step]:
    """A sampler's steps; after each, the latent outside of `mask` becomes z_0, noised as far (arXiv:2206.02779).

    rounds: repeat each step, noised back in between, so that both parts agree: RePaint, arXiv:2201.09865, algorithm 1.
    """
    for k in range(len(levels)):
        kept = start_from(z_0, noise, schedule, levels[k + 1:])    # where step k leads; at the end clean
        for again in reversed(range(rounds if k + 1 < len(levels) else 1)):
            if k == 0 or again < rounds - 1:    # else the sampler goes on, with what it remembers
                run = SAMPLERS[sampler](eps, z, schedule, levels[k:], generator=generator)
            step = next(run)
            step.x = z = mask * step.x + (1 - mask) * kept
            yield step
            if again:
                z = renoised(z, schedule, levels[k], levels[k + 1], generator)


def renoised(x: Tensor, schedule: Schedule, t: Tensor, t_prev: Tensor, generator: torch.Generator) -> Tensor:
    """Noise x (B, ...) from level t_prev back to the noisier level t: DDPM eq. 2 over both."""
    alpha = alpha_bar_at(schedule, t) / alpha_bar_at(schedule, t_prev)
    return alpha.sqrt() * x + (1 - alpha).sqrt() * torch.randn(x.shape, generator=generator).to(x)


@torch.no_grad()
def ddim_invert(eps: EpsFn, x_0: Tensor, schedule: Schedule, levels: Tensor) -> Iterator[Step]:
    """DDIM backwards, from data x_0 (B, ...) to the noise that `ddim` would make it from (2010.02502, section 4.3).

    Each step evaluates eps at the target level but the current x, so inversion is approximate. t rises.
    """
    x, below = x_0, schedule.alpha_bar[0]
    for t in levels.flip(0):
        alpha_bar = schedule.alpha_bar[t]
        e = eps(x, t.to(x.device))
        x0 = (x - (1 - below).sqrt() * e) / below.sqrt()
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * e
        yield (step := Step(int(t), x, x0, e))
        x, below = step.x, alpha_bar


def begin(ldm, sampler: str | None, spacing: str | None, steps: int, seed: int, guidance_scale: float | None,
          strength: float = 1.0, rounds: int = 1) -> tuple[str, Tensor]:
    """Check a request; return its sampler and the levels that `strength` leaves: the last int(steps * strength)."""
    sampler = sampler or ldm.sampler
    if spacing is None and sampler == ldm.sampler:
        spacing = "trailing" if ldm.distilled else ldm.spacing
    check_request(sampler, SAMPLERS, steps, ldm.schedule.T, seed, guidance_scale, strength, rounds)
    return sampler, sampler_levels(sampler, steps, ldm.schedule.T, spacing)[steps - int(steps * strength):]


def encode_pictures(ldm, image: Picture | list[Picture], context: Tensor,
                    seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Latents of the pictures, noise of their shape (B, 4, h, w), and the generator that drew both; B of `context`."""
    images = to_pictures(image, ldm.autoencoder.factor, shorter=ldm.unet.config.sample_size * ldm.autoencoder.factor)
    expect(len(images) in (1, len(context)), "image", f"{len(images)} pictures", f"1 or one a prompt, {len(context)}")
    generator = torch.Generator().manual_seed(int(seed))
    z_0 = ldm.autoencoder.to_latent(images.to(context), generator).expand(len(context), -1, -1, -1)
    return z_0, torch.randn(z_0.shape, generator=generator).to(z_0), generator
