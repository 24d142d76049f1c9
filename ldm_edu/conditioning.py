"""What the U-Net is told, tau(y), and how strongly: encoders of texts and maps, and classifier-free guidance.

Each encoder gives states (B, N, D), which cross-attention reads alike. Images are read by CLIP's `ImageTransformer`.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .clip import ImageTransformer, TextTransformer
from .samplers import EpsFn
from .support.checks import expect
from .tokenizer import tokenize


class TextEncoder(nn.Module):
    """tau for text: prompts -> tokens -> the states that the U-Net's cross-attention reads."""

    def __init__(self, tokenizer: Tokenizer, transformer: TextTransformer):
        super().__init__()
        config, size, length = transformer.config, tokenizer.get_vocab_size(), tokenizer.padding["length"]
        expect(size <= config.vocab_size and length == config.length, "tokenizer", f"{size} tokens, length {length}",
               f"at most {config.vocab_size} and exactly {config.length}, as the text transformer")
        self.tokenizer, self.transformer = tokenizer, transformer

    def forward(self, prompts: list[str]) -> Tensor:
        """Text states (B, N, D) of B prompts. Raises ValueError for a prompt that is too long."""
        return self.transformer(tokenize(self.tokenizer, prompts).to(self.transformer.final_norm.weight.device))


class MapEncoder(nn.Module):
    """tau for semantic maps: each class becomes a channel of 0 and 1, and an image transformer reads the stack."""

    def __init__(self, transformer: ImageTransformer):
        super().__init__()
        self.transformer = transformer

    @property
    def classes(self) -> int:
        """How many classes a map may have: the channels of the transformer."""
        return self.transformer.config.channels

    def forward(self, maps: Tensor) -> Tensor:
        """Semantic maps (B, S, S), integers below `classes` -> states (B, 1 + patches, D)."""
        channels = F.one_hot(maps.long(), self.classes).movedim(-1, 1)                    # (B, classes, S, S)
        return self.transformer(channels.to(self.transformer.class_embedding))


def guided(unet: nn.Module, cond: Tensor, uncond: Tensor | None = None, scale: float = 1.0) -> EpsFn:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): e_u + scale (e_c - e_u).

    cond, uncond: contexts (B, N, D), uncond also (1, N, D). scale: 1 or less is none; the paper's w is scale - 1.
    """
    if scale <= 1:
        return _marked(lambda x, t: unet(x, t, cond), unet)
    uncond = uncond.expand(len(cond), -1, -1)
    together = torch.cat([uncond, cond]) if uncond.shape == cond.shape else None          # (2B, N, D)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        if together is None:
            e_uncond, e_cond = unet(x, t, uncond), unet(x, t, cond)
        else:
            e_uncond, e_cond = unet(torch.cat([x, x]), t, together).chunk(2)
        return e_uncond + scale * (e_cond - e_uncond)

    return _marked(eps, unet)


def _marked(predict: EpsFn, network: nn.Module) -> EpsFn:
    """Note what a network predicts, so that a sampler of another family can refuse it."""
    predict.predicts = getattr(network, "predicts", "noise")
    return predict
