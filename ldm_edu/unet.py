"""The second stage's network: a U-Net that predicts the noise in a latent, told the time and the text.

Rombach et al. 2021, sections 3.2 and 3.3. `SmallUNet` is its little sister, for the pictures of chapter 02.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Downsample, ResBlock, SpatialTransformer, Upsample, timestep_embedding, zero_init
from .schedule import Schedule


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net; the defaults are Stable Diffusion v1's.

    Raises ValueError for sizes that do not fit together.
    """

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
        if not self.channels or len(self.attention) != len(self.channels):
            raise ValueError(f"attention={self.attention} must have one entry for each of "
                             f"channels={self.channels}")
        for name, divisor in (("groups", self.groups), ("heads", self.heads)):
            if any(c % divisor for c in self.channels):
                raise ValueError(f"channels={self.channels} must be multiples of {name}={divisor}")


TINY = UNetConfig(
    channels=(64, 128), attention=(True, True), heads=4, context_dim=128, groups=16, sample_size=8)


class Level(nn.Module):
    """One resolution of the U-Net: residual blocks, each followed by attention to the text, or none.

    in_channels: of each residual block in turn; all of them give `channels`.
    """

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool):
        super().__init__()
        time_dim = 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResBlock(c, channels, time_dim, groups=config.groups) for c in in_channels)
        self.attentions = nn.ModuleList(
            SpatialTransformer(channels, config.heads, config.context_dim, groups=config.groups)
            for _ in in_channels if attention)

    def step(self, i: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context) if self.attentions else x


class DownBlock(Level):
    """A level on the way down; every result is also put on the pile of `skips` for the way up."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool, *,
                 last: bool):
        super().__init__(config, in_channels, channels, attention)
        self.downsample = None if last else Downsample(channels)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.step(i, x, time, context)
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
    """A level on the way up; every residual block also sees the top of the pile of `skips`."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool, *,
                 last: bool):
        super().__init__(config, in_channels, channels, attention)
        self.upsample = None if last else Upsample(channels)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.step(i, torch.cat([x, skips.pop()], dim=1), time, context)
        if self.upsample is not None:
            x = self.upsample(x, skips[-1].shape[2:])    # not twice x's: halving rounded odd sizes up
        return x


class UNet(nn.Module):
    """eps_theta(z_t, t, tau(y)): the noise in a noisy latent, given the timestep and the embedded text.

    Ronneberger et al. 2015 (arXiv:1505.04597) for the shape. `conv_out`, and so eps, starts at zero.
    """

    def __init__(self, config: UNetConfig = UNetConfig()):
        super().__init__()
        self.config = config
        channels, levels = config.channels, range(len(config.channels))
        time_dim = 4 * channels[0]
        self.time_mlp = nn.Sequential(
            nn.Linear(channels[0], time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)

        skips = [channels[0]]    # channels of every feature map that will go on the pile
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
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        """Predict the noise.

        x: (B, 4, h, w), any h and w; t: a number, or (B,), in 0…T-1, integer or fractional;
        context: (B, N, context_dim). Returns (B, 4, h, w). Raises ValueError for other shapes.
        """
        t = torch.as_tensor(t, device=x.device)
        self._check(x, t, context)
        time = self.time_mlp(timestep_embedding(t.expand(len(x)), self.config.channels[0]).to(x.dtype))
        x = self.conv_in(x)                                                               # (B, C, h, w)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, skips, time, context)
        x = self.mid_block(x, time, context)
        for up in self.up_blocks:
            x = up(x, skips, time, context)
        return self.conv_out(F.silu(self.norm_out(x)))                                    # (B, 4, h, w)

    def _check(self, x: Tensor, t: Tensor, context: Tensor) -> None:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, "
                             f"expected (batch, {config.in_channels}, height, width)")
        if tuple(t.shape) not in ((), (1,), (len(x),)):
            raise ValueError(f"t has shape {tuple(t.shape)}, expected a number or ({len(x)},)")
        if context.ndim != 3 or len(context) != len(x) or context.shape[2] != config.context_dim:
            raise ValueError(f"context has shape {tuple(context.shape)}, "
                             f"expected ({len(x)}, tokens, {config.context_dim})")


class SmallUNet(nn.Module):
    """A U-Net for small pictures, without a prompt: one residual block a level, no attention.

    x (B, 3, H, W), t () or (B,), int64 -> the noise in x (B, 3, H, W).
    channels: per level, multiples of 8. skips: False hands zeros across, which tell nothing.
    """

    def __init__(self, schedule: Schedule, channels: tuple[int, ...] = (16, 32, 96), *,
                 skips: bool = True):
        super().__init__()
        self.skips, self.first = skips, channels[0]
        self.register_buffer("alpha_bar", schedule.alpha_bar.float(), persistent=False)
        time = 4 * self.first
        pairs = list(zip((self.first, *channels[:-1]), channels))
        self.time = nn.Sequential(nn.Linear(self.first, time), nn.SiLU(), nn.Linear(time, time))
        self.conv_in = nn.Conv2d(3, self.first, 3, padding=1)
        self.down = nn.ModuleList(ResBlock(a, b, time, groups=8) for a, b in pairs)
        self.shrink = nn.ModuleList(Downsample(c) for c in channels[:-1])
        self.mid = ResBlock(channels[-1], channels[-1], time, groups=8)
        self.up = nn.ModuleList(ResBlock(2 * b, a, time, groups=8) for a, b in pairs)
        self.grow = nn.ModuleList(Upsample(c) for c in channels[:-1])
        self.norm = nn.GroupNorm(8, self.first)
        self.conv_out = zero_init(nn.Conv2d(self.first, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        time = self.time(timestep_embedding(t, self.first))
        h, kept = self.conv_in(x), []                                      # (B, 16, H, W)
        for i, block in enumerate(self.down):
            h = block(h, time)
            kept.append(h)
            h = self.shrink[i](h) if i < len(self.shrink) else h           # (B, 96, H/4, W/4)
        h = self.mid(h, time)
        for i in reversed(range(len(self.up))):
            skip = kept.pop() if self.skips else torch.zeros_like(kept.pop())
            h = self.up[i](torch.cat([h, skip], dim=1), time)
            h = self.grow[i - 1](h, kept[-1].shape[2:]) if i > 0 else h    # (B, 16, H, W)
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + a.sqrt() * self.conv_out(F.silu(self.norm(h)))
