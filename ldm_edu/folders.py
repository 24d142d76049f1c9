"""A pipeline on disk: the folder that `diffusers.StableDiffusionPipeline` reads and writes, here or on the hub."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import CLIPTokenizer

from .conditioning import MapEncoder, TextEncoder, save_tokenizer
from .files import read_json, shapes_of, write_json
from .layouts import AUTOENCODER, TEXT, UNET
from .schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from .weights import load_autoencoder, load_image, load_text, load_unet, save_module, weights_file

FILES = (
    "model_index.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
_NEEDED = (("unet", UNET), ("vae", AUTOENCODER), ("text_encoder", TEXT))
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
_SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": False,
           "final_sigmas_type": "zero", "lower_order_final": True, "euler_at_final": False}
SCHEDULERS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler",
              "dpm_solver": "DPMSolverMultistepScheduler"}


def load_parts(folder: str | os.PathLike, dtype: torch.dtype = torch.float32,
               device: str | torch.device = "cpu") -> dict:
    """The arguments of `LatentDiffusion` from a folder, networks in eval mode. Errors as in its `from_pretrained`."""
    folder = find_folder(folder)
    index = read_json(folder / "model_index.json")
    _check_kind(folder, index)
    _check_memory(folder, dtype, torch.device(device))
    scheduler = read_json(folder / "scheduler/scheduler_config.json")
    tokenizer, how = CLIPTokenizer.from_pretrained(folder / "tokenizer"), (dtype, device)
    networks = {"unet": load_unet(folder / "unet", *how), "autoencoder": load_autoencoder(folder / "vae", *how),
                "text": TextEncoder(tokenizer, load_text(folder / "text_encoder", *how))}
    ours = index.get("image_encoder", [None])[0] is None    # else it belongs to an adapter, which we do not implement
    if ours and (folder / "image_encoder").is_dir():
        networks["image_encoder"] = load_image(folder / "image_encoder", *how)
    if (folder / "map_encoder").is_dir():
        networks["map_encoder"] = MapEncoder(load_image(folder / "map_encoder", *how))
    return {name: network.eval() for name, network in networks.items()} | {
        "schedule": schedule_from_config(scheduler), "sampler": sampler_from_config(scheduler)}


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
    write_json(fresh / "scheduler/scheduler_config.json", schedule_to_config(parts["schedule"], parts["sampler"]))
    index = MODEL_INDEX | {"scheduler": ["diffusers", SCHEDULERS[parts["sampler"]]]}
    write_json(fresh / "model_index.json", index)
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


def schedule_to_config(schedule: Schedule, sampler: str = "ddim") -> dict:
    """The config with which the diffusers scheduler of that sampler follows `schedule` as ours does."""
    betas = schedule.betas.float()
    is_default = torch.equal(betas, scaled_linear_schedule(schedule.T).betas)
    how = _STEPS if sampler in ("ddim", "ddpm") else {"timestep_spacing": "linspace", "steps_offset": 1}
    return {"_class_name": SCHEDULERS[sampler], "_diffusers_version": MODEL_INDEX["_diffusers_version"],
            "num_train_timesteps": schedule.T, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "trained_betas": None if is_default else betas.tolist(), **_OUTPUT, **how}


def sampler_from_config(config: dict) -> str:
    """The sampler that steps as a diffusers scheduler config says, or "ddim", with a warning that names the difference.

    What the config does not say is as in diffusers; so "leading" spacing, which a folder with SD v1's PNDM has, is
    followed by "ddim" and "ddpm", "linspace" by "euler" and "dpm_solver".
    """
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


def find_folder(folder: str | os.PathLike) -> Path:
    """`folder`, or where its download lies if it names a model on the hub; all FILES are in it.

    Of a model on the hub only what is needed is downloaded, once; without a network its cache serves. Raises
    FileNotFoundError that names what is missing, and what would fetch it.
    """
    path = Path(folder)
    if isinstance(folder, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", folder) and not path.parent.is_dir():
        try:
            path = Path(snapshot_download(folder, allow_patterns=[*FILES, *MORE_FILES]))
            if not all((path / name).is_file() for name in FILES):    # some have weights in half precision alone
                halves = [name.replace(".safetensors", ".fp16.safetensors") for name in FILES]
                path = Path(snapshot_download(folder, allow_patterns=[*halves, *MORE_FILES]))
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(f"folder: {folder!r} is no folder here, and the Hugging Face hub has no model of "
                                    "that name that is open to you: is it spelled right, is its licence accepted?"
                                    ) from error
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"folder: {folder!r} is no folder here, and the Hugging Face hub did not give it "
                                    f"({type(error).__name__}). With a network, `hf download {folder}` fetches it "
                                    "into the cache.") from error
    missing = [name for name in FILES if not (path / name).is_file()]
    if path.is_dir():    # a model's weights may be in half precision; of a pickle we say why it is not read
        found = [f"{part}/{layout.file}" for part, layout in _NEEDED if weights_file(path / part, layout).is_file()]
        missing = [name for name in missing if name not in found]
    if missing:
        state = "lacks" if path.is_dir() else "does not exist; expected in it:"
        raise FileNotFoundError(f"folder: {path} {state} {', '.join(missing)}")
    return path


def _check_kind(folder: Path, index: dict) -> None:
    """Refuses, by name, what is no Stable Diffusion v1."""
    if (kind := index.get("_class_name")) != MODEL_INDEX["_class_name"]:
        raise ValueError(f"folder: {folder} holds a {kind}, expected a {MODEL_INDEX['_class_name']}")
    unet = read_json(folder / "unet/config.json")
    if unet.get("use_linear_projection") or isinstance(unet.get("attention_head_dim"), list):
        raise ValueError(f"folder: {folder} holds Stable Diffusion 2 (its U-Net has linear projections, or a number of "
                         "heads for each level); expected version 1, or a model of its shape")


def _check_memory(folder: Path, dtype: torch.dtype, device: torch.device) -> None:
    """Raises MemoryError before anything is allocated if the networks of a folder clearly do not fit."""
    files = [weights_file(folder / part, layout) for part, layout in _NEEDED]
    needed = sum(torch.Size(shape).numel() for file in files for shape in shapes_of(file).values()) * dtype.itemsize
    free = free_memory(device)
    if free is not None and needed > free:
        half = "" if dtype.itemsize == 2 else f"; in float16 it would be {needed / 2**31:.1f} GiB"
        raise MemoryError(f"folder: {folder} needs {needed / 2**30:.1f} GiB as {dtype}, and {free / 2**30:.1f} GiB are "
                          f"free on {device}{half}")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.is_file():
        return None
    return 1024 * int(table.read_text().split("MemAvailable:")[1].split()[0])


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
