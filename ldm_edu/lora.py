"""Low-rank adaptation: a trained model learns something new in a few thousand numbers, kept in a small file.

Hu et al. 2021 (arXiv:2106.09685). Files are those of diffusers and of kohya's scripts, which most LoRAs for Stable
Diffusion come from.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .blocks import Attention
from .files import read_tensors, write_tensors
from .layouts import TEXT, UNET, refuse
from .pipeline import LatentDiffusion
from .second_stage import emphasis, latent_loss, stratified
from .training import Progress, TrainConfig, pick_batch, train


class LoRA(nn.Module):
    """W x + (alpha / rank) B A x instead of W x: W stays as it is, A and B learn. Hu et al. 2021, eq. 3.

    layer: that has W, a linear one or a convolution 1 x 1, or another LoRA on such a one. A: (rank, in), normal; B:
    (out, rank), zero, so that at first nothing changes. alpha: None is `rank`.
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float | None = None):
        super().__init__()
        weight = bare(layer).weight
        self.layer, self.scale = layer, (rank if alpha is None else alpha) / rank
        self.A = nn.Parameter(torch.randn(rank, weight.shape[1]).to(weight) / rank)
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(bare(self), nn.Conv2d):    # the same at every pixel
            low = F.conv2d(x, self.A[:, :, None, None])
            return self.layer(x) + self.scale * F.conv2d(low, self.B[:, :, None, None])
        return self.layer(x) + self.scale * (x @ self.A.T) @ self.B.T


def bare(layer: nn.Module) -> nn.Module:
    """The layer under its LoRAs, if it has any."""
    while isinstance(layer, LoRA):
        layer = layer.layer
    return layer


