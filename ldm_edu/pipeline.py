"""All of it together: a prompt becomes a picture, and a folder becomes a model.

The folder is the one that `diffusers.StableDiffusionPipeline` reads and writes: each side opens the other's.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import CLIPTokenizer

from .autoencoder import Autoencoder
from .conditioning import TextEncoder, guided, save_tokenizer
from .samplers import SAMPLERS, Step
from .schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule, timesteps
from .unet import UNet
from .weights import load_autoencoder, load_text, load_unet, save_module

_FILES = (
    "model_index.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.31.0",
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
    "requires_safety_checker": False,
}
# What our samplers do with the model's output, and how they step, as diffusers' scheduler configs say it.
_OUTPUT = {"prediction_type": "epsilon", "clip_sample": False, "thresholding": False,
           "rescale_betas_zero_snr": False}
_STEPS = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}


class LatentDiffusion:
    """A text-to-image model: Rombach et al. 2021 (arXiv:2112.10752), figure 3, with text as the condition.

    unet: predicts the noise in latents; autoencoder: latents <-> images; text: prompts -> context; schedule:
    the noise levels that the U-Net was trained on.
    """

    def __init__(self, unet: UNet, autoencoder: Autoencoder, text: TextEncoder, schedule: Schedule):
        self.unet, self.autoencoder, self.text, self.schedule = unet, autoencoder, text, schedule

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike,
                        device: str | torch.device | None = None) -> LatentDiffusion:
        """The model in a diffusers folder, in float32 and eval mode, on `device` or else the CPU.

        A string "owner/name" is looked for on the Hugging Face hub if there is neither that folder here nor a
        folder "owner": what begins like a path is a path. Raises FileNotFoundError naming the folder and what
        it lacks; ValueError for a pipeline, a model config or a scheduler that we do not implement.
        """
        folder = _find(folder)
        kind = _read_json(folder / "model_index.json").get("_class_name")
        if kind != _MODEL_INDEX["_class_name"]:
            raise ValueError(f"folder: {folder} holds a {kind}, expected a {_MODEL_INDEX['_class_name']}")
        schedule = schedule_from_config(_read_json(folder / "scheduler/scheduler_config.json"))
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        ldm = cls(load_unet(folder / "unet"), load_autoencoder(folder / "vae"),
                  TextEncoder(tokenizer, load_text(folder / "text_encoder")), schedule)
        for module in (ldm.unet, ldm.autoencoder, ldm.text):
            module.eval()
        return ldm.to(device or "cpu")

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
        """Write the diffusers folder, weights as `dtype`.

        A killed save leaves the last one whole. What else is in `folder`, such as a model card, stays.
        """
        folder = Path(folder).resolve()
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        save_module(self.unet, fresh / "unet", dtype)
        save_module(self.autoencoder, fresh / "vae", dtype)
        save_module(self.text.transformer, fresh / "text_encoder", dtype)
        save_tokenizer(self.text.tokenizer, fresh / "tokenizer")
        _write_json(fresh / "scheduler/scheduler_config.json", schedule_to_config(self.schedule))
        _write_json(fresh / "model_index.json", _MODEL_INDEX)
        _swap_in(fresh, folder)

    def to(self, device: str | torch.device) -> LatentDiffusion:
        """Move the networks to a device; returns self."""
        for module in (self.unet, self.autoencoder, self.text):
            module.to(device)
        return self

    def text_to_image(self, prompt: str | list[str], steps: int = 30, guidance: float = 4.0, seed: int = 0,
                      size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                      sampler: str = "ddim") -> Tensor:
        """Pictures of B prompts, or of one string: float32 (B, 3, H, W) in [-1, 1].

        steps: 1 ... T. guidance: 1 or less is none; SD v1 is usually run with 7.5. seed: one for the batch.
        size: in pixels, a side or (height, width), multiples of the autoencoder's factor; None is the size of
        training. negative_prompt: what guidance leads away from, for all or for each; "" is the unconditional
        prompt. The pictures are those of diffusers' StableDiffusionPipeline with the same weights, scheduler
        and seed. Raises ValueError naming the argument that is wrong, what came and what was expected.
        """
        for step in self.denoise(prompt, steps, guidance, seed, size, negative_prompt, sampler):
            pass
        return self.decode(step.x)

    @torch.no_grad()
    def denoise(self, prompt: str | list[str], steps: int = 30, guidance: float = 4.0, seed: int = 0,
                size: int | tuple[int, int] | None = None, negative_prompt: str | list[str] = "",
                sampler: str = "ddim") -> Iterator[Step]:
        """The sampler's steps behind `text_to_image`, in latents; `decode(step.x0)` shows one."""
        prompts, negatives = _listed("prompt", prompt), _listed("negative_prompt", negative_prompt)
        _check_request(prompts, negatives, guidance, seed, sampler)
        timesteps(steps, self.schedule.T)    # raises here for wrong steps, before any work
        height, width = _latent_size(size, self.unet.config.sample_size, self.autoencoder.factor)
        shape = (len(prompts), self.unet.config.in_channels, height, width)
        generator = torch.Generator().manual_seed(int(seed))
        cond, uncond = self.text(prompts), self.text(negatives)
        x_T = torch.randn(shape, generator=generator).to(cond)
        eps = guided(self.unet, cond, uncond, guidance)
        return SAMPLERS[sampler](eps, x_T, self.schedule, steps, generator=generator)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents, such as a step's x or x0."""
        return self.autoencoder.from_latent(z).clamp(-1, 1)


