"""A whole pipeline on disk: the folder that `diffusers.StableDiffusionPipeline` reads and writes."""
from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch

from .conditioning import MapEncoder, TextEncoder
from .schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from .support.checks import expect
from .support.files import read_json, swap_in, write_json
from .support.hub import check_memory, find_folder, weights_file
from .tokenizer import load_tokenizer, save_tokenizer
from .weights import AUTOENCODER, TEXT, UNET, load_autoencoder, load_image, load_text, load_unet, save_module

NETWORKS = {"unet": UNET, "vae": AUTOENCODER, "text_encoder": TEXT}
FILES = ("model_index.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json",
         *(f"{part}/{name}" for part, layout in NETWORKS.items() for name in ("config.json", layout.file)))
MORE_FILES = ("tokenizer/*", "image_encoder/*", "map_encoder/*")
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.31.0",
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
    "requires_safety_checker": False,
}
SCHEDULERS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler",
              "dpm_solver": "DPMSolverMultistepScheduler"}
# What our samplers do with the model's output, and how they step, as diffusers' scheduler configs say it.
_OUTPUT = {"prediction_type": "epsilon", "clip_sample": False, "thresholding": False, "rescale_betas_zero_snr": False}
_STEPS = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
_SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": False,
           "final_sigmas_type": "zero", "lower_order_final": True, "euler_at_final": False}


def load_parts(folder: str | os.PathLike, dtype: torch.dtype = torch.float32,
               device: str | torch.device = "cpu") -> dict:
    """Read the arguments of `LatentDiffusion` from a folder, networks in eval mode. Errors: see its from_pretrained."""
    folder = find_folder(folder, FILES, MORE_FILES)
    index = read_json(folder / "model_index.json")
    _check_kind(folder, index)
    files = [weights_file(folder / part, layout.file) for part, layout in NETWORKS.items()]
    check_memory(folder, files, dtype, torch.device(device))
    scheduler, how = read_json(folder / "scheduler/scheduler_config.json"), (dtype, device)
    tokenizer, transformer = load_tokenizer(folder / "tokenizer"), load_text(folder / "text_encoder", *how)
    found, wanted = tokenizer.get_vocab_size(), transformer.config.vocab_size
    expect(found == wanted, "folder", f"{folder} with a tokenizer of {found} tokens", f"{wanted}, as its text encoder")
    networks = {"unet": load_unet(folder / "unet", *how), "autoencoder": load_autoencoder(folder / "vae", *how),
                "text": TextEncoder(tokenizer, transformer)}
    ours = index.get("image_encoder", [None])[0] is None    # else it belongs to an adapter, which we do not implement
    if ours and (folder / "image_encoder").is_dir():
        networks["image_encoder"] = load_image(folder / "image_encoder", *how)
    if (folder / "map_encoder").is_dir():
        networks["map_encoder"] = MapEncoder(load_image(folder / "map_encoder", *how))
    return {name: network.eval() for name, network in networks.items()} | {
        "schedule": schedule_from_config(scheduler), "sampler": sampler_from_config(scheduler)}


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
    write_json(fresh / "scheduler/scheduler_config.json", schedule_to_config(parts["schedule"], parts["sampler"]))
    index = MODEL_INDEX | {"scheduler": ["diffusers", SCHEDULERS[parts["sampler"]]]}
    write_json(fresh / "model_index.json", index)
    swap_in(fresh, folder)


def schedule_from_config(config: dict) -> Schedule:
    """Read the noise schedule of a diffusers scheduler config; what it does not say is as in SD v1.

    Raises ValueError naming an entry that our samplers do not follow; how other classes step does not matter.
    """
    ours = config.get("_class_name", "DDIMScheduler") in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
    for name, expected in (_OUTPUT | _STEPS if ours else _OUTPUT).items():
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


def schedule_to_config(schedule: Schedule, sampler: str = "ddim") -> dict:
    """Write the config with which the diffusers scheduler of that sampler follows `schedule` as ours does."""
    betas = schedule.betas.float()
    is_default = torch.equal(betas, scaled_linear_schedule(schedule.T).betas)
    how = _STEPS if sampler in ("ddim", "ddpm") else {"timestep_spacing": "linspace", "steps_offset": 1}
    return {"_class_name": SCHEDULERS[sampler], "_diffusers_version": MODEL_INDEX["_diffusers_version"],
            "num_train_timesteps": schedule.T, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "trained_betas": None if is_default else betas.tolist(), **_OUTPUT, **how}


def sampler_from_config(config: dict) -> str:
    """Name the sampler that steps as a scheduler config says, or "ddim" with a warning about the difference."""
    kind = config.get("_class_name", "DDIMScheduler")
    sampler = next((name for name, theirs in SCHEDULERS.items() if theirs == kind), None)
    if sampler is None:
        warnings.warn(f"scheduler: {kind} is not among our samplers; ddim is used", stacklevel=2)
        return "ddim"
    own = "leading" if sampler in ("ddim", "ddpm") else "linspace"
    wrong = {name: config[name] for name, expected in (_SOLVER | {"timestep_spacing": own}).items()
             if config.get(name, expected) != expected}
    if wrong:
        said = ", ".join(f"{name} = {value!r}" for name, value in wrong.items())
        warnings.warn(f"scheduler: {kind} with {said} is not followed; {sampler} steps as by default", stacklevel=2)
    return sampler


def _check_kind(folder: Path, index: dict) -> None:
    """Raise ValueError unless the folder holds a Stable Diffusion v1 pipeline."""
    expect((kind := index.get("_class_name")) == MODEL_INDEX["_class_name"], "folder", f"{folder} with a {kind}",
           f"a {MODEL_INDEX['_class_name']}")
    unet = read_json(folder / "unet/config.json")
    expect(not unet.get("use_linear_projection") and not isinstance(unet.get("attention_head_dim"), list), "folder",
           f"{folder} with Stable Diffusion 2 (its U-Net has linear projections, or a number of heads for each level)",
           "version 1, or a model of its shape")
