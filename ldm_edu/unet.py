"""The U-Net that predicts the noise in a latent, given timestep and context. Rombach et al. 2021, 3.2 and 3.3."""
from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Downsample, ResBlock, SpatialTransformer, Upsample, timestep_embedding, zero_init
from .support.checks import expect


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net; the defaults are Stable Diffusion v1's."""

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)            # per level, from full resolution down
    attention: tuple[bool, ...] = (True, True, True, False)       # per level; the middle always has it
    layers: int = 2              # residual blocks per level on the way down; one more on the way up
    heads: int = 8               # of every attention, so their width grows with the channels
    context_dim: int = 768       # width of the text states
    groups: int = 32             # of every GroupNorm
    sample_size: int = 64        # side of the training latents: the size of a picture if none is asked for

    def __post_init__(self):
        expect(self.channels and len(self.attention) == len(self.channels), "attention", self.attention,
               f"one entry for each of channels={self.channels}")
        expect(not any(c % self.groups or c % self.heads for c in self.channels), "channels", self.channels,
               f"multiples of groups={self.groups} and heads={self.heads}")


TINY = UNetConfig(
    channels=(64, 128), attention=(True, True), heads=4, context_dim=128, groups=16, sample_size=8)


class Level(nn.Module):
    """One resolution: residual blocks with these in_channels, each followed by attention to the context, or not."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool):
        super().__init__()
        time_dim = 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResBlock(c, channels, time_dim, groups=config.groups) for c in in_channels)
        self.attentions = nn.ModuleList(
            SpatialTransformer(channels, config.heads, config.context_dim, groups=config.groups)
            for _ in in_channels if attention)


class DownBlock(Level):
    """A level on the way down; every result is also put on the stack of `skips` for the way up."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool, *, last: bool):
        super().__init__(config, in_channels, channels, attention)
        self.downsample = None if last else Downsample(channels)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            x = resnet(x, time)
            x = attention(x, context) if attention else x
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)                                                      # (B, C, ⌈h/2⌉, ⌈w/2⌉)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        channels, time_dim = config.channels[-1], 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResBlock(channels, channels, time_dim, groups=config.groups) for _ in range(2))
        self.attention = SpatialTransformer(channels, config.heads, config.context_dim, groups=config.groups)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[0](x, time)
        x = self.attention(x, context)
        return self.resnets[1](x, time)


class UpBlock(Level):
    """A level on the way up; every residual block also sees the top of the stack of `skips`."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool, *, last: bool):
        super().__init__(config, in_channels, channels, attention)
        self.upsample = None if last else Upsample(channels)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            x = attention(x, context) if attention else x
        if self.upsample is not None:
            x = self.upsample(x, skips[-1].shape[2:])    # not twice x's: halving rounded odd sizes up
        return x


class UNet(nn.Module):
    """eps_theta(z_t, t, tau(y)): the noise in a latent. The shape is that of Ronneberger et al. 2015 (1505.04597)."""

    def __init__(self, config: UNetConfig = UNetConfig()):
        super().__init__()
        self.config = config
        channels, levels = config.channels, range(len(config.channels))
        time_dim = 4 * channels[0]
        self.time_mlp = nn.Sequential(
            nn.Linear(channels[0], time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)

        skips = [channels[0]]    # channels of every feature map that will go on the stack
        self.down_blocks = nn.ModuleList()
        for i in levels:
            c_in, c, last = skips[-1], channels[i], i == levels[-1]
            widths = [c_in] + [c] * (config.layers - 1)
            self.down_blocks.append(DownBlock(config, widths, c, config.attention[i], last=last))
            skips += [c] * (config.layers + (not last))

        self.mid_block = MidBlock(config)

        c_in = channels[-1]
        self.up_blocks = nn.ModuleList()
        for i in reversed(levels):
            c = channels[i]
            widths = [w + skips.pop() for w in [c_in] + [c] * config.layers]
            self.up_blocks.append(UpBlock(config, widths, c, config.attention[i], last=i == 0))
            c_in = c

        self.norm_out = nn.GroupNorm(config.groups, channels[0])
        self.conv_out = zero_init(nn.Conv2d(channels[0], config.out_channels, 3, padding=1))    # eps starts at 0

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        """x (B, 4, h, w), t () or (B,), may be fractional, context (B, N, context_dim) -> the noise, like x."""
        t = torch.as_tensor(t, device=x.device)
        time = self.time_mlp(timestep_embedding(t.expand(len(x)), self.config.channels[0]).to(x.dtype))
        x = self.conv_in(x)                                                               # (B, C, h, w)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, skips, time, context)
        x = self.mid_block(x, time, context)
        for up in self.up_blocks:
            x = up(x, skips, time, context)
        return self.conv_out(F.silu(self.norm_out(x)))                                    # (B, 4, h, w)
