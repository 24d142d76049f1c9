"""CLIP (Radford et al. 2021, arXiv:2103.00020): a text and an image transformer that embed into one space."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ClipBlock
from .support.checks import expect


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text transformer; the defaults are those of CLIP ViT-L/14, Stable Diffusion v1's."""

    vocab_size: int = 49408
    dim: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    length: int = 77             # tokens, start and end included: there are no positions beyond
    end_id: int = 49407          # closes every text and, in Stable Diffusion, pads it

    def __post_init__(self):
        expect(self.dim % self.heads == 0, "dim", self.dim, f"a multiple of heads={self.heads}")


TINY = TextConfig(dim=128, layers=3, heads=4, mlp_dim=512, length=32)


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of an image transformer; the defaults are those of CLIP ViT-L/14."""

    image_size: int = 224        # pixels a side: one position for each patch, none beyond
    patch_size: int = 14
    channels: int = 3            # of a picture; a semantic map has one for each class
    dim: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096

    def __post_init__(self):
        expect(self.dim % self.heads == 0, "dim", self.dim, f"a multiple of heads={self.heads}")
        expect(self.image_size % self.patch_size == 0, "image_size", self.image_size,
               f"a multiple of patch_size={self.patch_size}")

    @property
    def patches(self) -> int:
        """Number of patches per picture."""
        return (self.image_size // self.patch_size)**2


TINY_IMAGE = ImageConfig(image_size=64, patch_size=8, dim=128, layers=4, heads=4, mlp_dim=512)


class TextTransformer(nn.Module):
    """Token ids -> one state per token, each knowing the words up to its own."""

    def __init__(self, config: TextConfig = TextConfig()):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.length, config.dim)
        self.blocks = nn.ModuleList(ClipBlock(config, causal=True) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.dim)
        # Unit variance, not CLIP's 0.02: such small embeddings are lost beside the branches, the states of all words
        # look alike, and the U-Net learns nothing from them for thousands of steps.
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        nn.init.normal_(self.position_embedding.weight, std=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, N), int64, N <= length, padding included -> states (B, N, dim) after the final norm."""
        x = self.token_embedding(ids) + self.position_embedding.weight[:ids.shape[1]]     # (B, N, dim)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def pooled(self, states: Tensor, ids: Tensor) -> Tensor:
        """Pick the state of the first end token, which has seen the whole text: (B, N, dim), (B, N) -> (B, dim)."""
        end = (ids == self.config.end_id).int().argmax(1)                                 # (B,)
        return states[torch.arange(len(ids), device=ids.device), end]


class ImageTransformer(nn.Module):
    """Image -> one state for the whole and one per patch (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

    def __init__(self, config: ImageConfig = ImageConfig()):
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.patch_embedding = nn.Conv2d(config.channels, dim, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(1 + config.patches, dim)
        self.pre_norm, self.post_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(ClipBlock(config, causal=False) for _ in range(config.layers))
        nn.init.normal_(self.position_embedding.weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> states (B, 1 + patches, dim): the class token's, then row by row."""
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)                      # (B, patches, dim)
        whole = self.class_embedding.expand(len(x), 1, -1)
        h = torch.cat([whole, patches], 1) + self.position_embedding.weight               # (B, 1 + patches, dim)
        h = self.pre_norm(h)
        for block in self.blocks:
            h = block(h)
        return self.post_norm(h)


class CLIP(nn.Module):
    """Texts and images as unit vectors in one space: what belongs together lies close together."""

    def __init__(self, text: TextTransformer, image: ImageTransformer, width: int = 512):
        super().__init__()
        self.text, self.image = text, image
        self.text_projection = nn.Linear(text.config.dim, width, bias=False)
        self.visual_projection = nn.Linear(image.config.dim, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))    # log of 1 / temperature, learned

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Token ids (B, N) -> unit vectors (B, width)."""
        return F.normalize(self.text_projection(self.text.pooled(self.text(ids), ids)), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> unit vectors (B, width)."""
        return F.normalize(self.visual_projection(self.image(images)[:, 0]), dim=-1)
