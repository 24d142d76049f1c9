"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): a trained model learns something new in few numbers."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention
from .pipeline import LatentDiffusion
from .support.checks import check_integer, expect
from .support.files import write_tensors
from .support.lora_files import NOTE, read_lora, read_note
from .weights import TEXT, UNET


class LoRA(nn.Module):
    """W x + (alpha / rank) B A x instead of W x; W is frozen, A and B learn. Hu et al. 2021, eq. 3.

    layer: the nn.Linear or 1×1 nn.Conv2d to adapt, or a LoRA on one. A: (rank, in), B: (out, rank).
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float | None = None):
        super().__init__()
        weight = base_layer(layer).weight
        self.layer, self.scale = layer, (rank if alpha is None else alpha) / rank
        self.A = nn.Parameter(torch.randn(rank, weight.shape[1]).to(weight) / rank)
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight))    # so that at first nothing changes

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(base_layer(self), nn.Conv2d):    # the same at every pixel
            low = F.conv2d(x, self.A[:, :, None, None])
            return self.layer(x) + self.scale * F.conv2d(low, self.B[:, :, None, None])
        return self.layer(x) + self.scale * (x @ self.A.T) @ self.B.T


def base_layer(layer: nn.Module) -> nn.Module:
    """Return the layer under its LoRAs, if it has any."""
    while isinstance(layer, LoRA):
        layer = layer.layer
    return layer


def add_lora(module: nn.Module, rank: int = 4, alpha: float | None = None,
             everywhere: bool = False) -> list[nn.Parameter]:
    """Add a LoRA to every attention projection, freeze everything else, return the trainable parameters.

    everywhere: to every other linear layer and convolution 1 × 1, too.
    """
    check_integer("rank", rank, 1, 4096)
    module.requires_grad_(False)
    places = [(parent, name) for parent, name in _places(module) if everywhere or isinstance(parent, Attention)]
    expect(places, "module", f"a {type(module).__name__} without an Attention", "one to put a LoRA on")
    for parent, name in places:
        setattr(parent, name, LoRA(getattr(parent, name), rank, alpha))
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def merge_lora(module: nn.Module) -> nn.Module:
    """Add every LoRA in `module` to the weights for good, so that it can be saved like any other; return it."""
    for parent, name in _places(module):
        layer = getattr(parent, name)
        weight = base_layer(layer).weight
        for lora in _stack(layer):
            weight.add_(lora.scale * (lora.B @ lora.A).view_as(weight))
        setattr(parent, name, base_layer(layer))
    return module


def remove_lora(module: nn.Module) -> nn.Module:
    """Take every LoRA in `module` off again, and return it."""
    for parent, name in _places(module):
        if isinstance(layer := getattr(parent, name), LoRA):
            module.distilled = False
            setattr(parent, name, base_layer(layer))
    return module


def save_lora(ldm: LatentDiffusion, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the LoRAs of the U-Net and the text transformer for us and diffusers (`load_lora_weights`) to open.

    That of a distilled model notes which weights it was made for. dtype: of the tensors, by default their own.
    """
    tensors = {}
    for key, (parent, name) in _keys(ldm).items():
        if loras := list(_stack(getattr(parent, name))):    # several on one weight are added; scales go into B
            A, B = torch.cat([lora.A for lora in loras]), torch.cat([lora.scale * lora.B for lora in loras], dim=1)
            if isinstance(base_layer(loras[0]), nn.Conv2d):
                A, B = A[:, :, None, None], B[:, :, None, None]
            tensors |= {f"{key}.lora_{part}.weight": value.to(dtype or value.dtype)
                        for part, value in (("A", A), ("B", B))}
    expect(tensors, "ldm", "a model without a LoRA", "one that add_lora or load_lora gave it")
    write_tensors(path, tensors, {NOTE: json.dumps({"made_for": fingerprint(ldm.unet)})} if ldm.distilled else None)


def load_lora(ldm: LatentDiffusion, path: str | Path, scale: float = 1.0) -> None:
    """Put the LoRAs of a file on the U-Net and the text transformer. scale: how strongly; 0 is not at all.

    path: of a safetensors file, or of a folder with pytorch_lora_weights.safetensors. Raises FileNotFoundError;
    ValueError for a damaged file, tensors without a place, and a distilled LoRA that was made for another U-Net, and
    has changed nothing. With a distilled one guidance is 1 and the spacing "trailing" until `remove_lora`.
    """
    keys = _keys(ldm)
    sizes = {key: tuple(base_layer(getattr(*place)).weight.flatten(1).shape) for key, place in keys.items()}
    found, made_for = read_lora(path, sizes), read_note(path).get("made_for")
    if made_for is not None:
        own = torch.tensor(fingerprint(ldm.unet))
        expect(not ldm.distilled, "ldm", "a model that is distilled already", "one that is not; see remove_lora")
        expect(len(own) == len(made_for) and (own - torch.tensor(made_for)).norm() < 0.01 * own.norm(), "path",
               f"{path}, a LoRA that was distilled from another model", "one made for the weights of this U-Net; on "
               "any other it draws badly")
        ldm.unet.distilled = True
    for key, (A, B, alpha) in found.items():
        lora = LoRA(getattr(*keys[key]), len(A), scale * alpha).requires_grad_(False)
        lora.A.copy_(A)
        lora.B.copy_(B)
        setattr(*keys[key], lora)


def fingerprint(module: nn.Module) -> list[float]:
    """Return the first weight of each layer that can have a LoRA, to four digits: half precision changes it little."""
    layers = [base_layer(getattr(*place)) for place in _places(module)]
    return [float(f"{layer.weight.flatten()[0].item():.4g}") for layer in layers]


def _stack(layer: nn.Module) -> Iterator[LoRA]:
    """The LoRAs on a layer, the last one first."""
    while isinstance(layer, LoRA):
        yield layer
        layer = layer.layer


def _places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """(parent, name) of each layer in `module` that can have a LoRA, or has."""
    return [(parent, name) for parent in list(module.modules()) if not isinstance(parent, LoRA)
            for name, child in parent.named_children() if _fits(base_layer(child))]


def _fits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def _keys(ldm: LatentDiffusion) -> dict[str, tuple[nn.Module, str]]:
    """The layers that can have a LoRA, as (parent, name), by diffusers' names."""
    found = {}
    for part, layout, model in (("unet", UNET, ldm.unet), ("text_encoder", TEXT, ldm.text.transformer)):
        paths = {id(module): path for path, module in model.named_modules()}
        for parent, name in _places(model):
            path = f"{paths[id(parent)]}.{name}.weight".removeprefix(".")
            found[f"{part}.{layout.theirs(path).removesuffix('.weight')}"] = parent, name
    return found