def add_lora(module: nn.Module, rank: int = 4, alpha: float | None = None) -> list[nn.Parameter]:
    """Give every projection of every attention in `module` a LoRA; the parameters that learn. All others stop learning.

    Raises ValueError for a rank under 1 and a module without an attention.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank: got {rank!r}, expected a positive integer")
    module.requires_grad_(False)
    places = [(parent, name) for parent, name in _places(module) if isinstance(parent, Attention)]
    if not places:
        raise ValueError(f"module: got a {type(module).__name__} without an Attention, which a LoRA is put on")
    for parent, name in places:
        setattr(parent, name, LoRA(getattr(parent, name), rank, alpha))
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def merge_lora(module: nn.Module) -> nn.Module:
    """Add every LoRA in `module` to the weights for good, so that it can be saved as any other; returns it."""
    for parent, name in _places(module):
        layer = getattr(parent, name)
        weight = bare(layer).weight
        while isinstance(layer, LoRA):
            weight.add_(layer.scale * (layer.B @ layer.A).view_as(weight))
            layer = layer.layer
        setattr(parent, name, layer)
    return module


def remove_lora(module: nn.Module) -> nn.Module:
    """Take every LoRA in `module` off again: the weights are what they were; returns it."""
    for parent, name in _places(module):
        setattr(parent, name, bare(getattr(parent, name)))
    return module


def save_lora(ldm: LatentDiffusion, path: str | Path) -> None:
    """Write the LoRAs of the U-Net and the text transformer for us and diffusers (`load_lora_weights`) to open.

    Several on one weight are added; scales go into B. Raises ValueError if there are none.
    """
    tensors = {}
    for key, (parent, name) in _keys(ldm).items():
        loras, layer = [], getattr(parent, name)
        while isinstance(layer, LoRA):
            loras.append(layer)
            layer = layer.layer
        if loras:
            tensors[f"{key}.lora_A.weight"] = torch.cat([lora.A for lora in loras])
            tensors[f"{key}.lora_B.weight"] = torch.cat([lora.scale * lora.B for lora in loras], dim=1)
    if not tensors:
        raise ValueError("ldm: got a model without a LoRA, expected one that add_lora or load_lora gave it")
    write_tensors(path, tensors)


def load_lora(ldm: LatentDiffusion, path: str | Path, scale: float = 1.0) -> None:
    """Put the LoRAs of a file onto the U-Net and the text transformer, on top of those that are there.

    Files of diffusers (PEFT's names and older ones) and of kohya's scripts. scale: how strongly, 0 is not at all.
    Raises FileNotFoundError; ValueError for a damaged file and for tensors that have no place, by name; then nothing
    has changed.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    wrong, keys = [], _keys(ldm)
    for name, tensor in read_tensors(path).items():
        key, part = _read_name(name, keys)
        if key is None:
            wrong.append(f"{name} has no place in the model")
        else:
            parts.setdefault(key, {})[part] = tensor
    for key, found in parts.items():
        A, B, size = found.get("A"), found.get("B"), bare(getattr(*keys[key])).weight.flatten(1).shape
        if A is None or B is None:
            wrong.append(f"{key} has only {', '.join(found)} of A and B")
        elif (B.shape[0], A.flatten(1).shape[1]) != size or len(A) != B.shape[1]:
            wrong.append(f"{key} has A {tuple(A.shape)} and B {tuple(B.shape)}, expected a product {tuple(size)}")
    refuse(path, wrong or ([] if parts else ["holds no LoRA"]))
    for key, found in parts.items():
        rank = len(found["A"])
        lora = LoRA(getattr(*keys[key]), rank, scale * float(found.get("alpha", rank))).requires_grad_(False)
        lora.A.copy_(found["A"].flatten(1))
        lora.B.copy_(found["B"].flatten(1))
        setattr(*keys[key], lora)


def learn_lora(ldm: LatentDiffusion, images: Tensor, prompts: list[str], config: TrainConfig, rank: int = 4,
               batch: int = 8) -> Iterator[Progress]:
    """Teach a model's U-Net what B pictures show and their prompts say; yields the progress of `train`.

    images: (B, 3, H, W) in [-1, 1]; one prompt each. The loss is that of the second stage, one prompt in ten is empty.
    The U-Net of `ldm` has the LoRA from the first step on: `save_lora` keeps it, `remove_lora` takes it off. Raises
    ValueError if images and prompts do not pair up.
    """
    if len(images) != len(prompts) or not len(images):
        raise ValueError(f"got {len(images)} images and {len(prompts)} prompts, expected as many, at least one")
    with torch.no_grad():
        latents, contexts, empty = ldm.autoencoder.to_latent(images), ldm.text(prompts), ldm.text([""])
    weight = emphasis(ldm.schedule).to(latents)
    add_lora(ldm.unet, rank)

    def loss_fn(unet: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), batch, generator)
        dropped = (torch.rand(batch, generator=generator) < 0.1).to(latents.device)
        context = torch.where(dropped[:, None, None], empty, contexts[pick])
        t = stratified(batch, ldm.schedule.T, generator).to(latents.device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(latents)
        return {"loss": (weight[t] * latent_loss(unet, latents[pick], context, t, eps, ldm.schedule)).mean()}

    yield from train(ldm.unet, loss_fn, config)


def _places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """(parent, name) of each layer in `module` that can have a LoRA, or has."""
    return [(parent, name) for parent in list(module.modules()) if not isinstance(parent, LoRA)
            for name, child in parent.named_children() if _fits(bare(child))]


def _fits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def _keys(ldm: LatentDiffusion) -> dict[str, tuple[nn.Module, str]]:
    """The layers that can have a LoRA, (parent, name), by diffusers' names."""
    found = {}
    for part, layout, model in (("unet", UNET, ldm.unet), ("text_encoder", TEXT, ldm.text.transformer)):
        paths = {id(module): path for path, module in model.named_modules()}
        for parent, name in _places(model):
            path = f"{paths[id(parent)]}.{name}.weight".removeprefix(".")
            found[f"{part}.{layout.theirs(path).removesuffix('.weight')}"] = parent, name
    return found


def _read_name(name: str, keys: dict[str, tuple]) -> tuple[str | None, str]:
    """(the layer that a file's tensor belongs to, "A", "B" or "alpha"); (None, "") if it has no place."""
    kinds = {"lora_A": "A", "lora_B": "B", "down": "A", "up": "B", "lora_down": "A", "lora_up": "B"}
    if match := re.fullmatch(r"lora_(unet|te)_(\w+)\.(?:(lora_down|lora_up)\.weight|alpha)", name):    # kohya
        part, path, kind = match.groups()
        kohya = {key.replace(".", "_"): key for key in keys}
        return kohya.get({"unet": "unet_", "te": "text_encoder_"}[part] + path), kinds.get(kind, "alpha")
    if match := re.fullmatch(r"(.+)\.(lora_[AB]|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)"
                             r"\.weight", name):                                         # PEFT, diffusers
        choices, kind = [match[1], f"{match[1]}.0"], match[2].split(".")[-1]
    elif match := re.fullmatch(r"(.+?)(?:\.processor)?\.to_(\w+)_lora\.(down|up)\.weight", name):    # older diffusers
        key, projection, kind = match.groups()
        choices = [f"{key}.to_{projection}", f"{key}.to_{projection}.0", f"{key}.{projection}_proj"]
    else:
        return None, ""
    return next((key for key in choices if key in keys), None), kinds[kind]
