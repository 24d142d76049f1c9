"""All of it together: a prompt becomes a picture, and a folder in diffusers' layout becomes a model."""
from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .checkpoint import load_parts, save_parts
from .clip import ImageTransformer
from .conditioning import MapEncoder, TextEncoder, guided
from .editing import image_to_image, inpaint
from .samplers import SAMPLERS, EpsFn, Step, sampler_levels, start_from
from .schedule import Schedule
from .support.checks import check_guidance, check_map, check_request, check_size, check_texts
from .support.pictures import Picture, to_pictures
from .unet import UNet


class LatentDiffusion:
    """Latent diffusion with three conditions: Rombach et al. 2021 (arXiv:2112.10752), figure 3.

    image_encoder, map_encoder: of a model that was trained on such conditions; sampler, spacing: the default ones.
    """

    def __init__(self, unet: UNet, autoencoder: Autoencoder, text: TextEncoder, schedule: Schedule,
                 image_encoder: ImageTransformer | None = None, map_encoder: MapEncoder | None = None,
                 sampler: str = "ddim", spacing: str | None = None):
        self.unet, self.autoencoder, self.text, self.schedule = unet, autoencoder, text, schedule
        self.image_encoder, self.map_encoder, self.sampler, self.spacing = image_encoder, map_encoder, sampler, spacing

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, device: str | torch.device | None = None,
                        dtype: torch.dtype = torch.float32) -> LatentDiffusion:
        """Open a diffusers folder, "owner/name" on the hub, or a single safetensors file of Stable Diffusion v1.

        The weights become `dtype` on `device` (None: the CPU). Raises FileNotFoundError naming what is missing;
        ValueError for what we do not implement and what does not fit; MemoryError before anything is loaded.
        """
        return cls(**load_parts(folder, dtype, device or "cpu"))

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
        """Write the diffusers folder atomically, weights as `dtype`; other files in it stay."""
        save_parts(vars(self), folder, dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LatentDiffusion:
        """Move the networks to a device, or change their dtype, or both; return self."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device, dtype)
        return self

    def context(self, prompt: str | list[str] | None = None, image: Picture | list[Picture] | None = None,
                semantic_map: Tensor | None = None) -> Tensor:
        """Embed exactly one kind of condition: tau(y), (B, N, D). semantic_map: numbers of classes (B, S, S)."""
        given = {"prompt": prompt, "image": image, "semantic_map": semantic_map}
        given = {name: y for name, y in given.items() if y is not None}
        known = {"prompt": self.text, "image": self.image_encoder, "semantic_map": self.map_encoder}
        known = {name: encoder for name, encoder in known.items() if encoder is not None}
        if len(given) != 1 or not given.keys() <= known.keys():
            raise ValueError(f"condition: got {' and '.join(given) or 'none'}, expected one of {', '.join(known)}")
        (name, y), = given.items()
        encoder, weights = known[name], next(known[name].parameters())
        if name == "prompt":
            return encoder(check_texts(name, y, encoder=encoder))
        if name == "image":
            return encoder(to_pictures(y, self.autoencoder.factor, square=encoder.config.image_size).to(weights))
        return encoder(check_map(y, encoder.transformer.config.image_size, encoder.classes).to(weights.device))

    @property
    def distilled(self) -> bool:
        """Whether the U-Net has guidance built in, and is meant for few steps: `load_lora` says so of it."""
        return getattr(self.unet, "distilled", False)

    def predictor(self, prompt: str | list[str] | None = None, guidance_scale: float | None = None,
                  negative_prompt: str | list[str] = "", **condition) -> tuple[EpsFn, Tensor]:
        """Make eps(z_t, t) for a sampler from B conditions; return it and their context (B, N, D)."""
        cond = self.context(prompt if prompt is None else check_texts("prompt", prompt, empty=False), **condition)
        negatives = check_texts("negative_prompt", negative_prompt, prompts=len(cond), encoder=self.text)
        scale = check_guidance(guidance_scale, negative_prompt, 2.0 if prompt is None else 4.0, self.distilled)
        return guided(self.unet, cond, self.text(negatives), scale), cond

    def text_to_image(self, prompt: str | list[str], steps: int = 30, guidance_scale: float | None = None,
                      seed: int = 0, size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                      sampler: str | None = None, spacing: str | None = None) -> Tensor:
        """Draw pictures of B prompts, or of one string: float32 (B, 3, H, W) in [-1, 1].

        guidance_scale: 4 by default, 1 if the model is distilled; 1 or less is no guidance. seed: one for the batch.
        size: a side or (height, width) in pixels, by default that of training. negative_prompt: what guidance leads
        away from, for all or for each. sampler: one of SAMPLERS, by default the folder's. spacing: of its levels, see
        `sampler_levels`. Raises ValueError naming the argument, what came and what was expected.
        """
        return self.draw(self.denoise(prompt, steps, guidance_scale, seed, size, negative_prompt, sampler, spacing))

    def variations(self, image: Picture | list[Picture], steps: int = 30, guidance_scale: float | None = None,
                   seed: int = 0, sampler: str | None = None, spacing: str | None = None) -> Tensor:
        """Draw pictures that show what the reference images show: (B, 3, S, S), S the size of training."""
        return self.draw(self.denoise(None, steps, guidance_scale, seed, None, "", sampler, spacing, image=image))

    def map_to_image(self, semantic_map: Tensor, steps: int = 30, guidance_scale: float | None = None, seed: int = 0,
                     sampler: str | None = None, spacing: str | None = None) -> Tensor:
        """Draw pictures laid out like semantic maps: integers (B, S, S) -> (B, 3, S, S)."""
        return self.draw(self.denoise(None, steps, guidance_scale, seed, None, "", sampler, spacing,
                                      semantic_map=semantic_map))

    @torch.no_grad()
    def denoise(self, prompt: str | list[str] | None = None, steps: int = 30, guidance_scale: float | None = None,
                seed: int = 0, size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                sampler: str | None = None, spacing: str | None = None, **condition) -> Iterator[Step]:
        """Prepare the sampler behind the three methods above; `decode(step.x0)` shows one of its steps."""
        if spacing is None and sampler in (None, self.sampler):
            spacing = "trailing" if self.distilled else self.spacing
        sampler, side = sampler or self.sampler, self.unet.config.sample_size * self.autoencoder.factor
        check_request(sampler, SAMPLERS, steps, self.schedule.T, seed, guidance_scale)
        height, width = (side, side) if size is None else check_size(size, self.autoencoder.factor)
        eps, cond = self.predictor(prompt, guidance_scale, negative_prompt, **condition)
        generator, factor = torch.Generator().manual_seed(int(seed)), self.autoencoder.factor
        shape = (len(cond), self.unet.config.in_channels, height // factor, width // factor)
        noise = torch.randn(shape, generator=generator).to(cond)
        levels = sampler_levels(sampler, steps, self.schedule.T, spacing)
        if sampler == "euler" and levels[0] == self.schedule.T - 1:
            noise = start_from(0.0, noise, self.schedule, levels)
        return SAMPLERS[sampler](eps, noise, self.schedule, levels, generator=generator)

    image_to_image, inpaint = image_to_image, inpaint    # functions of editing.py whose self is the model

    def draw(self, steps: Iterator[Step], z: Tensor | None = None) -> Tensor:
        """Run a sampler to its end and decode its last x, or `z` if it takes no step."""
        try:
            for step in steps:
                z = step.x
            return self.decode(z)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"Not enough GPU memory. Draw fewer pictures at a time, smaller ones (size=), "
                                         f"or in half precision: ldm.to(dtype=torch.float16). {error}") from error

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Decode latents, such as a step's x or x0, to images: float32 (B, 3, H, W) in [-1, 1]."""
        return self.autoencoder.from_latent(z).float().clamp(-1, 1)