def schedule_from_config(config: dict) -> Schedule:
    """The noise schedule of a diffusers scheduler config; what it does not say is as in SD v1.

    Raises ValueError naming an entry that our samplers do not follow. How to step matters only in the configs
    of the classes that step like ours: a model saved with, say, Euler is opened, and sampled our way.
    """
    ours = config.get("_class_name", "DDIMScheduler") in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
    for name, expected in (_OUTPUT | _STEPS if ours else _OUTPUT).items():
        if config.get(name, expected) != expected:
            raise ValueError(f"scheduler: got {name} {config[name]!r}, expected {expected!r}")
    T, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "scaled_linear")
    if (betas := config.get("trained_betas")) is not None:
        if len(betas) != T:
            raise ValueError(f"scheduler: got num_train_timesteps {T} and {len(betas)} trained_betas")
        return Schedule(torch.tensor(betas, dtype=torch.float32))
    if kind == "squaredcos_cap_v2":
        return cosine_schedule(T)
    schedules = {"scaled_linear": scaled_linear_schedule, "linear": linear_schedule}
    if kind not in schedules:
        raise ValueError(f"scheduler: got beta_schedule {kind!r}, expected one of {', '.join(schedules)}, "
                         "squaredcos_cap_v2")
    return schedules[kind](T, config.get("beta_start", 0.00085), config.get("beta_end", 0.012))


def schedule_to_config(schedule: Schedule) -> dict:
    """The config with which a diffusers DDIMScheduler follows `schedule` as SD v1 does."""
    betas = schedule.betas.float()
    is_default = torch.equal(betas, scaled_linear_schedule(schedule.T).betas)
    return {"_class_name": "DDIMScheduler", "_diffusers_version": _MODEL_INDEX["_diffusers_version"],
            "num_train_timesteps": schedule.T, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "trained_betas": None if is_default else betas.tolist(), **_OUTPUT, **_STEPS}


def _check_request(prompts: list[str], negatives: list[str], guidance: float, seed: int, sampler: str) -> None:
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError(f"prompt: got {prompt!r}, expected words; the empty prompt is the unconditional one, "
                             "which guidance leads away from")
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(f"negative_prompt: got {len(negatives)}, expected 1 or one for each of {len(prompts)} prompts")
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise ValueError(f"guidance: got {guidance!r}, expected a finite number; 1 is no guidance")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: got {seed!r}, expected an integer from 0 to 2^63 - 1")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: got {sampler!r}, expected one of {', '.join(SAMPLERS)}")


def _latent_size(size: int | tuple[int, int] | None, default: int, factor: int) -> tuple[int, int]:
    """Height and width of the latent for a picture of `size` pixels; `default` is a side, in latent pixels."""
    if size is None:
        return default, default
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, Integral) and s > 0 and s % factor == 0 for s in sides):
        raise ValueError(f"size: got {size!r}, expected a side or (height, width) in pixels, multiples of {factor}")
    return sides[0] // factor, sides[1] // factor


def _listed(name: str, value: str | list[str]) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{name}: got {value!r}, expected a string or a list of strings")
    return list(values)


def _find(folder: str | os.PathLike) -> Path:
    """`folder`, or where its download lies if it names a model on the hub; all _FILES are in it."""
    path = Path(folder)
    if isinstance(folder, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", folder) and not path.parent.is_dir():
        try:
            path = Path(snapshot_download(folder, allow_patterns=[*_FILES, "tokenizer/*"]))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"folder: {folder!r} is no folder here, and the Hugging Face hub did not "
                                    f"give it: {error}") from error
    missing = ", ".join(name for name in _FILES if not (path / name).is_file())
    if missing:
        state = "lacks" if path.is_dir() else "does not exist; expected in it:"
        raise FileNotFoundError(f"folder: {path} {state} {missing}")
    return path


def _swap_in(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`, with what only that has; at every moment one of them is whole."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():    # an earlier swap was killed half-way
        os.replace(old, folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        for extra in folder.iterdir():
            if not (fresh / extra.name).exists():
                (shutil.copytree if extra.is_dir() else shutil.copy2)(extra, fresh / extra.name)
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
