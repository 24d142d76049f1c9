"""A whole pipeline on disk: the folder that `diffusers.StableDiffusionPipeline` reads and writes."""
from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from .autoencoder import AutoencoderConfig
from .clip import TextConfig
from .conditioning import MapEncoder, TextEncoder
from .schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from .support.checks import expect
from .support.files import read_json, swap_in, write_json
from .support.hub import check_memory, find_folder, refuse_pickle, weights_file
from .support.original_names import OriginalLayout
from .support.scheduler_config import OUTPUT, SCHEDULERS, own_spacing, sampler_from_config
from .tokenizer import load_tokenizer, save_tokenizer
from .unet import UNetConfig
from .weights import AUTOENCODER, IMAGE, TEXT, UNET, fill, load_module, save_module

NETWORKS = {"unet": UNET, "vae": AUTOENCODER, "text_encoder": TEXT}
FILES = ("model_index.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json",
         *(f"{part}/{name}" for part, layout in NETWORKS.items() for name in ("config.json", layout.file)))
DISTILLED = "_distilled"    # in model_index.json: a distilled LoRA was merged; diffusers ignores what begins with _
MORE_FILES = ("tokenizer/*", "image_encoder/*", "map_encoder/*")
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.31.0",
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def load_parts(folder: str | os.PathLike, dtype: torch.dtype = torch.float32,
               device: str | torch.device = "cpu") -> dict:
    """Read the arguments of `LatentDiffusion` from a folder, networks in eval mode. Errors: see its from_pretrained."""
    if Path(folder).is_file():
        return load_single_file(Path(folder), dtype, device)
    if (index := Path(folder) / "model_index.json").is_file():
        _check_pipeline(folder, read_json(index))    # before files are missed that another kind of model does not have
    folder = find_folder(folder, FILES, MORE_FILES)
    index = read_json(folder / "model_index.json")
    _check_kind(folder, index)
    files = [weights_file(folder / part, layout.file) for part, layout in NETWORKS.items()]
    check_memory(folder, files, dtype, torch.device(device))
    scheduler, how = read_json(folder / "scheduler/scheduler_config.json"), (dtype, device)
    sampler, spacing = sampler_from_config(scheduler)
    unet, autoencoder, text = (load_module(layout, folder / part, *how) for part, layout in NETWORKS.items())
    unet.distilled = index.get(DISTILLED, False)
    tokenizer, wanted = load_tokenizer(folder / "tokenizer"), text.config.vocab_size
    expect((found := tokenizer.get_vocab_size()) == wanted, "folder", f"{folder} with a tokenizer of {found} tokens",
           f"{wanted}, as its text encoder")
    networks = {"unet": unet, "autoencoder": autoencoder, "text": TextEncoder(tokenizer, text)}
    ours = index.get("image_encoder", [None])[0] is None    # else it belongs to an adapter, which we do not implement
    if ours and (folder / "image_encoder").is_dir():
        networks["image_encoder"] = load_module(IMAGE, folder / "image_encoder", *how)
    if (folder / "map_encoder").is_dir():
        networks["map_encoder"] = MapEncoder(load_module(IMAGE, folder / "map_encoder", *how))
    return {name: network.eval() for name, network in networks.items()} | {
        "schedule": schedule_from_config(scheduler), "sampler": sampler, "spacing": spacing}


def load_single_file(path: Path, dtype: torch.dtype, device: str | torch.device,
                     configs: Sequence = (UNetConfig(), AutoencoderConfig(), TextConfig())) -> dict:
    """Read the arguments of `LatentDiffusion` from one safetensors file, by default of Stable Diffusion v1.

    The tokenizer is in no such file: it comes from the folder `tokenizer` beside it, or from CLIP's on the hub.
    """
    refuse_pickle(path)
    check_memory(path, [path], dtype, torch.device(device))
    beside = path.with_name("tokenizer")
    tokenizer = load_tokenizer(beside if beside.is_dir() else find_folder(
        "openai/clip-vit-large-patch14", ("tokenizer_config.json",), ("vocab.json", "merges.txt")))
    unet, autoencoder, text = (
        fill(partial(layout.model, config), path.parent, OriginalLayout(part, layout, config, path.name), dtype, device)
        .to(memory_format=torch.channels_last).eval() for (part, layout), config in zip(NETWORKS.items(), configs))
    return {"unet": unet, "autoencoder": autoencoder, "text": TextEncoder(tokenizer, text).eval(),
            "schedule": scaled_linear_schedule()}


