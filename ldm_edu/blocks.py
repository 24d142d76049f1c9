"""The parts that all networks here are made of. Feature maps are (B, C, H, W), token sequences (B, N, D)."""
from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Timesteps (B,) as cosines, then sines, of dim / 2 frequencies from 1 to about 1/10000: (B, dim), float32."""
    half = dim // 2
    exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device)
    frequency = torch.exp(exponent / half)                                                # (dim/2,)
    angle = t.float()[:, None] * frequency                                                # (B, dim/2)
    return torch.cat([angle.cos(), angle.sin()], dim=1)                                   # (B, dim)


def zero_init(module: nn.Module) -> nn.Module:
    """Zero the last layer of a residual branch, so that the block starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, shifted by the timestep, if any (Ho et al. 2020, appendix B).

    x (B, in, H, W), time (B, time_dim) -> (B, out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, time_dim: int | None = None, *,
                 groups: int = 32, eps: float = 1e-5):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_proj = None if time_dim is None else nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_proj is not None:
            h = h + self.time_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """softmax(Q Kᵀ / √d) V, with Q = W_Q x, K = W_K c and V = W_V c, in `heads` parallel heads of d = dim / heads.

    x (B, N, dim), context c (B, M, context_dim), by default x -> (B, N, dim). causal: hides later positions.
    Vaswani et al. 2017, eq. 1; Rombach et al. 2021, section 3.3.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, *,
                 bias: bool = False, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_out = nn.Linear(dim, dim)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, heads, N, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q = self.split_heads(self.to_q(x))                                                # (B, heads, N, d)
        k = self.split_heads(self.to_k(context))                                          # (B, heads, M, d)
        v = self.split_heads(self.to_v(context))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)                # (B, heads, N, d)
        return self.to_out(h.transpose(1, 2).flatten(2))                                  # (B, N, dim)


class FeedForward(nn.Module):
    """Widen each token, gate one half by the other (GEGLU, arXiv:2002.05202), narrow. (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * 4 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)                                           # 2 × (B, N, 4 dim)
        return self.out(x * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on a normed copy and added back. (B, N, dim) -> same."""

    def __init__(self, dim: int, heads: int, context_dim: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attn = Attention(dim, heads)
        self.cross_attn = Attention(dim, heads, context_dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))              # pixels look at pixels
        x = x + self.cross_attn(self.norm2(x), context)    # pixels look at words
        return x + self.ff(self.norm3(x))                  # each pixel by itself


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), CLIP's cheap stand-in for GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """Self-attention and an MLP, each on a normed copy and added back. (B, N, dim) -> same."""

    def __init__(self, config, causal: bool):
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, config.heads, bias=True, causal=causal)
        self.mlp = nn.Sequential(OrderedDict(
            fc1=nn.Linear(dim, config.mlp_dim), act=QuickGELU(), fc2=nn.Linear(config.mlp_dim, dim)))
        self._init_weights(branches=2 * config.layers)

    def _init_weights(self, branches: int) -> None:
        """Keep a token's variance; smaller at branch ends, so that all branches together add variance 1."""
        for linear in (self.attn.to_q, self.attn.to_k, self.attn.to_v, self.mlp.fc1):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        for linear in (self.attn.to_out, self.mlp.fc2):
            nn.init.normal_(linear.weight, std=(linear.in_features * branches)**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))    # tokens look at tokens
        return x + self.mlp(self.norm2(x))


class SpatialTransformer(nn.Module):
    """A transformer block whose tokens are the pixels of a feature map (B, C, H, W). Rombach et al. 2021, E.2.1."""

    def __init__(self, channels: int, heads: int, context_dim: int, *, groups: int = 32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.block = TransformerBlock(channels, heads, context_dim)
        self.proj_out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        h = h.flatten(2).transpose(1, 2)                                                  # (B, HW, C)
        h = self.block(h, context)
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])                                   # (B, C, H, W)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halve height and width, rounding up, with a strided convolution. padding: zeros left, right, top, bottom."""

    def __init__(self, channels: int, padding: tuple[int, int, int, int] = (1, 1, 1, 1)):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Repeat pixels up to `size`, twice the input's by default, then smooth with a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        height, width = x.shape[2:]
        return self.conv(F.interpolate(x, size or (2 * height, 2 * width)))               # (B, C, *size)
