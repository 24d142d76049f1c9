"""LPIPS over VGG16, with the published weights: for those who have them, or a network to fetch them."""
from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from ..perceptual import LPIPS

VGG_STAGES = (4, 9, 16, 23, 30)    # layers of torchvision's VGG16 up to relu1_2, 2_2, 3_3, 4_3 and 5_3


class VGGFeatures(nn.Module):
    """The five feature maps of VGG16 that LPIPS compares; forward as in FeatureNet."""

    channels = (64, 128, 256, 512, 512)

    def __init__(self):
        super().__init__()
        self.layers = vgg16(weights=None).features[:VGG_STAGES[-1]]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))    # ImageNet's mean and
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))       # std, for [-1, 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = (x - self.shift) / self.scale, []
        for number, layer in enumerate(self.layers, 1):
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)    # never in place: the maps are kept
            if number in VGG_STAGES:
                features.append(x)
        return features


def vgg_lpips() -> LPIPS:
    """Build LPIPS over VGG16 trained on ImageNet, with the weights of Zhang et al. (v0.1), fitted to human judgements.

    torchvision downloads and caches VGG16 (528 MB); the weights are part of the `lpips` package. Raises
    FileNotFoundError when VGG16 is neither cached nor reachable.
    """
    published = VGG16_Weights.IMAGENET1K_V1
    try:
        trunk = published.get_state_dict(progress=True)
    except OSError as error:    # URLError is one
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        raise FileNotFoundError(f"VGG16's weights are not in {cached} and cannot be downloaded ({error}). "
                                "LPIPS.tiny(), the default, needs no download.") from error
    net = VGGFeatures()
    net.layers.load_state_dict({name.removeprefix("features."): value for name, value in trunk.items()
                                if name.startswith("features.")})
    fitted = torch.load(files("lpips") / "weights" / "v0.1" / "vgg.pth", map_location="cpu", weights_only=True)
    return LPIPS(net, [fitted[f"lin{i}.model.1.weight"].flatten() for i in range(len(net.channels))])
