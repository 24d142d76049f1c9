"""Where each pixel looks: record the attention of a model at work, and compare a word's map with the true mask."""
from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention
from .conditioning import TextEncoder
from .support.checks import expect
from .tokenizer import END, tokenize


def attention_weights(attention: Attention, x: Tensor, context: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / √d) of a layer for x (B, N, dim) and context (B, M, context_dim): (B, heads, N, M)."""
    q = attention.split_heads(attention.to_q(x))
    k = attention.split_heads(attention.to_k(x if context is None else context))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])                             # (B, heads, N, M)
    if attention.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(dim=-1)


class Recorder:
    """Within `with Recorder(model) as recorder`, keep the weights of every call of an `Attention` in `model`.

    recorder.maps: layer name -> one (B, heads, N, M) per call. which: what the layers' names end in, e.g. "cross_attn".
    """

    def __init__(self, model: nn.Module, which: str = ""):
        self.layers = {name: module for name, module in model.named_modules()
                       if type(module) is Attention and name.endswith(which)}
        expect(self.layers, "model", type(model).__name__, f"one with an Attention whose name ends in {which!r}")
        self.maps: dict[str, list[Tensor]] = {}

    def __enter__(self) -> Recorder:
        self.maps = {name: [] for name in self.layers}
        self._hooks = [layer.register_forward_hook(partial(self._keep, name), with_kwargs=True)
                       for name, layer in self.layers.items()]
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _keep(self, name: str, layer: Attention, args: tuple, kwargs: dict, output: Tensor) -> None:
        self.maps[name].append(attention_weights(layer, *args, **kwargs))


def word_positions(text: TextEncoder, prompt: str, words: str) -> list[int]:
    """Positions of the tokens of `words` in those of `prompt`, the first time. Raises ValueError if they are absent."""
    row, wanted = tokenize(text.tokenizer, [prompt, words]).tolist()
    wanted = wanted[1:wanted.index(text.tokenizer.token_to_id(END))]    # without start and end
    for i in range(len(row) - len(wanted) + 1):
        if wanted and row[i:i + len(wanted)] == wanted:
            return list(range(i, i + len(wanted)))
    raise ValueError(f"words: got {words!r}, expected words of the prompt {prompt!r}")


def word_map(weights: Tensor, tokens: list[int], size: tuple[int, int] = (64, 64)) -> Tensor:
    """How much each pixel looks at some tokens: weights (B, heads, h × h, M) -> (B, *size), from 0 to 1."""
    side = math.isqrt(weights.shape[-2])
    heat = weights[..., tokens].sum(-1).mean(1).unflatten(-1, (side, side))               # (B, h, h)
    return F.interpolate(heat[:, None], size, mode="bilinear")[:, 0]
