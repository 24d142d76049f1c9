"""All of it together: a prompt becomes a picture, and a folder becomes a model.

The folder is the one that `diffusers.StableDiffusionPipeline` reads and writes: each side opens the other's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import wraps
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .clip import ImageTransformer
from .conditioning import MapEncoder, TextEncoder, guided, only_one
from .editing import image_to_image, inpaint
from .folders import load_parts, save_parts
from .pictures import Picture, to_pictures
from .samplers import SAMPLERS, EpsFn, Step, check_request, first_x, last_x
from .schedule import Schedule
from .unet import UNet


def _advised(function: Callable) -> Callable:
    """`function`, that says what to lower if a GPU's memory does not suffice for it."""
    @wraps(function)
    def advised(*args):
        try:
            return function(*args)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"Not enough GPU memory. Draw fewer pictures at a time, smaller ones (size=), "
                                         f"or in half precision: ldm.to(dtype=torch.float16). {error}") from error
    return advised


class LatentDiffusion:
    """Latent diffusion with three conditions: Rombach et al. 2021 (arXiv:2112.10752), figure 3.

    unet: predicts the noise in latents; autoencoder: latents <-> images; text: prompts -> context; schedule:
    the noise levels that the U-Net was trained on; image_encoder and map_encoder: pictures and semantic maps ->
    context, of models that were trained on them as well; sampler: the one used where none is named.
    """

    def __init__(self, unet: UNet, autoencoder: Autoencoder, text: TextEncoder, schedule: Schedule,
                 image_encoder: ImageTransformer | None = None, map_encoder: MapEncoder | None = None,
                 sampler: str = "ddim"):
        self.unet, self.autoencoder, self.text, self.schedule = unet, autoencoder, text, schedule
        self.image_encoder, self.map_encoder, self.sampler = image_encoder, map_encoder, sampler

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, device: str | torch.device | None = None,
                        dtype: torch.dtype = torch.float32) -> LatentDiffusion:
        """The model in a diffusers folder, in eval mode, as `dtype` on `device` or else the CPU.

        A string "owner/name" is looked for on the Hugging Face hub, or in its cache, if there is neither that folder
        here nor a folder "owner": what begins like a path is a path. Weights go straight to where they shall be, one
        tensor at a time. Raises FileNotFoundError naming the folder and what it lacks; ValueError for a pipeline, a
        model config or a scheduler that we do not implement, and for a tensor that does not fit; MemoryError before
        anything is loaded. A scheduler that none of our samplers follows is a warning: "ddim" takes its place.
        """
        return cls(**load_parts(folder, dtype, device or "cpu"))

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
        """Write the diffusers folder, weights as `dtype`.

        A killed save leaves the last one whole. What else is in `folder`, such as a model card, stays.
        """
        save_parts(vars(self), folder, dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LatentDiffusion:
        """Move the networks to a device, or change their dtype, or both; returns self."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device, dtype)
        return self

    def context(self, prompt: str | list[str] | None = None, image: Picture | list[Picture] | None = None,
                semantic_map: Tensor | None = None) -> Tensor:
        """tau(y): what the cross-attention reads, (B, N, D), of exactly one kind of condition.

        image: what `to_pictures` takes, brought to S x S, the size of training; semantic_map: integers (B, S, S),
        classes as in `painting.CLASSES`. Raises ValueError for none or several, for one that the model was not trained
        on, and for another shape or range.
        """
        name, y = only_one(prompt=prompt, image=image, semantic_map=semantic_map)
        return self.text(_listed(name, y)) if name == "prompt" else _encode(self, name, y)

    def predictor(self, prompt: str | list[str] | None = None, guidance: float = 4.0,
                  negative_prompt: str | list[str] = "", **condition) -> tuple[EpsFn, Tensor]:
        """eps(z_t, t) of the U-Net told B prompts, for a sampler, and the context (B, N, D) that it is told.

        condition: instead of a prompt, image or semantic_map, as in `context`. Rest as in `text_to_image`.
        """
        negatives = _listed("negative_prompt", negative_prompt)
        cond = self.context(prompt if prompt is None else _prompts(prompt), **condition)
        _check_guidance(guidance, len(negatives), len(cond))
        return _advised(guided(self.unet, cond, self.text(negatives), guidance)), cond

    def text_to_image(self, prompt: str | list[str], steps: int = 30, guidance: float = 4.0, seed: int = 0,
                      size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                      sampler: str | None = None) -> Tensor:
        """Pictures of B prompts, or of one string: float32 (B, 3, H, W) in [-1, 1].

        steps: 1 ... T. guidance: 1 or less is none; SD v1 is usually run with 7.5. seed: one for the batch.
        size: in pixels, a side or (height, width), multiples of the autoencoder's factor; None is the size of
        training. negative_prompt: what guidance leads away from, for all or for each; "" is the unconditional
        prompt. sampler: one of `SAMPLERS`; None is the model's own. The pictures are those of diffusers'
        StableDiffusionPipeline with the same weights, scheduler and seed. Raises ValueError naming the argument that
        is wrong, what came and what was expected; torch.OutOfMemoryError, on a GPU, that says what to lower.
        """
        return self.decode(last_x(self.denoise(prompt, steps, guidance, seed, size, negative_prompt, sampler)))

    def variations(self, image: Picture | list[Picture], steps: int = 30, guidance: float = 2.0, seed: int = 0,
                   sampler: str | None = None) -> Tensor:
        """Pictures that show what the reference images show: what `to_pictures` takes -> (B, 3, S, S) in [-1, 1].

        S is the size of training. Arguments and errors as in `text_to_image` and `context`.
        """
        return self.decode(last_x(self.denoise(None, steps, guidance, seed, sampler=sampler, image=image)))

    def map_to_image(self, semantic_map: Tensor, steps: int = 30, guidance: float = 2.0, seed: int = 0,
                     sampler: str | None = None) -> Tensor:
        """Pictures laid out as semantic maps say: integers (B, S, S) -> (B, 3, S, S). Rest as in `variations`."""
        steps = self.denoise(None, steps, guidance, seed, sampler=sampler, semantic_map=semantic_map)
        return self.decode(last_x(steps))

    @torch.no_grad()
    def denoise(self, prompt: str | list[str] | None = None, steps: int = 30, guidance: float = 4.0, seed: int = 0,
                size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                sampler: str | None = None, **condition) -> Iterator[Step]:
        """The sampler's steps behind the three methods above, in latents; `decode(step.x0)` shows one.

        condition: instead of a prompt, image or semantic_map, as in `context`.
        """
        sampler = check_request(sampler or self.sampler, steps, self.schedule.T, seed)
        height, width = _latent_size(size, self.unet.config.sample_size, self.autoencoder.factor)
        eps, cond = self.predictor(prompt, guidance, negative_prompt, **condition)
        generator = torch.Generator().manual_seed(int(seed))
        noise = torch.randn((len(cond), self.unet.config.in_channels, height, width), generator=generator).to(cond)
        x_T = first_x(sampler, noise, self.schedule, steps)
        return SAMPLERS[sampler](eps, x_T, self.schedule, steps, generator=generator)

    image_to_image, inpaint = image_to_image, inpaint    # of editing.py: functions whose self is the model

    @_advised
    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Images, float32 (B, 3, H, W) in [-1, 1], of latents, such as a step's x or x0."""
        return self.autoencoder.from_latent(z).float().clamp(-1, 1)


def _encode(ldm: LatentDiffusion, name: str, y: Tensor | Picture) -> Tensor:
    """The context of a picture or a semantic map."""
    encoder = {"image": ldm.image_encoder, "semantic_map": ldm.map_encoder}[name]
    if encoder is None:
        raise ValueError(f"{name}: this model has no encoder for it; it follows prompts alone")
    weights = next(encoder.parameters())
    if name == "image":
        return encoder(to_pictures(y, ldm.autoencoder.factor, square=encoder.config.image_size).to(weights))
    if not isinstance(y, Tensor):
        raise ValueError(f"semantic_map: got {type(y).__name__}, expected a tensor of integers (batch, height, width)")
    return encoder(y.to(weights.device))


def _check_guidance(guidance: float, negatives: int, conditions: int) -> None:
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise ValueError(f"guidance: got {guidance!r}, expected a finite number; 1 is no guidance")
    if negatives not in (1, conditions):
        raise ValueError(f"negative_prompt: got {negatives}, expected 1 or as many as conditions, {conditions}")


def _latent_size(size: int | tuple[int, int] | None, default: int, factor: int) -> tuple[int, int]:
    """Height and width of the latent for a picture of `size` pixels; `default` is a side, in latent pixels."""
    if size is None:
        return default, default
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, Integral) and s > 0 and s % factor == 0 for s in sides):
        raise ValueError(f"size: got {size!r}, expected a side or (height, width) in pixels, multiples of {factor}")
    return sides[0] // factor, sides[1] // factor


def _prompts(prompt: str | list[str]) -> list[str]:
    prompts = _listed("prompt", prompt)
    for text in prompts:
        if not text.strip():
            raise ValueError(f"prompt: got {text!r}, expected words; the empty prompt is the unconditional one, "
                             "which guidance leads away from")
    return prompts


def _listed(name: str, value: str | list[str]) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{name}: got {value!r}, expected a string or a list of strings")
    return list(values)
