"""Losses that see what people see: LPIPS over the features of a network, and a discriminator that judges patches.

Images are (B, 3, H, W) in [-1, 1]. The autoencoder is trained with both, as in Rombach et al. 2021 (arXiv:2112.10752)
and Esser et al. 2020 (VQGAN, arXiv:2012.09841).
"""
from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from . import DATA
from .files import load_weights, save_weights

FEATURES = DATA / "features" / "model.safetensors"
VGG_STAGES = (4, 9, 16, 23, 30)    # layers of torchvision's VGG16 up to relu1_2, 2_2, 3_3, 4_3 and 5_3


class FeatureNet(nn.Module):
    """Our own small VGG: stages of two convolutions, each at half the resolution of the one before.

    Image (B, 3, H, W) in [-1, 1] -> one feature map per stage, (B, C_i, H / 2^i, W / 2^i).
    """

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

    def save(self, path: Path = FEATURES) -> None:
        """Write the weights as float16 safetensors."""
        save_weights(self, path)

    @classmethod
    def load(cls, path: Path = FEATURES) -> FeatureNet:
        """The trained net. Raises FileNotFoundError or ValueError for a missing or damaged file."""
        return load_weights(cls(), path)


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


class LPIPS(nn.Module):
    """How different two images look: the distance between their features (Zhang et al. 2018, arXiv:1801.03924, eq. 1).

    net: image -> feature maps, with `channels`; weights: one vector (C_i,) per map, not negative. At every pixel the
    features become a unit vector; squared differences are weighted over channels, averaged over pixels, and summed
    over maps. Never trained: its parameters ask for no gradient.
    """

    def __init__(self, net: nn.Module, weights: list[Tensor]):
        super().__init__()
        sizes = [tuple(w.shape) for w in weights]
        if sizes != [(c,) for c in net.channels] or any((w < 0).any() for w in weights):
            raise ValueError(f"weights: got shapes {sizes}, expected one vector for each of {net.channels} channels, "
                             "with no negative entry")
        self.net = net.eval()
        self.weights = nn.ParameterList(weights)
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches of images (B, 3, H, W) in [-1, 1] -> distances (B,), 0 for equal images.

        Raises ValueError for other shapes and for pixels in 0...255; a decoder that has just begun may overshoot.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape != y.shape:
            raise ValueError(f"got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected twice (batch, 3, H, W)")
        largest = max(images.detach().abs().amax().item() for images in (x, y))
        if largest > 50:
            raise ValueError(f"images hold values up to {largest:.4g}, expected pixels in [-1, 1]; see worlds.to_float")
        maps = zip(self.net(x), self.net(y), self.weights)
        return sum(layer_distance(a, b, w) for a, b, w in maps)

    @classmethod
    def tiny(cls, path: Path = FEATURES) -> LPIPS:
        """Over our own FeatureNet, all maps and channels alike: the default, which needs no download."""
        net = FeatureNet.load(path)
        return cls(net, [torch.full((c,), 1 / len(net.channels)) for c in net.channels])

    @classmethod
    def vgg(cls) -> LPIPS:
        """Over VGG16 trained on ImageNet, with the weights that Zhang et al. fitted to people's judgements (v0.1).

        torchvision downloads and caches VGG16 (528 MB); the weights are part of the `lpips` package. Raises
        FileNotFoundError when VGG16 is neither cached nor to be had.
        """
        try:
            trunk = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        except (URLError, OSError) as error:
            cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_Weights.IMAGENET1K_V1.url).name
            raise FileNotFoundError(f"VGG16's weights are not in {cached} and cannot be fetched ({error}). "
                                    "LPIPS.tiny(), the default, needs no download.") from error
        net = VGGFeatures()
        net.layers.load_state_dict({name.removeprefix("features."): value for name, value in trunk.items()
                                    if name.startswith("features.")})
        fitted = torch.load(files("lpips") / "weights" / "v0.1" / "vgg.pth", map_location="cpu", weights_only=True)
        return cls(net, [fitted[f"lin{i}.model.1.weight"].flatten() for i in range(len(net.channels))])


def layer_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """One term of LPIPS: features (B, C, H, W) of two images, weights (C,) -> (B,)."""
    difference = (unit_features(a) - unit_features(b)).square()                           # (B, C, H, W)
    return torch.einsum("bchw,c->bhw", difference, weights).mean((1, 2))


def unit_features(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Divide the feature vector at every pixel by its length: (B, C, H, W) -> same. Where all are 0, 0.

    The length is taken of at least sqrt(eps²), so that the gradient at a zero vector is 0 and not NaN.
    """
    length = features.square().sum(1, keepdim=True).clamp(min=eps**2).sqrt()
    return features / (length + eps)


# --- The patch discriminator ----------------------------------------------------------------------------------------

class PatchDiscriminator(nn.Module):
    """Original or decoded? One answer for each patch: image (B, 3, H, W) -> logits (B, 1, H', W'), high for originals.

    The PatchGAN of Isola et al. 2017 (arXiv:1611.07004) with `layers` halvings; with two, a logit sees 34 pixels a
    side. Group norm stands where VQGAN has batch norm, for batches as small as ours.
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
    """What the discriminator minimises: logits above 1 for originals and below -1 for decoded images cost nothing.

    Any shapes -> (). Lim & Ye 2017 (arXiv:1705.02894).
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adversarial_loss(fake: Tensor) -> Tensor:
    """What the decoder minimises: minus the mean logit of its images. Any shape -> ()."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, most: float = 1e4) -> Tensor:
    """How much the adversarial loss may count: its gradient at the decoder's last layer made as long as the other's.

    Two scalar losses whose graphs reach `last` -> (), between 0 and `most`, a constant for autograd.
    VQGAN, eq. 7.
    """
    lengths = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0, most).detach()
