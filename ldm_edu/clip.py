"""The text transformer of CLIP (Radford et al. 2021): tau, which turns token ids into the U-Net's context."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Attention


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text transformer; the defaults are those of CLIP ViT-L/14, Stable Diffusion v1's.

    Raises ValueError for a width that the heads do not divide.
    """

    vocab_size: int = 49408
    dim: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    length: int = 77             # tokens, start and end included: there are no positions beyond
    end_id: int = 49407          # closes every text and, in Stable Diffusion, pads it

    def __post_init__(self):
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} must be a multiple of heads={self.heads}")


TINY = TextConfig(dim=128, layers=3, heads=4, mlp_dim=512, length=32)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), CLIP's cheap stand-in for GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TextBlock(nn.Module):
    """Causal self-attention and an MLP, each on a normed copy and added back. (B, N, dim) -> (B, N, dim)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, config.heads, bias=True, causal=True)
        self.mlp = nn.Sequential(OrderedDict(
            fc1=nn.Linear(dim, config.mlp_dim), act=QuickGELU(), fc2=nn.Linear(config.mlp_dim, dim)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))    # words look at the words before them
        return x + self.mlp(self.norm2(x))


class TextTransformer(nn.Module):
    """Token ids -> one state per token, each knowing the words up to its own."""

    def __init__(self, config: TextConfig = TextConfig()):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.length, config.dim)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.dim)
        self._init_weights()

    def _init_weights(self) -> None:
        """Weights that keep a token's variance; smaller at branch ends, so that all branches add up to one.

        Tokens start with unit variance, not with CLIP's 0.02: beside the branches such small ones are lost, the
        states of all words look alike, and what reads them learns next to nothing for thousands of steps.
        """
        dim, branches = self.config.dim, 2 * self.config.layers
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        nn.init.normal_(self.position_embedding.weight, std=0.5)
        for block in self.blocks:
            for linear in (block.attn.to_q, block.attn.to_k, block.attn.to_v, block.mlp.fc1):
                nn.init.normal_(linear.weight, std=dim**-0.5)
            for linear in (block.attn.to_out, block.mlp.fc2):
                nn.init.normal_(linear.weight, std=(linear.in_features * branches)**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, N), int64, N <= length, padding included -> states (B, N, dim) after the final norm.

        Raises ValueError for more tokens than positions or an id outside the vocabulary.
        """
        config = self.config
        if ids.ndim != 2 or ids.shape[1] > config.length:
            raise ValueError(f"ids has shape {tuple(ids.shape)}, "
                             f"expected (batch, at most {config.length} tokens)")
        if ids.numel() and not (0 <= ids.min() and ids.max() < config.vocab_size):
            raise ValueError(f"ids lie in {ids.min()}…{ids.max()}, expected 0…{config.vocab_size - 1}")
        x = self.token_embedding(ids) + self.position_embedding.weight[:ids.shape[1]]     # (B, N, dim)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)
