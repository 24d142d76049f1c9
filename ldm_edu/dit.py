"""The diffusion transformer: patches and words are one sequence of tokens, and the timestep tunes every layer.

Peebles & Xie 2022 (arXiv:2212.09748), section 3.2; text and picture in one sequence as in Stable Diffusion 3
(arXiv:2403.03206, figure 2) and FLUX, but with one set of weights for both kinds of tokens.
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention, timestep_embedding, zero_init
from .support.checks import check_flow_time, expect


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a diffusion transformer; the defaults are those of the one that the recipe trains."""

    channels: int = 4            # of the latents
    patch_size: int = 2          # side of a token in latent pixels; half of it means four times as many tokens
    dim: int = 128               # width of a token
    layers: int = 6
    heads: int = 4               # of every attention
    context_dim: int = 128       # width of the text states
    sample_size: int = 8         # side of the training latents

    def __post_init__(self):
        expect(self.dim % self.heads == 0 and self.dim % 4 == 0, "dim", self.dim,
               f"a multiple of heads={self.heads} and of 4")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift all tokens (B, N, dim) of a picture alike, by (B, dim) each."""
    return x * (1 + scale[:, None]) + shift[:, None]


def position_embedding(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Embed the row and the column of each patch, half of the numbers each, as if they were timesteps: (hw, dim)."""
    rows, columns = (timestep_embedding(torch.arange(side, device=device), dim // 2) for side in (height, width))
    return torch.cat([rows.repeat_interleave(width, dim=0), columns.repeat(height, 1)], dim=1)


class DiTBlock(nn.Module):
    """Attention and an MLP, each on a normed copy and added back; shift, scale and gate come from the timestep.

    x (B, N, dim), time (B, dim) -> (B, N, dim). "adaLN-Zero": gates start at 0, so a block starts as the identity.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.attn = Attention(dim, heads, bias=True)
        self.mlp = nn.Sequential(OrderedDict(
            fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(approximate="tanh"), fc2=nn.Linear(4 * dim, dim)))
        self.modulation = zero_init(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(time)).chunk(6, dim=1)  # 6 × (B, dim)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))    # all tokens look at all
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class DiT(nn.Module):
    """v_theta(z_t, t, tau(y)): the velocity of a latent. It is called as the U-Net is, with a time from 0 to 1."""

    predicts = "velocity"

    def __init__(self, config: DiTConfig = DiTConfig()):
        super().__init__()
        self.config, dim, p = config, config.dim, config.patch_size
        self.patch_in = nn.Conv2d(config.channels, dim, p, stride=p)
        self.context_in = nn.Linear(config.context_dim, dim)
        self.time_mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(DiTBlock(dim, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation_out = zero_init(nn.Linear(dim, 2 * dim))
        self.patch_out = zero_init(nn.Linear(dim, config.channels * p**2))    # v starts at 0

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        """x (B, 4, h, w), t () or (B,), 0 to 1, context (B, N, context_dim) -> the velocity, like x."""
        t = check_flow_time(torch.as_tensor(t, device=x.device))
        time = self.time_mlp(timestep_embedding(1000 * t.expand(len(x)), self.config.dim).to(x.dtype))
        patches = self.patch_in(x)                                                        # (B, dim, h/p, w/p)
        size = patches.shape[2:]
        positions = position_embedding(*size, self.config.dim, x.device).to(x.dtype)
        patches = patches.flatten(2).transpose(1, 2) + positions                          # (B, hw/p², dim)
        words = self.context_in(context)                                                  # (B, N, dim)
        tokens = torch.cat([words, patches], dim=1)                                       # (B, N + hw/p², dim)
        for block in self.blocks:
            tokens = block(tokens, time)
        patches = tokens[:, words.shape[1]:]    # the words have done their work
        shift, scale = self.modulation_out(F.silu(time)).chunk(2, dim=1)
        patches = self.patch_out(modulate(self.norm_out(patches), shift, scale))          # (B, hw/p², p² 4)
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, size), self.config.patch_size)  # (B, 4, h, w)
