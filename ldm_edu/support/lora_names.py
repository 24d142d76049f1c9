"""How the tensors of LoRA files are named: PEFT's names, older ones of diffusers, and those of kohya's scripts."""
from __future__ import annotations

import re
from collections.abc import Collection

_KINDS = {"lora_A": "A", "lora_B": "B", "down": "A", "up": "B", "lora_down": "A", "lora_up": "B"}


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
    return next((key for key in choices if key in keys), None), _KINDS[kind]
