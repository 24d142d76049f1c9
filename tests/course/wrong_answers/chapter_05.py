"""Wrong answers to the exercises of chapter 05, each with a part of its hint."""
import math

import torch
import torch.nn.functional as F

# --- 05.1

def scores_of(q, k):
    return torch.einsum("nd,md->nm", q, k) / math.sqrt(q.size(-1))


def forgets_the_root(q, k):
    return F.softmax(q.matmul(k.transpose(0, 1)), dim=-1)


def divides_by_d(q, k):
    return F.softmax(q.matmul(k.transpose(0, 1)) / q.size(-1), dim=-1)


def softmax_over_pixels(q, k):
    return F.softmax(scores_of(q, k), dim=0)


def forgets_the_softmax(q, k):
    return scores_of(q, k)


def does_not_normalise(q, k):
    return torch.exp(scores_of(q, k))


def words_first(q, k):
    return F.softmax(scores_of(k, q), dim=0)


def sigmoids(q, k):
    return torch.sigmoid(scores_of(q, k))


def one_pixel(q, k):
    return F.softmax(scores_of(q, k), dim=1)[0]


# --- 05.2

def attention(q, k, v, scale=None):
    return F.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)[0]


def keys_for_values(x, context, w_q, w_k, w_v):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_k))


def values_for_keys(x, context, w_q, w_k, w_v):
    return attention(F.linear(x, w_q), F.linear(context, w_v), F.linear(context, w_k))


def looks_at_itself(x, context, w_q, w_k, w_v):
    return attention(F.linear(x, w_q), F.linear(x, w_k), F.linear(x, w_v))


def words_ask(x, context, w_q, w_k, w_v):
    return attention(F.linear(context, w_q), F.linear(x, w_k), F.linear(x, w_v))


def no_root(x, context, w_q, w_k, w_v):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), scale=1.0)


def root_of_the_width(x, context, w_q, w_k, w_v):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), scale=x.size(1) ** -0.5)


def stops_at_the_weights(x, context, w_q, w_k, w_v):
    return F.softmax(scores_of(F.linear(x, w_q), F.linear(context, w_k)), dim=1)


def does_not_transpose(x, context, w_q, w_k, w_v):
    return attention(x @ w_q, context @ w_k, context @ w_v)


def returns_the_weights_too(x, context, w_q, w_k, w_v):
    q, k, v = F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v)
    return attention(q, k, v), F.softmax(scores_of(q, k), dim=1)


# --- 05.3

def views(x, heads):
    batch, tokens, dim = x.shape
    return x.view(batch, heads, tokens, dim // heads)


def does_not_swap(x, heads):
    batch, tokens, dim = x.shape
    return x.view(batch, tokens, heads, dim // heads)


def interleaves(x, heads):
    return torch.stack([x[..., i::heads] for i in range(heads)], dim=1)


def turns_each_head(x, heads):
    return torch.stack(x.chunk(heads, dim=-1), dim=1).mT


def counts_heads_backwards(x, heads):
    return torch.stack(x.chunk(heads, dim=-1)[::-1], dim=1)


def too_many_heads(x, heads):
    return torch.stack(x.split(heads, dim=-1), dim=1)


# --- 05.4

def found_and_true(heat, mask, level):
    return torch.logical_and(heat > level, mask).sum(), torch.logical_or(heat > level, mask).sum()


def half_way(heat):
    return heat.min() + 0.5 * (heat.max() - heat.min())


def at_one_half(heat, mask):
    both, either = found_and_true(heat, mask, 0.5)
    return both / either


def at_half_the_largest(heat, mask):
    both, either = found_and_true(heat, mask, 0.5 * heat.max())
    return both / either


def at_the_mean(heat, mask):
    both, either = found_and_true(heat, mask, heat.mean())
    return both / either


def share_of_the_mask(heat, mask):
    return found_and_true(heat, mask, half_way(heat))[0] / mask.sum()


def share_of_the_found(heat, mask):
    return found_and_true(heat, mask, half_way(heat))[0] / (heat > half_way(heat)).sum()


def adds_the_areas(heat, mask):
    return found_and_true(heat, mask, half_way(heat))[0] / (mask.sum() + (heat > half_way(heat)).sum())


def keeps_the_map(heat, mask):
    return (heat > half_way(heat)) & mask


WRONG = {
    "05.1": [
        (forgets_the_root, "The √d is missing"),
        (divides_by_d, "You divide by d"),
        (softmax_over_pixels, "Your columns add up to 1"),
        (forgets_the_softmax, "These are the scores"),
        (does_not_normalise, "You do not divide by the sum"),
        (words_first, "Rows and columns are swapped"),
        (sigmoids, "The values are off"),
        (one_pixel, "Expected a tensor of shape (5, 3), got a tensor of shape (3,)"),
    ],
    "05.2": [
        (keys_for_values, "You mix the keys"),
        (values_for_keys, "Keys and values are swapped"),
        (looks_at_itself, "that is self-attention"),
        (words_ask, "You take queries from the context"),
        (no_root, "The √d is missing"),
        (root_of_the_width, "the length of a query, after W_Q"),
        (stops_at_the_weights, "You return the weights"),
        (does_not_transpose, "stops with RuntimeError"),
        (returns_the_weights_too, "Expected a tensor of shape (5, 4), got a tuple of 2"),
    ],
    "05.3": [
        (views, "reshape cannot swap dimensions"),
        (does_not_swap, "Heads and tokens are swapped"),
        (interleaves, "Each head takes every n-th number"),
        (turns_each_head, "within each head"),
        (counts_heads_backwards, "The values are off"),
        (too_many_heads, "Expected a tensor of shape (2, 4, 5, 2), got a tensor of shape (2, 2, 5, 4)"),
    ],
    "05.4": [
        (at_one_half, "Your threshold is ½"),
        (at_half_the_largest, "half the largest value"),
        (at_the_mean, "Your threshold is the mean"),
        (share_of_the_mask, "You divide by the mask"),
        (share_of_the_found, "You divide by what was found"),
        (adds_the_areas, "You count the overlap twice"),
        (keeps_the_map, "Expected a number, got a boolean tensor of shape (6, 6)"),
    ],
}
