"""Exercises of chapter 05: attention weights, cross-attention from its matrices, heads, and the overlap of a map."""
import torch
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 05.1: the weights

def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.T / q.shape[1]**0.5).softmax(dim=1)


def _weights_cases() -> list[tuple]:
    return [(2 * _randn(5, d, seed=d), _randn(3, d, seed=d + 1)) for d in (4, 9)]


# --- 05.2: cross-attention, one head

def _attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    return (queries @ keys.T / (scale or queries.shape[1]**0.5)).softmax(dim=1) @ values


def _cross(x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return _attend(x @ w_q.T, context @ w_k.T, context @ w_v.T)


def _cross_cases() -> list[tuple]:
    return [(_randn(5, 6, seed=s), _randn(3, 6, seed=s + 1), *(_randn(d, 6, seed=s + i) for i in (2, 3, 4)))
            for s, d in ((0, 4), (9, 9))]


# --- 05.3: heads

def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _heads_cases() -> list[tuple]:
    return [(_randn(2, 5, 8, seed=0), 4), (_randn(1, 3, 6, seed=1), 2)]


# --- 05.4: the overlap of a map with the truth

def _iou(heat: Tensor, mask: Tensor, level: Tensor | float | None = None) -> Tensor:
    found = heat > ((heat.min() + heat.max()) / 2 if level is None else level)
    return (found & mask).sum() / (found | mask).sum()


def _share(heat: Tensor, mask: Tensor, of_mask: bool) -> Tensor:
    """The pixels that are found and true, as a share of those that are true, or found."""
    found = heat > (heat.min() + heat.max()) / 2
    return (found & mask).sum() / (mask if of_mask else found).sum()


def _iou_cases() -> list[tuple]:
    heats = [0.1 + 0.8 * torch.rand(6, 6, generator=Generator().manual_seed(s)) ** 2 for s in (0, 1, 2)]
    return [(low + heat, _randn(6, 6, seed=s) + 4 * heat > 1.5) for s, low, heat in zip((3, 4, 5), (0, 0.4, 1), heats)]


EXERCISES = {
    "05.1": Exercise(
        right=_weights,
        cases=_weights_cases,
        hint="All products of a query with a key, divided by √d, and a softmax over the words of each pixel.",
        mistakes={
            "The √d is missing: the wider the vectors, the harder the softmax.":
                lambda q, k: (q @ k.T).softmax(1),
            "You divide by d. Products of d terms spread like √d: this makes everything look alike.":
                lambda q, k: (q @ k.T / q.shape[1]).softmax(1),
            "Your columns add up to 1: the pixels share out each word. It is each pixel that shares out its attention.":
                lambda q, k: (q @ k.T / q.shape[1]**0.5).softmax(0),
            "These are the scores. The softmax that makes weights of them is missing.":
                lambda q, k: q @ k.T / q.shape[1]**0.5,
            "You take e to the scores and do not divide by their sum: a row must add up to 1.":
                lambda q, k: (q @ k.T / q.shape[1]**0.5).exp(),
            "Rows and columns have changed places: one row for each pixel, one column for each word.":
                lambda q, k: _weights(q, k).T}),
    "05.2": Exercise(
        right=_cross,
        cases=_cross_cases,
        hint="Q from the pixels, K and V from the words; softmax(QKᵀ/√d) V, with d the width of a query.",
        mistakes={
            "You mix the keys. What a word is found by is its key, what it hands over its value.":
                lambda x, c, q, k, v: _attend(x @ q.T, c @ k.T, c @ k.T),
            "You compare with the values and mix the keys. It is the other way round.":
                lambda x, c, q, k, v: _cross(x, c, q, v, k),
            "Keys and values come from the pixels: that is self-attention. The words are not used.":
                lambda x, c, q, k, v: _cross(x, x, q, k, v),
            "The words ask and the pixels answer. Queries come from x, keys and values from the context.":
                lambda x, c, q, k, v: _cross(c, x, q, k, v),
            "The √d is missing.":
                lambda x, c, q, k, v: _attend(x @ q.T, c @ k.T, c @ v.T, 1.0),
            "You take the root of the pixels' width. d is the width of a query, after W_Q.":
                lambda x, c, q, k, v: _attend(x @ q.T, c @ k.T, c @ v.T, x.shape[1]**0.5),
            "You return the weights. They are still to mix the values.":
                lambda x, c, q, k, v: _weights(x @ q.T, c @ k.T)}),
    "05.3": Exercise(
        right=_heads,
        cases=_heads_cases,
        hint="Cut the last dimension into (heads, d), then let tokens and heads change places.",
        mistakes={
            "You reshape where two dimensions have to change places: a head would get some tokens whole, and never see "
            "the others.":
                lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
            "The heads stand after the tokens. Let them change places: (batch, heads, tokens, d).":
                lambda x, heads: _heads(x, heads).transpose(1, 2),
            "A head takes every n-th number. Its numbers stand side by side: cut into (heads, d), not (d, heads).":
                lambda x, heads: x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2),
            "Tokens and d have changed places within each head.":
                lambda x, heads: _heads(x, heads).transpose(2, 3)}),
    "05.4": Exercise(
        right=_iou,
        cases=_iou_cases,
        hint="Found: above (least + largest) / 2. Then pixels in both, divided by pixels in at least one.",
        mistakes={
            "Your threshold is ½. Weights over many words are small: go half the way from the map's least to its "
            "largest value.":
                lambda heat, mask: _iou(heat, mask, 0.5),
            "Your threshold is half the largest value. A map that never falls to 0 would be found everywhere.":
                lambda heat, mask: _iou(heat, mask, heat.max() / 2),
            "Your threshold is the mean. Go half the way from the least to the largest value.":
                lambda heat, mask: _iou(heat, mask, heat.mean()),
            "You divide by the mask: a map that covers the whole picture would be perfect.":
                lambda heat, mask: _share(heat, mask, of_mask=True),
            "You divide by what was found: a single pixel on the thing would be perfect.":
                lambda heat, mask: _share(heat, mask, of_mask=False),
            "You count twice: the union is not the sum of both areas.":
                lambda heat, mask: 1 / (1 / _iou(heat, mask) + 1)}),
}
