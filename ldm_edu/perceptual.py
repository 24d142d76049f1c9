"""LPIPS, the patch discriminator and the adversarial losses, on images (B, 3, H, W) in [-1, 1].

Rombach et al. 2021 (arXiv:2112.10752); Esser et al. 2020 (VQGAN, arXiv:2012.09841).
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import DATA
from .support.checks import check_images
from .support.files import load_weights

FEATURES = DATA / "features" / "model.safetensors"


class FeatureNet(nn.Module):
    """A small VGG of our own: stages of two convolutions, each at half the resolution of the one before."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96)):
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU())
            for c_in, c_out in zip((3, *channels), channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if i else x)                                     # (B, C_i, H/2^i, W/2^i)
            features.append(x)
        return features

    @classmethod
    def load(cls, path: Path = FEATURES) -> FeatureNet:
        """Load the trained network."""
        return load_weights(cls(), path)


class LPIPS(nn.Module):
    """Perceptual distance between images: Zhang et al. 2018 (arXiv:1801.03924), eq. 1.

    net: image -> feature maps, with `channels`; weights: one vector (C_i,) per map.
    """

    def __init__(self, net: nn.Module, weights: list[Tensor]):
        super().__init__()
        self.net, self.weights = net.eval(), nn.ParameterList(weights)
        self.requires_grad_(False)    # never trained

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches of images (B, 3, H, W) in [-1, 1] -> distances (B,), 0 for equal images."""
        check_images("image", torch.cat([x, y]).nan_to_num(), largest=50)    # a decoder overshoots at first
        maps = zip(self.net(x), self.net(y), self.weights)
        return sum(layer_distance(a, b, w) for a, b, w in maps)

    @classmethod
    def tiny(cls, path: Path = FEATURES) -> LPIPS:
        """LPIPS over our own FeatureNet, all channels weighted alike; needs no download."""
        net = FeatureNet.load(path)
        return cls(net, [torch.full((c,), 1 / len(net.channels)) for c in net.channels])


def layer_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """One term of LPIPS: features (B, C, H, W) of two images, weights (C,) -> (B,)."""
    difference = (unit_features(a) - unit_features(b)).square()                           # (B, C, H, W)
    return torch.einsum("bchw,c->bhw", difference, weights).mean((1, 2))


def unit_features(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Divide the feature vector at every pixel by its length: (B, C, H, W) -> same."""
    length = features.square().sum(1, keepdim=True).clamp(min=eps**2).sqrt()    # clamped, or the gradient at 0 is NaN
    return features / (length + eps)


# --- The patch discriminator ----------------------------------------------------------------------------------------

class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv:1611.07004): image -> one logit per patch (B, 1, H', W'), high for originals.

    layers: halvings; with two, the receptive field is 34 pixels. Group norm, because our batches are small.
    """

    def __init__(self, width: int = 32, layers: int = 2):
        super().__init__()
        widths = [width * 2**min(i, 3) for i in range(layers + 1)]
        body = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (c_in, c_out) in enumerate(zip(widths, widths[1:]), 1):
            stride = 2 if i < layers else 1
            body += [nn.Conv2d(c_in, c_out, 4, stride, padding=1), nn.GroupNorm(8, c_out), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator: logits above 1 for originals and below -1 for fakes cost nothing."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adversarial_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the decoder: minus the mean logit of its images. Any shape -> ()."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, most: float = 1e4) -> Tensor:
    """Weight of the adversarial loss, 0 ... `most`, that makes both gradients at the decoder's last layer equally long.

    VQGAN, eq. 7. Two scalar losses -> (), without gradient.
    """
    lengths = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0, most).detach()
