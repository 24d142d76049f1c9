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


def overflows(q, k):
    s = scores_of(q, k)
    return s.exp() / s.exp().sum(1, keepdim=True)


def one_maximum_for_all(q, k):
    e = torch.exp(scores_of(q, k) - torch.max(scores_of(q, k)))
    return e / torch.sum(e, dim=1, keepdim=True)


def words_first(q, k):
    return F.softmax(scores_of(k, q), dim=0)


def sigmoids(q, k):
    return torch.sigmoid(scores_of(q, k))


def one_pixel(q, k):
    return F.softmax(scores_of(q, k), dim=1)[0]


# --- 05.2

def attention(q, k, v, real, scale=None):
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=real[None, None], scale=scale)[0]


def reads_padding(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), torch.ones_like(real))


def masks_the_words(x, context, w_q, w_k, w_v, real):
    scores = scores_of(F.linear(x, w_q), F.linear(context, w_k)).masked_fill(real, -math.inf)
    return F.softmax(scores, dim=1) @ F.linear(context, w_v)


def zeroes_the_scores(x, context, w_q, w_k, w_v, real):
    scores = scores_of(F.linear(x, w_q), F.linear(context, w_k)).masked_fill(~real, 0)
    return F.softmax(scores, dim=1) @ F.linear(context, w_v)


def zeroes_the_context(x, context, w_q, w_k, w_v, real):
    context = context.masked_fill(~real[:, None], 0)
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), torch.ones_like(real))


def masks_after_the_softmax(x, context, w_q, w_k, w_v, real):
    weights = F.softmax(scores_of(F.linear(x, w_q), F.linear(context, w_k)), dim=1)
    return weights.masked_fill(~real, 0) @ F.linear(context, w_v)


def keys_for_values(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_k), real)


def values_for_keys(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(context, w_v), F.linear(context, w_k), real)


def looks_at_itself(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(x, w_k), F.linear(x, w_v), real)


def words_ask(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(context, w_q), F.linear(x, w_k), F.linear(x, w_v), real)


def no_root(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), real, scale=1.0)


def root_of_the_width(x, context, w_q, w_k, w_v, real):
    return attention(F.linear(x, w_q), F.linear(context, w_k), F.linear(context, w_v), real, scale=x.size(1) ** -0.5)


def drops_the_padding_but_returns_the_weights(x, context, w_q, w_k, w_v, real):
    return F.softmax(scores_of(F.linear(x, w_q), F.linear(context[real], w_k)), dim=1)


# --- 05.3

def colleague(q, k, v, heads):
    B, N, dim = q.shape
    M, d = k.shape[1], dim // heads
    q, k, v = q.reshape(B, heads, N, d), k.reshape(B, heads, M, d), v.reshape(B, heads, M, d)
    return ((q @ k.mT / math.sqrt(dim)).softmax(-1) @ v).reshape(B, N, dim)


