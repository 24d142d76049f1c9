"""LoRA files: the names of PEFT, those of diffusers, new and old, and those of kohya's scripts; and what alpha is."""
from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from .checks import refuse
from .files import metadata_of, read_tensors
from .hub import refuse_pickle

NOTE = "ldm_edu"    # in the header of a distilled model's LoRA: which weights it was made for
_KINDS = {"lora_A": "A", "lora_B": "B", "down": "A", "up": "B", "lora_down": "A", "lora_up": "B"}


def read_lora(path: str | Path, sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Read A (rank, in), B (out, rank) and alpha of each layer in a file, or in a folder that diffusers saved.

    sizes: (out, in) of the layers that can have a LoRA, by diffusers' names. Raises FileNotFoundError; ValueError for a
    pickle, a damaged file, and tensors without a place, of another shape or without a partner, each by name.
    """
    path = lora_file(path)
    refuse_pickle(path)
    parts: dict[str, dict[str, Tensor]] = {}
    wrong, found = [], {}
    for name, tensor in read_tensors(path).items():
        key, part = read_name(name, sizes)
        if key is None:
            wrong.append(f"{name} has no place in the model")
        else:
            parts.setdefault(key, {})[part] = tensor
    header = json.loads(metadata_of(path).get("lora_adapter_metadata", "{}"))
    for key, part in parts.items():
        A, B = part.get("A"), part.get("B")
        if A is None or B is None:
            wrong.append(f"{key} has only {', '.join(part)} of A and B")
        elif (B.shape[0], A.flatten(1).shape[1]) != sizes[key] or len(A) != B.shape[1]:
            wrong.append(f"{key} has A {tuple(A.shape)} and B {tuple(B.shape)}, expected a product {sizes[key]}")
        else:
            alpha = part["alpha"].item() if "alpha" in part else header_alpha(header, key, len(A))
            found[key] = A.flatten(1), B.flatten(1), alpha
    refuse(path, wrong or ([] if parts else ["holds no LoRA"]))
    return found


def lora_file(path: str | Path) -> Path:
    """Return the file that diffusers opens: `path` itself, or the one in a folder."""
    return Path(path) / "pytorch_lora_weights.safetensors" if Path(path).is_dir() else Path(path)


def read_note(path: str | Path) -> dict:
    """Read what we noted in the header of a LoRA's file; {} if nothing."""
    return json.loads(metadata_of(lora_file(path)).get(NOTE, "{}"))


def header_alpha(header: dict, key: str, rank: int) -> float:
    """Return the alpha of a layer by PEFT's settings in a file's header; without any it is the rank.

    header: such as {"unet.r": 4, "unet.lora_alpha": 8}, or without "unet.". use_rslora divides alpha by the root of the
    rank, and not by the rank (arXiv:2312.03732).
    """
    part, path = key.split(".", 1)
    own = {name.removeprefix(f"{part}."): value for name, value in header.items() if name.startswith(f"{part}.")}
    if not own and part == "unet" and not any("." in name for name in header):
        own = header
    alphas = own.get("alpha_pattern") or {}
    pattern = next((pattern for pattern in alphas if re.match(rf"(.*\.)?({pattern})$", path)), None)
    alpha = own.get("lora_alpha", rank) if pattern is None else alphas[pattern]
    return alpha * (rank**0.5 if own.get("use_rslora") else 1)


def read_name(name: str, keys: Collection[str]) -> tuple[str | None, str]:
    """Return the one of `keys` that a tensor belongs to and "A", "B" or "alpha"; (None, "") if it has no place."""
    if match := re.fullmatch(r"lora_(unet|te)_(\w+)\.(?:(lora_down|lora_up)\.weight|alpha)", name):    # kohya
        part, path, kind = match.groups()
        kohya = {key.replace(".", "_"): key for key in keys}
        return kohya.get({"unet": "unet_", "te": "text_encoder_"}[part] + path), _KINDS.get(kind, "alpha")
    if match := re.fullmatch(r"(.+)\.(lora_[AB]|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)"
                             r"\.weight", name):                                         # PEFT, diffusers
        choices, kind = [match[1], f"{match[1]}.0"], match[2].split(".")[-1]
    elif match := re.fullmatch(r"(.+?)(?:\.processor)?\.to_(\w+)_lora\.(down|up)\.weight", name):    # older diffusers
        key, projection, kind = match.groups()
        choices = [f"{key}.to_{projection}", f"{key}.to_{projection}.0", f"{key}.{projection}_proj"]
    else:
        return None, ""
    # save_attn_procs leaves out the U-Net's name, transformers 5 the part text_model.
    choices += [f"unet.{choice}" for choice in choices] + [
        choice.replace("text_encoder.", "text_encoder.text_model.", 1) for choice in choices]
    return next((key for key in choices if key in keys), None), _KINDS[kind]
