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
from .files import read_json, shapes_of, stream_tensors, write_json, write_tensors
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
    """Write a model's folder, for us, diffusers and transformers to open; weights as `dtype`, if given.

    Raises ValueError, having written nothing, for a model with layers that its config does not tell of, such as a LoRA.
    """
    layout = next(layout for layout in (UNET, AUTOENCODER, TEXT, IMAGE) if isinstance(module, layout.model))
    with torch.device("meta"):
        plain = layout.model(module.config).state_dict()
    if more := [name for name in module.state_dict() if name not in plain]:
        raise ValueError(f"module: got tensors that a plain {layout.model.__name__} has not ({more[0]}, ...), expected "
                         "none; merge a LoRA first, see merge_lora")
    _save(module, folder, layout, config_to_json(layout, module.config), dtype)


def _save(module: nn.Module, folder: str | Path, layout: Layout | ClipLayout, config: dict, dtype) -> None:
    tensors = {layout.theirs(name): tensor.to(dtype or tensor.dtype)
               for name, tensor in module.state_dict().items()}
    write_tensors(Path(folder) / layout.file, tensors)
    write_json(Path(folder) / "config.json", config)


def load_unet(folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> UNet:
    """Open a `UNet2DConditionModel` folder. Raises as `load_module`."""
    return load_module(UNET, folder, dtype, device)


def load_autoencoder(folder: str | Path, dtype: torch.dtype = torch.float32,
                     device: str | torch.device = "cpu") -> Autoencoder:
    """Open an `AutoencoderKL` folder. Raises as `load_module`."""
    return load_module(AUTOENCODER, folder, dtype, device)


def load_text(folder: str | Path, dtype: torch.dtype = torch.float32,
              device: str | torch.device = "cpu") -> TextTransformer:
    """Open a `CLIPTextModel` folder. Raises as `load_module`."""
    return load_module(TEXT, folder, dtype, device)


def load_image(folder: str | Path, dtype: torch.dtype = torch.float32,
               device: str | torch.device = "cpu") -> ImageTransformer:
    """Open a `CLIPVisionModel` folder. Raises as `load_module`."""
    return load_module(IMAGE, folder, dtype, device)


def load_module(layout: Layout, folder: str | Path, dtype: torch.dtype = torch.float32,
                device: str | torch.device = "cpu") -> nn.Module:
    """Open a folder, its weights as `dtype` on `device`, whatever they are in the file.

    Raises FileNotFoundError for a folder or file that is not there; ValueError for a damaged file, a setting
    that we do not implement, and a tensor that is missing, has no home or has another shape, each by name.
    """
    config = config_from_json(layout, _read_config(folder, layout), Path(folder) / "config.json")
    return _fill(lambda: layout.model(config), folder, layout, dtype, device)


def weights_file(folder: str | Path, layout: Layout | ClipLayout) -> Path:
    """The file with the weights in a model's folder, or the one in half precision (".fp16") if there is only that.

    Raises FileNotFoundError if there is neither; that of a pickle (".bin") says why it is not read and what helps.
    """
    folder, name = Path(folder), layout.file
    half = folder / name.replace(".safetensors", ".fp16.safetensors")
    if (folder / name).is_file() or not half.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles and not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} lacks {name}; {pickles[0]} is a pickle, which may run any code and is not read. Open the "
                "model once in diffusers or transformers, if you trust it, and save_pretrained it there")
        return folder / name
    return half


def _fill(build: Callable[[], nn.Module], folder: str | Path, layout: Layout | ClipLayout,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> nn.Module:
    """The model that `build` makes, with the weights in `folder`: every tensor, and no other."""
    # `position_ids`, in files of older transformers, are just 0, 1, 2, …
    file = weights_file(folder, layout)
    shapes = {layout.ours(name): shape for name, shape in shapes_of(file).items() if not _dropped(name)}
    with torch.device("meta"):    # shapes only: the weights come from the file, if they fit
        model = build()
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    flat = {name for name in shapes.keys() & wanted.keys() if shapes[name] == (*wanted[name], 1, 1)}
    wrong = [f"{layout.theirs(n)} is missing" for n in wanted if n not in shapes]
    wrong += [f"{layout.theirs(n)} has no place in the model" for n in shapes if n not in wanted]
    wrong += [f"{layout.theirs(n)} has shape {shape}, expected {wanted[n]}"
              for n, shape in shapes.items() if n in wanted and n not in flat and shape != wanted[n]]
    refuse(file, wrong)
    tensors = {layout.ours(name): tensor for name, tensor in stream_tensors(file, dtype, device) if not _dropped(name)}
    tensors |= {name: tensors[name].flatten(1) for name in flat}    # an old 1 × 1 convolution, now linear
    model.load_state_dict(tensors, assign=True)
    return model


def _dropped(name: str) -> bool:
    return name.endswith("position_ids")


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