def dealt(x, heads):
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def only_the_root_is_mended(q, k, v, heads):
    B, N, dim = q.shape
    return F.scaled_dot_product_attention(*(x.view(B, heads, -1, dim // heads) for x in (q, k, v))).view(B, N, dim)


def splits_wrongly(q, k, v, heads):
    B, N, dim = q.shape
    h = F.scaled_dot_product_attention(*(x.view(B, heads, -1, dim // heads) for x in (q, k, v)))
    return torch.cat(h.unbind(1), dim=-1)


def joins_wrongly(q, k, v, heads):
    return F.scaled_dot_product_attention(*(dealt(x, heads) for x in (q, k, v))).reshape(q.shape)


def whole_root(q, k, v, heads):
    h = F.scaled_dot_product_attention(*(dealt(x, heads) for x in (q, k, v)), scale=q.shape[-1]**-0.5)
    return torch.cat(h.unbind(1), dim=-1)


def forgets_to_join(q, k, v, heads):
    return F.scaled_dot_product_attention(*(dealt(x, heads) for x in (q, k, v)))


def one_head(q, k, v, heads):
    return F.scaled_dot_product_attention(q, k, v)


def interleaves(q, k, v, heads):
    h = F.scaled_dot_product_attention(*(torch.stack([x[..., i::heads] for i in range(heads)], 1) for x in (q, k, v)))
    return h.transpose(1, 2).flatten(2)


# --- 05.4

def multiplies_the_score(scores, token, factor):
    scores = scores.clone()
    scores[:, token] *= factor
    return scores.softmax(1)


def adds_the_factor(scores, token, factor):
    scores = scores.clone()
    scores[:, token] += factor
    return scores.softmax(1)


def does_not_share_anew(scores, token, factor):
    weights = scores.softmax(1)
    weights[:, token] *= factor
    return weights


def weights_first(scores, token, factor):
    weights = does_not_share_anew(scores, token, factor)
    return weights / weights.sum(1, keepdim=True)


def stops_at_the_scores(scores, token, factor):
    lift = torch.full((scores.shape[1],), 1.0)
    lift[token] = factor
    return scores + lift.log()


def log_of_zero(scores, token, factor):
    scores = scores.clone()
    scores[:, token] += math.log(factor)
    return scores.softmax(1)


def writes_into_the_scores(scores, token, factor):
    scores[:, token] += torch.tensor(factor).log()
    return scores.softmax(1)


def over_the_pixels(scores, token, factor):
    lift = torch.ones(scores.shape[1])
    lift[token] = factor
    return (scores + lift.log()).softmax(0)


def one_column(scores, token, factor):
    lift = torch.ones(scores.shape[1])
    lift[token] = factor
    return (scores + lift.log()).softmax(1)[:, token]


WRONG = {
    "05.1": [
        (forgets_the_root, "The √d is missing"),
        (divides_by_d, "You divide by d"),
        (softmax_over_pixels, "Your columns add up to 1"),
        (forgets_the_softmax, "These are the scores"),
        (does_not_normalise, "You do not divide by the sum"),
        (overflows, "Subtract the largest score of each row"),
        (one_maximum_for_all, "You subtract the largest score of all"),
        (words_first, "Rows and columns are swapped"),
        (sigmoids, "The values are off"),
        (one_pixel, "Expected a tensor of shape (5, 3), got a tensor of shape (3,)"),
    ],
    "05.2": [
        (reads_padding, "Padding is still read"),
        (masks_the_words, "the wrong way round"),
        (zeroes_the_scores, "A score of 0 is not a weight of 0"),
        (zeroes_the_context, "A token of zeros still has the score 0"),
        (masks_after_the_softmax, "You hide padding after the softmax"),
        (keys_for_values, "You mix the keys"),
        (values_for_keys, "Keys and values are swapped"),
        (looks_at_itself, "stops with RuntimeError"),
        (words_ask, "stops with RuntimeError"),
        (no_root, "The √d is missing"),
        (root_of_the_width, "the length of a query, after W_Q"),
        (drops_the_padding_but_returns_the_weights, "Expected a tensor of shape (5, 4), got a tensor of shape (5, 3)"),
    ],
    "05.3": [
        (colleague, "with all three bugs"),
        (only_the_root_is_mended, "Splitting and joining both need a swap"),
        (splits_wrongly, "Heads are still dealt wrongly"),
        (joins_wrongly, "The heads are split rightly but joined wrongly"),
        (whole_root, "Look at the root"),
        (forgets_to_join, "Expected a tensor of shape (2, 5, 8), got a tensor of shape (2, 4, 5, 2)"),
        (one_head, "The values are off"),
        (interleaves, "The values are off"),
    ],
    "05.4": [
        (multiplies_the_score, "You multiply the score"),
        (adds_the_factor, "You add the factor itself"),
        (does_not_share_anew, "no longer add up to 1"),
        (weights_first, "Where one word has all the weight"),
        (stops_at_the_scores, "The softmax is missing"),
        (log_of_zero, "stops with ValueError"),
        (writes_into_the_scores, "changes its arguments"),
        (over_the_pixels, "The values are off"),
        (one_column, "Expected a tensor of shape (5, 4), got a tensor of shape (5,)"),
    ],
}
