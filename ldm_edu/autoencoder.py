"""The first stage: a KL autoencoder between images and latents (Rombach et al. 2021, section 3.1).

Images are (B, 3, H, W) in [-1, 1]; latents are (B, 4, H/f, W/f), f = 2^(levels - 1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention, Downsample, ResBlock, Upsample

EPS = 1e-6    # of every norm here; the U-Net's residual blocks have 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion v1's.

    Raises ValueError for channels that the norm groups do not divide.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)    # per level, from the image inwards
    layers: int = 2                  # residual blocks per level of the encoder; the decoder has one more
    groups: int = 32                 # of every GroupNorm
    latent_channels: int = 4
    image_channels: int = 3
    scale: float = 0.18215           # 1 / std of the training latents: the diffusion model sees unit variance

    def __post_init__(self):
        if not self.channels or any(c % self.groups for c in self.channels):
            raise ValueError(f"channels={self.channels} must be multiples of groups={self.groups}")


TINY = AutoencoderConfig(channels=(16, 32, 64, 96), layers=1, groups=8)


def _level(in_channels: int, out_channels: int, layers: int, groups: int,
           **resample: nn.Module) -> nn.Sequential:
    """`layers` residual blocks at one resolution, then the step to the next."""
    widths = [in_channels] + [out_channels] * layers
    resnets = nn.Sequential(*(ResBlock(i, o, groups=groups, eps=EPS) for i, o in zip(widths, widths[1:])))
    return nn.Sequential(OrderedDict(resnets=resnets, **resample))


class Bottleneck(nn.Module):
    """At the lowest resolution every pixel may look at every other. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups=groups, eps=EPS) for _ in range(2))
        self.attention = PixelAttention(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attention(self.resnets[0](x)))


class PixelAttention(Attention):
    """Single-headed self-attention among the pixels of a feature map, added back. (B, C, h, w) -> same."""

    def __init__(self, channels: int, groups: int):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)                                 # (B, hw, C)
        h = super().forward(h).transpose(1, 2).unflatten(2, x.shape[2:])                  # (B, C, h, w)
        return h + x    # in this order the sum inherits h's channels-last layout, a tenth faster to decode


class Encoder(nn.Module):
    """Image (B, 3, H, W) -> features (B, 2 × latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, layers, groups = config.channels, config.layers, config.groups
        self.conv_in = nn.Conv2d(config.image_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.Sequential()
        for i, (c_in, c_out) in enumerate(zip((channels[0], *channels), channels)):
            last = i == len(channels) - 1
            down = nn.Identity() if last else Downsample(c_out, padding=(0, 1, 0, 1))
            self.down_blocks.append(_level(c_in, c_out, layers, groups, downsample=down))
        self.mid_block = Bottleneck(channels[-1], groups)
        self.norm_out = nn.GroupNorm(groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down_blocks(self.conv_in(x))                                             # (B, C, H/f, W/f)
        x = self.mid_block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latent (B, latent_channels, h, w) -> image (B, 3, f h, f w), in [-1, 1] up to the model's errors."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, layers, groups = config.channels[::-1], config.layers, config.groups
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = Bottleneck(channels[0], groups)
        self.up_blocks = nn.Sequential()
        for i, (c_in, c_out) in enumerate(zip((channels[0], *channels), channels)):
            last = i == len(channels) - 1
            up = nn.Identity() if last else Upsample(c_out)
            self.up_blocks.append(_level(c_in, c_out, layers + 1, groups, upsample=up))
        self.norm_out = nn.GroupNorm(groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        x = self.up_blocks(x)                                                             # (B, C, f h, f w)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Images to the Gaussian q(z | x) over latents, and latents back to images.

    Raises ValueError for a tensor of the wrong rank or channels, an image that f does not divide, or pixels that are
    not in [-1, 1] (`check_pixels`).
    """

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    @property
    def factor(self) -> int:
        """f, pixels per latent pixel and side."""
        return 2 ** (len(self.config.channels) - 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) -> mean and log-variance of q(z | x), each (B, 4, H/f, W/f), before scaling."""
        _check_channels("image", x, self.config.image_channels)
        check_pixels("image", x)
        height, width = x.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"image size {height} × {width}: both sides must be multiples of {self.factor}")
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Latent before scaling (B, 4, h, w) -> image (B, 3, f h, f w)."""
        _check_channels("latent", z, self.config.latent_channels)
        return self.decoder(self.post_quant_conv(z))

    def to_latent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image -> what the diffusion model sees: `scale` times the mean or, given a generator, a sample."""
        z, logvar = self.encode(x)
        if generator is not None:
            noise = torch.randn(z.shape, generator=generator, device=generator.device)
            z = z + (0.5 * logvar).exp() * noise.to(z)
        return self.config.scale * z

    def from_latent(self, z: Tensor) -> Tensor:
        """The way back: divide by `scale`, decode."""
        return self.decode(z / self.config.scale)


class VectorQuantizer(nn.Module):
    """The other way to keep latents tame: every latent pixel becomes the nearest of `size` learned vectors, the codes.

    `codebook`: (size, channels). commitment: how much the latents are drawn to their codes, compared with the codes
    to the latents. van den Oord et al. 2017 (VQ-VAE, arXiv:1711.00937), eq. 1 to 3; Esser et al. 2020 (VQGAN,
    arXiv:2012.09841), eq. 2 and 4.
    """

    def __init__(self, size: int, channels: int = 4, commitment: float = 0.25):
        super().__init__()
        self.commitment = commitment
        self.codebook = nn.Parameter(torch.empty(size, channels).uniform_(-1 / size, 1 / size))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent (B, channels, h, w) -> the codes in its place (same shape), the loss (), their numbers (B, h, w).

        Choosing has no gradient. The decoder's passes straight through, to z, as if nothing had been chosen; the
        loss moves codes and latents towards each other. Raises ValueError for a latent of another rank or width.
        """
        _check_channels("latent", z, self.codebook.shape[1])
        vectors = z.movedim(1, -1)                                                        # (B, h, w, channels)
        with torch.no_grad():
            numbers = torch.cdist(vectors.flatten(0, 2), self.codebook).argmin(1).view(vectors.shape[:3])
        codes = self.codebook[numbers].movedim(-1, 1)                                     # (B, channels, h, w)
        loss = F.mse_loss(codes, z.detach()) + self.commitment * F.mse_loss(z, codes.detach())
        return z + (codes - z).detach(), loss, numbers


def perplexity(numbers: Tensor, size: int) -> Tensor:
    """How many of `size` codes are in use: e to the entropy of their shares, from 1 to `size`. Any shape -> ()."""
    shares = torch.bincount(numbers.flatten(), minlength=size) / numbers.numel()
    return torch.special.entr(shares).sum().exp()


def _check_channels(name: str, x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (batch, {channels}, height, width)")


def check_pixels(name: str, x: Tensor) -> None:
    """Refuse, with ValueError, pixels that are clearly not in [-1, 1]: 0...255, or NaN.

    Up to 10 passes: decoders overshoot, and noise may be encoded. Pixels in [0, 1] cannot be told from dim ones.
    """
    largest = x.detach().abs().amax() if x.numel() else 0.0
    if not largest <= 10:
        raise ValueError(f"{name} holds values up to {largest:.4g}, expected pixels in [-1, 1]; see worlds.to_float")
