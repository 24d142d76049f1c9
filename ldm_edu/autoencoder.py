"""The KL autoencoder between images (B, 3, H, W) in [-1, 1] and latents (B, 4, H/f, W/f), f = 2^(levels - 1).

Rombach et al. 2021, section 3.1.
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention, Downsample, ResBlock, Upsample
from .support.checks import check_images, expect

EPS = 1e-6    # of every norm here; the U-Net's residual blocks have 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion v1's."""

    channels: tuple[int, ...] = (128, 256, 512, 512)    # per level, from the image inwards
    layers: int = 2                  # residual blocks per level of the encoder; the decoder has one more
    groups: int = 32                 # of every GroupNorm
    latent_channels: int = 4
    image_channels: int = 3
    scale: float = 0.18215           # 1 / std of the training latents: the diffusion model sees unit variance

    def __post_init__(self):
        expect(self.channels and not any(c % self.groups for c in self.channels), "channels", self.channels,
               f"multiples of groups={self.groups}")


TINY = AutoencoderConfig(channels=(16, 32, 64, 96), layers=1, groups=8)


def _level(in_channels: int, out_channels: int, layers: int, groups: int,
           **resample: nn.Module) -> nn.Sequential:
    """`layers` residual blocks at one resolution, then the step to the next."""
    widths = [in_channels] + [out_channels] * layers
    resnets = nn.Sequential(*(ResBlock(i, o, groups=groups, eps=EPS) for i, o in zip(widths, widths[1:])))
    return nn.Sequential(OrderedDict(resnets=resnets, **resample))


class Bottleneck(nn.Module):
    """The lowest resolution: residual block, attention among all pixels, residual block. (B, C, h, w) -> same."""

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
    """Latent (B, latent_channels, h, w) -> image (B, 3, f h, f w), about in [-1, 1]."""

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
    """Images to the Gaussian q(z | x) over latents, and latents back to images."""

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        self.factor = 2 ** (len(config.channels) - 1)    # f, pixels per latent pixel and side
        z = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) -> mean and log-variance of q(z | x), each (B, 4, H/f, W/f), before scaling."""
        check_images("image", x, self.config.image_channels, self.factor)
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Latent before scaling (B, 4, h, w) -> image (B, 3, f h, f w)."""
        return self.decoder(self.post_quant_conv(z))

    def to_latent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image -> the latent that the diffusion model sees: `scale` times the mean or, given a generator, a sample."""
        z, logvar = self.encode(x)
        if generator is not None:
            noise = torch.randn(z.shape, generator=generator, device=generator.device)
            z = z + (0.5 * logvar).exp() * noise.to(z)
        return self.config.scale * z

    def from_latent(self, z: Tensor) -> Tensor:
        """Scaled latent -> image: divide by `scale`, decode."""
        return self.decode(z / self.config.scale)
