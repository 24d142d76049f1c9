"""CLIP on disk: both transformers in one folder, transformers' `CLIPModel`."""
from __future__ import annotations

from pathlib import Path

import torch

from ..clip import CLIP, ImageTransformer, TextTransformer
from ..support.checks import refuse
from ..weights import IMAGE, TEXT, config_from_json, config_to_json, fill, read_config, save_folder


class ClipLayout:
    """How both transformers of CLIP lie in one folder, transformers' `CLIPModel`."""

    file, holds = "model.safetensors", TEXT.holds

    def ours(self, name: str) -> str:
        for part, layout in (("text.", TEXT), ("image.", IMAGE)):
            if name.startswith(layout.prefix):
                return part + layout.ours(name)
        return name

    def theirs(self, name: str) -> str:
        part, _, rest = name.partition(".")
        return {"text": TEXT, "image": IMAGE}[part].theirs(rest) if part in ("text", "image") else name


def save_clip(clip: CLIP, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a `CLIPModel` folder; weights as `dtype`, if given."""
    width = dict(projection_dim=clip.text_projection.out_features)
    config = dict(architectures=["CLIPModel"], model_type="clip", dtype="float32", **width,
                  text_config=config_to_json(TEXT, clip.text.config) | width,
                  vision_config=config_to_json(IMAGE, clip.image.config) | width)
    save_folder(clip, folder, ClipLayout(), config, dtype)


def load_clip(folder: str | Path) -> CLIP:
    """Open a `CLIPModel` folder, in float32. Raises as `load_module`."""
    found, source = read_config(folder, ClipLayout()), Path(folder) / "config.json"
    refuse(source, [f"{key} is missing" for key in ("text_config", "vision_config", "projection_dim")
                    if key not in found])
    text, image = (config_from_json(layout, found[key], f"{source}: {key}")
                   for layout, key in ((TEXT, "text_config"), (IMAGE, "vision_config")))
    width = found["projection_dim"]
    return fill(lambda: CLIP(TextTransformer(text), ImageTransformer(image), width), folder, ClipLayout())