def save_parts(parts: dict, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write the folder atomically, the inverse of `load_parts`: an interrupted save leaves the old one intact."""
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
    write_json(fresh / "scheduler/scheduler_config.json", schedule_to_config(
        parts["schedule"], parts["sampler"], parts["spacing"]))
    index = MODEL_INDEX | {"scheduler": ["diffusers", SCHEDULERS[parts["sampler"]]]}
    if getattr(parts["unet"], "distilled", False):
        index[DISTILLED] = True
    write_json(fresh / "model_index.json", index)
    swap_in(fresh, folder)


def schedule_from_config(config: dict) -> Schedule:
    """Read the noise schedule of a diffusers scheduler config; what it does not say is as in SD v1.

    Raises ValueError naming an entry that says of the U-Net what is not true of ours.
    """
    for name, expected in OUTPUT.items():
        found = config.get(name, expected)
        expect(found == expected, "scheduler", f"{name} {found!r}", repr(expected))
    T, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "scaled_linear")
    if (betas := config.get("trained_betas")) is not None:
        expect(len(betas) == T, "scheduler", f"num_train_timesteps {T} and {len(betas)} trained_betas", "as many")
        return Schedule(torch.tensor(betas, dtype=torch.float32))
    if kind == "squaredcos_cap_v2":
        return cosine_schedule(T)
    schedules = {"scaled_linear": scaled_linear_schedule, "linear": linear_schedule}
    expect(kind in schedules, "scheduler", f"beta_schedule {kind!r}", f"{', '.join(schedules)} or squaredcos_cap_v2")
    return schedules[kind](T, config.get("beta_start", 0.00085), config.get("beta_end", 0.012))


def schedule_to_config(schedule: Schedule, sampler: str = "ddim", spacing: str | None = None) -> dict:
    """Write the config with which the diffusers scheduler of that sampler follows `schedule` as ours does."""
    betas = schedule.betas.float()
    is_default = torch.equal(betas, scaled_linear_schedule(schedule.T).betas)
    how = {"set_alpha_to_one": False} if sampler in ("ddim", "ddpm") else {}
    return {"_class_name": SCHEDULERS[sampler], "_diffusers_version": MODEL_INDEX["_diffusers_version"],
            "num_train_timesteps": schedule.T, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "trained_betas": None if is_default else betas.tolist(), **OUTPUT, **how,
            "clip_sample": False, "timestep_spacing": spacing or own_spacing(sampler), "steps_offset": 1}


def _check_pipeline(folder: str | os.PathLike, index: dict) -> None:
    """Raise ValueError for a pipeline of another kind, such as that of Stable Diffusion 3, a flow model."""
    expect((kind := index.get("_class_name")) == MODEL_INDEX["_class_name"], "folder", f"{folder} with a {kind}",
           f"a {MODEL_INDEX['_class_name']}")


def _check_kind(folder: Path, index: dict) -> None:
    """Raise ValueError unless the folder holds a Stable Diffusion v1 pipeline."""
    _check_pipeline(folder, index)
    unet = read_json(folder / "unet/config.json")
    expect(not unet.get("use_linear_projection") and not isinstance(unet.get("attention_head_dim"), list), "folder",
           f"{folder} with Stable Diffusion 2 (its U-Net has linear projections, or a number of heads for each level)",
           "version 1, or a model of its shape")
    latents = read_json(folder / "vae/config.json").get("latent_channels")
    expect(unet.get("in_channels") == latents, "folder", f"{folder} with a U-Net of {unet.get('in_channels')} channels",
           f"{latents} channels, as its autoencoder; models made for inpainting or depth have more")
