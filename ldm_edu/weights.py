"""Models on disk, in the folders that diffusers and transformers write and read.

A folder holds `config.json` and one safetensors file. Loading is strict: every tensor has a home and a source, every
setting is one that we implement, or nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .autoencoder import Autoencoder
from .clip import CLIP, ImageTransformer, TextTransformer
from .files import read_json, read_tensors, write_json, write_tensors
from .layouts import (
    AUTOENCODER,
    IMAGE,
    TEXT,
    UNET,
    ClipLayout,
    Layout,
    config_from_json,
    config_to_json,
    refuse,
)
from .unet import UNet


def save_module(module: UNet | Autoencoder | TextTransformer | ImageTransformer, folder: str | Path,
                dtype: torch.dtype | None = None) -> None:
    """Write a model's folder, for us, diffusers and transformers to open; weights as `dtype`, if given."""
    layout = next(layout for layout in (UNET, AUTOENCODER, TEXT, IMAGE) if isinstance(module, layout.model))
    _save(module, folder, layout, config_to_json(layout, module.config), dtype)


def _save(module: nn.Module, folder: str | Path, layout: Layout | ClipLayout, config: dict, dtype) -> None:
    tensors = {layout.theirs(name): tensor.to(dtype or tensor.dtype)
               for name, tensor in module.state_dict().items()}
    write_tensors(Path(folder) / layout.file, tensors)
    write_json(Path(folder) / "config.json", config)


def load_unet(folder: str | Path) -> UNet:
    """Open a `UNet2DConditionModel` folder, in float32. Raises as `load_module`."""
    return load_module(UNET, folder)


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """Open an `AutoencoderKL` folder, in float32. Raises as `load_module`."""
    return load_module(AUTOENCODER, folder)


def load_text(folder: str | Path) -> TextTransformer:
    """Open a `CLIPTextModel` folder, in float32. Raises as `load_module`."""
    return load_module(TEXT, folder)


def load_image(folder: str | Path) -> ImageTransformer:
    """Open a `CLIPVisionModel` folder, in float32. Raises as `load_module`."""
    return load_module(IMAGE, folder)


def load_module(layout: Layout, folder: str | Path) -> nn.Module:
    """Open a folder.

    Raises FileNotFoundError for a folder or file that is not there; ValueError for a damaged file, a setting
    that we do not implement, and a tensor that is missing, has no home or has another shape, each by name.
    """
    config = config_from_json(layout, _read_config(folder, layout), Path(folder) / "config.json")
    return _fill(lambda: layout.model(config), folder, layout)


def _fill(build: Callable[[], nn.Module], folder: str | Path, layout: Layout | ClipLayout) -> nn.Module:
    """The model that `build` makes, with the weights in `folder`: every tensor, and no other."""
    # A copy of every tensor: aligned memory, so the same bits as before saving, and none of it in the file.
    # `position_ids`, in files of older transformers, are just 0, 1, 2, …
    file = Path(folder) / layout.file
    tensors = {layout.ours(name): tensor.to(torch.float32, copy=True)
               for name, tensor in read_tensors(file).items() if not name.endswith("position_ids")}
    with torch.device("meta"):    # shapes only: the weights come from the file
        model = build()
    wanted = model.state_dict()
    for name in tensors.keys() & wanted.keys():
        if tensors[name].shape == (*wanted[name].shape, 1, 1):    # an old 1 × 1 convolution, now linear
            tensors[name] = tensors[name].flatten(1)
    wrong = [f"{layout.theirs(n)} is missing" for n in wanted if n not in tensors]
    wrong += [f"{layout.theirs(n)} has no place in the model" for n in tensors if n not in wanted]
    wrong += [f"{layout.theirs(n)} has shape {tuple(t.shape)}, expected {tuple(wanted[n].shape)}"
              for n, t in tensors.items() if n in wanted and t.shape != wanted[n].shape]
    refuse(file, wrong)
    model.load_state_dict(tensors, assign=True)
    return model


def save_clip(clip: CLIP, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a `CLIPModel` folder; weights as `dtype`, if given."""
    width = dict(projection_dim=clip.text_projection.out_features)
    config = dict(architectures=["CLIPModel"], model_type="clip", dtype="float32", **width,
                  text_config=config_to_json(TEXT, clip.text.config) | width,
                  vision_config=config_to_json(IMAGE, clip.image.config) | width)
    _save(clip, folder, ClipLayout(), config, dtype)


def load_clip(folder: str | Path) -> CLIP:
    """Open a `CLIPModel` folder, in float32. Raises as `load_module`."""
    found, source = _read_config(folder, ClipLayout()), Path(folder) / "config.json"
    refuse(source, [f"{key} is missing" for key in ("text_config", "vision_config", "projection_dim")
                     if key not in found])
    text, image = (config_from_json(layout, found[key], f"{source}: {key}")
                   for layout, key in ((TEXT, "text_config"), (IMAGE, "vision_config")))
    width = found["projection_dim"]
    return _fill(lambda: CLIP(TextTransformer(text), ImageTransformer(image), width), folder, ClipLayout())


def _read_config(folder: str | Path, layout: Layout | ClipLayout) -> dict:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}, expected one with config.json and {layout.file}")
    return read_json(Path(folder) / "config.json")
