"""Where each pixel looks: recording the attention of a model at work, and holding a word's map against the truth."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention
from .conditioning import TextEncoder


def attention_weights(attention: Attention, x: Tensor, context: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / √d) of a layer that is given x (B, N, dim) and context (B, M, context_dim): (B, heads, N, M).

    Every query's row adds up to 1. The queries, keys and heads are the layer's own.
    """
    q = attention.split_heads(attention.to_q(x))
    k = attention.split_heads(attention.to_k(x if context is None else context))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])                             # (B, heads, N, M)
    if attention.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(dim=-1)


class Recorder:
    """Within `with Recorder(model) as recorder`, every call of an `Attention` in `model` leaves its weights behind.

    recorder.maps: name of the layer -> one tensor (B, heads, N, M) for each call, oldest first. The layers compute as
    ever; the weights are worked out beside them, without gradients. which: how the names of the layers end, such as
    "cross_attn"; all of them by default. Raises ValueError if there are none. (`PixelAttention` is none: its input is
    no sequence.)
    """

    def __init__(self, model: nn.Module, which: str = ""):
        self.layers = {name: module for name, module in model.named_modules()
                       if type(module) is Attention and name.endswith(which)}
        if not self.layers:
            raise ValueError(f"model: got {type(model).__name__}, which has no Attention whose name ends in {which!r}")
        self.maps: dict[str, list[Tensor]] = {}
        self._hooks: list = []

    def __enter__(self) -> Recorder:
        self.maps = {name: [] for name in self.layers}
        for name, layer in self.layers.items():
            self._hooks.append(layer.register_forward_hook(self._keep(name), with_kwargs=True))
        return self

    def __exit__(self, *_) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _keep(self, name: str):
        @torch.no_grad()
        def hook(layer: Attention, args: tuple, kwargs: dict, output: Tensor) -> None:
            self.maps[name].append(attention_weights(layer, *args, **kwargs))
        return hook


def word_positions(text: TextEncoder, prompt: str, words: str) -> list[int]:
    """Where the tokens of `words` stand in those of `prompt`, the first time. Raises ValueError if they do not."""
    row = text.tokenize([prompt])[0].tolist()
    wanted = text.tokenizer(words).input_ids[1:-1]    # without start and end
    for i in range(len(row) - len(wanted) + 1):
        if wanted and row[i:i + len(wanted)] == wanted:
            return list(range(i, i + len(wanted)))
    raise ValueError(f"words: got {words!r}, expected words of the prompt {prompt!r}")


def word_map(weights: Tensor, tokens: list[int], size: tuple[int, int] = (64, 64)) -> Tensor:
    """How much the pixels look at some tokens: weights (B, heads, h × h, M) -> (B, *size), between 0 and 1.

    The mean over heads, the sum over tokens, enlarged smoothly. Raises ValueError for weights that are no square map,
    and for tokens that are not there.
    """
    side = math.isqrt(weights.shape[-2]) if weights.ndim == 4 else 0
    if side == 0 or side**2 != weights.shape[-2]:
        raise ValueError(f"weights: got shape {tuple(weights.shape)}, expected (batch, heads, queries, tokens) with "
                         "the queries of a square map")
    if not tokens or not all(0 <= i < weights.shape[-1] for i in tokens):
        raise ValueError(f"tokens: got {tokens}, expected at least one, each from 0 to {weights.shape[-1] - 1}")
    heat = weights[..., tokens].sum(-1).mean(1).unflatten(-1, (side, side))               # (B, h, h)
    return F.interpolate(heat[:, None], size, mode="bilinear")[:, 0]


def map_overlap(heat: Tensor, mask: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """IoU and hits of maps (B, H, W) with true masks (B, H, W), bool: two tensors (B,), the second of truth values.

    The IoU is of the pixels that lie above `threshold` of the way from the map's least value to its largest; a hit
    has its largest value on the mask. Raises ValueError for other shapes and for a mask that is empty.
    """
    if heat.ndim != 3 or heat.shape != mask.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask: got {tuple(mask.shape)}, {mask.dtype}, expected {tuple(heat.shape)}, torch.bool, "
                         "like the map (batch, height, width)")
    heat, mask = heat.flatten(1), mask.flatten(1)
    if not mask.any(1).all():
        raise ValueError("mask: got one without a pixel, expected at least one")
    least, most = heat.amin(1, keepdim=True), heat.amax(1, keepdim=True)
    found = heat > least + threshold * (most - least)
    iou = (found & mask).sum(1) / (found | mask).sum(1)
    return iou, mask.gather(1, heat.argmax(1, keepdim=True))[:, 0]
