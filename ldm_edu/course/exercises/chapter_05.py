"""Exercises of chapter 05: attention weights, cross-attention with padding, several heads, emphasis on one word."""
import math

import torch

from . import Exercise, draw

EXERCISES = {}


# --- 05.1: the weights
def _scores(q, k):
    return q @ k.T / q.shape[1]**0.5


EXERCISES["05.1"] = Exercise(
    right=lambda q, k: _scores(q, k).softmax(1),
    cases=lambda: [(2 * draw(d, 5, d) * torch.tensor(size).view(5, 1), draw(d + 1, 3, d)) for d, size in (
        (4, [1.] * 5), (9, [1.] * 5), (16, [1., 50, 100, 200, 400]))],    # scores far above 100
    hint="The products of every query with every key, divided by √d; then a softmax over the words of each pixel.",
    mistakes={
        "The √d is missing: the longer the vectors, the harder the softmax.": lambda q, k: (q @ k.T).softmax(1),
        "You divide by d. Sums of d products spread like √d, so your weights are too even.":
            lambda q, k: (q @ k.T / q.shape[1]).softmax(1),
        "Your columns add up to 1. It is each pixel, a row, that divides its attention among the words.":
            lambda q, k: _scores(q, k).softmax(0),
        "These are the scores. The softmax that turns them into weights is missing.": _scores,
        "You do not divide by the sum of a row: its weights must add up to 1.": lambda q, k: _scores(q, k).exp(),
        "The exponential of a large score overflows. Subtract the largest score of each row first.":
            lambda q, k: _scores(q, k).exp() / _scores(q, k).exp().sum(1, keepdim=True),
        "You subtract the largest score of all, and other rows underflow. Subtract the largest of each row.":
            lambda q, k: (p := (_scores(q, k) - _scores(q, k).max()).exp()) / p.sum(1, keepdim=True),
        "Rows and columns are swapped: each pixel is a row.": lambda q, k: _scores(q, k).softmax(1).T})


# --- 05.2: cross-attention, one head, with padding
def _attend(x, context, w_q, w_k, w_v, real, root=None):
    q, k, v = x @ w_q.T, context @ w_k.T, context @ w_v.T
    return (q @ k.T / (root or q.shape[1]**0.5)).masked_fill(~real, -math.inf).softmax(1) @ v


EXERCISES["05.2"] = Exercise(
    right=_attend,
    cases=lambda: [(draw(d, 5, c), draw(d + 1, len(real), width), draw(d + 2, d, c), draw(d + 3, d, width),
                    draw(d + 4, d, width), torch.tensor(real) > 0)
                   for d, c, width, real in ((4, 6, 3, [1, 1, 1, 0]), (9, 4, 7, [1, 0, 0]), (5, 3, 8, [1, 1, 1]))],
    hint="Q from the pixels, K and V from the words; scores of padding become -∞ before the softmax; then mix values.",
    mistakes={
        "Padding is still read: `real` has no effect.": lambda *a: _attend(*a[:5], a[5] | True),
        "Your mask is the wrong way round: `real` is True for what may be read.": lambda *a: _attend(*a[:5], ~a[5]),
        "A score of 0 is not a weight of 0, since e⁰ = 1. Padding needs a score of -∞.":
            lambda x, c, q, k, v, real: (_scores(x @ q.T, c @ k.T) * real).softmax(1) @ (c @ v.T),
        "A token of zeros still has the score 0 and takes its share. Padding needs a score of -∞.":
            lambda x, c, q, k, v, real: _attend(x, c * real[:, None], q, k, v, real | True),
        "You hide padding after the softmax, so a pixel's weights add up to less than 1. Do it before.":
            lambda x, c, q, k, v, real: _scores(x @ q.T, c @ k.T).softmax(1) * real @ (c @ v.T),
        "You mix the keys, not the values.": lambda x, c, q, k, v, real: _attend(x, c, q, k, k, real),
        "Keys and values are swapped.": lambda x, c, q, k, v, real: _attend(x, c, q, v, k, real),
        "The √d is missing.": lambda *a: _attend(*a, 1.0),
        "You take the root of the number of channels of x. d is the length of a query, after W_Q.":
            lambda *a: _attend(*a, a[0].shape[1]**0.5)})


# --- 05.3: several heads, to be debugged
def _multi_head(q, k, v, heads, split=True, join=True, root=True):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) if split else x.reshape(len(x), heads, x.shape[1], -1)
               for x in (q, k, v))
    h = (q @ k.mT / (q.shape[-1] * (1 if root else heads))**0.5).softmax(-1) @ v
    return h.transpose(1, 2).flatten(2) if join else h.reshape(len(h), h.shape[2], -1)


EXERCISES["05.3"] = Exercise(
    right=_multi_head,
    cases=lambda: [(draw(s, 2, 5, d), draw(s + 1, 2, m, d), draw(s + 2, 2, m, d), heads)
                   for s, m, d, heads in ((0, 3, 8, 4), (3, 5, 6, 2), (6, 4, 4, 1))],
    hint="Split into (heads, d), then swap tokens and heads; divide by the root of d; swap back, then join.",
    mistakes={
        "Heads are still dealt wrongly: reshape alone gives a head some tokens whole, and it never sees the others.":
            lambda *a: _multi_head(*a, split=False),
        "The heads are split rightly but joined wrongly: swap heads and tokens back before you reshape.":
            lambda *a: _multi_head(*a, join=False),
        "Splitting and joining are right. Look at the root: a head's query has dim / heads numbers.":
            lambda *a: _multi_head(*a, root=False),
        "Splitting and joining both need a swap of tokens and heads; reshape alone does not swap.":
            lambda *a: _multi_head(*a, split=False, join=False),
        "This is the function as it was, with all three bugs.": lambda *a: _multi_head(*a, False, False, False)})


# --- 05.4: emphasis on one word
def _change(scores, token, factor, act=lambda score, f: score + (math.log(f) if f else -math.inf)):
    return torch.where(torch.arange(scores.shape[1]) == token, act(scores, factor), scores)


EXERCISES["05.4"] = Exercise(
    right=lambda *a: _change(*a).softmax(1),
    cases=lambda: [(size * draw(seed, 5, 4), token, factor) for seed, size, token, factor in (
        (0, 1, 1, 3.0), (1, 1, 0, 1.0), (2, 1, 3, 0.25), (3, 100, 2, 0.0), (4, 100, 0, 50.0))],
    hint="Weights are powers of e over their sum. What, added to one score, multiplies its power by the factor?",
    mistakes={
        "You multiply the score, and a score below 0 falls where it should rise. What multiplies e to the score?":
            lambda *a: _change(*a, torch.mul).softmax(1),
        "You add the factor itself, which multiplies the odds by e to the factor.":
            lambda *a: _change(*a, torch.add).softmax(1),
        "The weights of a pixel no longer add up to 1: the other words must give up what this one gains.":
            lambda s, *a: _change(s.softmax(1), *a, torch.mul),
        "You change the weights and divide by their sum. Where one word has all the weight, the others have become "
        "0. Change the scores, before the softmax.":
            lambda s, *a: (w := _change(s.softmax(1), *a, torch.mul)) / w.sum(1, keepdim=True),
        "You return the scores. The softmax is missing.": _change})
