"""A pipeline on disk: the folder that `diffusers.StableDiffusionPipeline` reads and writes, here or on the hub."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import CLIPTokenizer

from .conditioning import MapEncoder, TextEncoder, save_tokenizer
from .files import read_json, write_json
from .schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from .weights import load_autoencoder, load_image, load_text, load_unet, save_module

FILES = (
    "model_index.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
MORE_FILES = ("tokenizer/*", "image_encoder/*", "map_encoder/*")
MODEL_INDEX = {
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


def load_parts(folder: str | os.PathLike) -> dict:
    """The arguments of `LatentDiffusion` from a folder, networks in eval mode. Errors as in its `from_pretrained`."""
    folder = find_folder(folder)
    index = read_json(folder / "model_index.json")
    if (kind := index.get("_class_name")) != MODEL_INDEX["_class_name"]:
        raise ValueError(f"folder: {folder} holds a {kind}, expected a {MODEL_INDEX['_class_name']}")
    schedule = schedule_from_config(read_json(folder / "scheduler/scheduler_config.json"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    networks = {"unet": load_unet(folder / "unet"), "autoencoder": load_autoencoder(folder / "vae"),
                "text": TextEncoder(tokenizer, load_text(folder / "text_encoder"))}
    ours = index.get("image_encoder", [None])[0] is None    # else it belongs to an adapter, which we do not implement
    if ours and (folder / "image_encoder").is_dir():
        networks["image_encoder"] = load_image(folder / "image_encoder")
    if (folder / "map_encoder").is_dir():
        networks["map_encoder"] = MapEncoder(load_image(folder / "map_encoder"))
    return {name: network.eval() for name, network in networks.items()} | {"schedule": schedule}


def save_parts(parts: dict, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """The inverse of `load_parts`: all of the folder, or, if killed, the one that was there."""
    folder = Path(folder).resolve()
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_module(parts["unet"], fresh / "unet", dtype)
    save_module(parts["autoencoder"], fresh / "vae", dtype)
    save_module(parts["text"].transformer, fresh / "text_encoder", dtype)
    save_tokenizer(parts["text"].tokenizer, fresh / "tokenizer")
    if parts["image_encoder"] is not None:
        save_module(parts["image_encoder"], fresh / "image_encoder", dtype)
    if parts["map_encoder"] is not None:
        save_module(parts["map_encoder"].transformer, fresh / "map_encoder", dtype)
    write_json(fresh / "scheduler/scheduler_config.json", schedule_to_config(parts["schedule"]))
    write_json(fresh / "model_index.json", MODEL_INDEX)
    swap_in(fresh, folder)


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
    return {"_class_name": "DDIMScheduler", "_diffusers_version": MODEL_INDEX["_diffusers_version"],
            "num_train_timesteps": schedule.T, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "trained_betas": None if is_default else betas.tolist(), **_OUTPUT, **_STEPS}


def find_folder(folder: str | os.PathLike) -> Path:
    """`folder`, or where its download lies if it names a model on the hub; all FILES are in it."""
    path = Path(folder)
    if isinstance(folder, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", folder) and not path.parent.is_dir():
        try:
            path = Path(snapshot_download(folder, allow_patterns=[*FILES, *MORE_FILES]))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"folder: {folder!r} is no folder here, and the Hugging Face hub did not "
                                    f"give it: {error}") from error
    missing = ", ".join(name for name in FILES if not (path / name).is_file())
    if missing:
        state = "lacks" if path.is_dir() else "does not exist; expected in it:"
        raise FileNotFoundError(f"folder: {path} {state} {missing}")
    return path


def swap_in(fresh: Path, folder: Path) -> None:
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
