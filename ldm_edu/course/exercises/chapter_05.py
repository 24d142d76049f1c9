"""Exercises of chapter 05: attention weights, cross-attention from its matrices, heads, the overlap of two masks."""
import torch
from torch import Generator

from . import Exercise, draw

EXERCISES = {}


# --- 05.1: the weights
def _scores(q, k):
    return q @ k.T / q.shape[1]**0.5


EXERCISES["05.1"] = Exercise(
    right=lambda q, k: _scores(q, k).softmax(1),
    cases=lambda: [(2 * draw(d, 5, d), draw(d + 1, 3, d)) for d in (4, 9)],
    hint="The products of every query with every key, divided by √d; then a softmax over the words of each pixel.",
    mistakes={
        "The √d is missing: the longer the vectors, the harder the softmax.": lambda q, k: (q @ k.T).softmax(1),
        "You divide by d. Sums of d products spread like √d, so your weights are too even.":
            lambda q, k: (q @ k.T / q.shape[1]).softmax(1),
        "Your columns add up to 1. It is each pixel, a row, that divides its attention among the words.":
            lambda q, k: _scores(q, k).softmax(0),
        "These are the scores. The softmax that turns them into weights is missing.": _scores,
        "You do not divide by the sum of a row: its weights must add up to 1.": lambda q, k: _scores(q, k).exp(),
        "Rows and columns are swapped: one row for each pixel, one column for each word.":
            lambda q, k: _scores(q, k).softmax(1).T})


# --- 05.2: cross-attention, one head
def _attend(q, k, v, scale=None):
    return (q @ k.T / (scale or q.shape[1]**0.5)).softmax(1) @ v


def _cross(x, context, w_q, w_k, w_v):
    return _attend(x @ w_q.T, context @ w_k.T, context @ w_v.T)


EXERCISES["05.2"] = Exercise(
    right=_cross,
    cases=lambda: [(draw(s, 5, 6), draw(s + 1, 3, 6), *(draw(s + i, d, 6) for i in (2, 3, 4)))
                   for s, d in ((0, 4), (9, 9))],
    hint="Q from the pixels, K and V from the words; softmax(QKᵀ/√d) V, with d the length of a query.",
    mistakes={
        "You mix the keys. A word is found by its key, but what it hands over is its value.":
            lambda x, c, q, k, v: _cross(x, c, q, k, k),
        "Keys and values are swapped.": lambda x, c, q, k, v: _cross(x, c, q, v, k),
        "Keys and values come from the pixels: that is self-attention, and the words are not used.":
            lambda x, c, q, k, v: _cross(x, x, q, k, v),
        "You take queries from the context. Queries come from x, keys and values from the context.":
            lambda x, c, q, k, v: _cross(c, x, q, k, v),
        "The √d is missing.": lambda x, c, q, k, v: _attend(x @ q.T, c @ k.T, c @ v.T, 1.0),
        "You take the root of the number of channels of x. d is the length of a query, after W_Q.":
            lambda x, c, q, k, v: _attend(x @ q.T, c @ k.T, c @ v.T, x.shape[1]**0.5),
        "You return the weights. Now mix the values.": lambda x, c, q, k, v: _scores(x @ q.T, c @ k.T).softmax(1)})


# --- 05.3: heads
def _heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


EXERCISES["05.3"] = Exercise(
    right=_heads,
    cases=lambda: [(draw(0, 2, 5, 8), 4), (draw(1, 1, 3, 6), 2)],
    hint="Split the last dimension into (heads, d), then swap tokens and heads.",
    mistakes={
        "reshape cannot swap dimensions: a head would get some of the tokens whole, and never see the others.":
            lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
        "Heads and tokens are swapped: return (B, heads, N, d).": lambda x, heads: _heads(x, heads).transpose(1, 2),
        "Each head takes every n-th number. Its numbers are neighbours: split into (heads, d), not (d, heads).":
            lambda x, heads: x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2),
        "Tokens and d are swapped within each head.": lambda x, heads: _heads(x, heads).transpose(2, 3)})


# --- 05.4: the overlap of an attention map with the true mask
def _found(heat):
    return heat > (heat.min() + heat.max()) / 2


def _iou(found, mask):
    return (found & mask).sum() / (found | mask).sum()


def _heat(seed):
    return 0.1 + 0.8 * torch.rand(6, 6, generator=Generator().manual_seed(seed)) ** 2


EXERCISES["05.4"] = Exercise(
    right=lambda heat, mask: _iou(_found(heat), mask),
    cases=lambda: [(low + _heat(s), draw(s + 3, 6, 6) + 4 * _heat(s) > 1.5) for s, low in ((0, 0), (1, 0.4), (2, 1))],
    hint="Found: above (min + max) / 2. Then the pixels in both, divided by the pixels in at least one.",
    mistakes={
        "Your threshold is ½. Take the middle between min and max.": lambda heat, mask: _iou(heat > 0.5, mask),
        "Your threshold is half the largest value, which may lie below a whole map. Use its least value as well.":
            lambda heat, mask: _iou(heat > heat.max() / 2, mask),
        "Your threshold is the mean. Take the middle between min and max.":
            lambda heat, mask: _iou(heat > heat.mean(), mask),
        "You divide by the mask: a map that covers the whole picture would be perfect.":
            lambda heat, mask: (_found(heat) & mask).sum() / mask.sum(),
        "You divide by what was found: a single pixel on the object would be perfect.":
            lambda heat, mask: (_found(heat) & mask).sum() / _found(heat).sum(),
        "You count the overlap twice: the union is not the sum of both areas.":
            lambda heat, mask: (_found(heat) & mask).sum() / (_found(heat).sum() + mask.sum())})
