"""Exercises of chapter 04: packing captions, repairing the contrastive loss, false negatives, the smallest scale."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...losses import contrastive_loss
from . import Exercise, draw

EXERCISES = {}


# --- 04.1: several captions in one row
def _packing(lengths: list[int]) -> tuple[Tensor, Tensor]:
    caption = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return (caption[:, None] == caption).tril(), torch.cat([torch.arange(n) for n in lengths])


def _causal(lengths: list[int]) -> Tensor:
    return torch.ones(sum(lengths), sum(lengths), dtype=torch.bool).tril()


EXERCISES["04.1"] = Exercise(
    right=_packing,
    cases=lambda: [([3, 2],), ([1, 1, 4],), ([5],), ([2, 3, 1],)],
    hint="A token may look at the tokens of its own caption that do not come after it, itself included. Positions "
         "start again with every caption: alone, each would start at 0.",
    mistakes={
        "Your mask is causal, but a caption still sees the captions before it. Alone it would not.":
            lambda lengths: (_causal(lengths), _packing(lengths)[1]),
        "Your mask keeps captions apart, but a token sees what comes after it.":
            lambda lengths: (_packing(lengths)[0] | _packing(lengths)[0].T, _packing(lengths)[1]),
        "Your mask is transposed. The row looks, the column is looked at.":
            lambda lengths: (_packing(lengths)[0].T, _packing(lengths)[1]),
        "Your mask is True where a token must not look. Here True means that it may.":
            lambda lengths: (~_packing(lengths)[0], _packing(lengths)[1]),
        "A token may look at itself. Otherwise the first of a caption has nothing to look at, and its softmax is nan.":
            lambda lengths: (_packing(lengths)[0].tril(-1), _packing(lengths)[1]),
        "Your positions run through the row. Alone, the second caption would start at 0 again.":
            lambda lengths: (_packing(lengths)[0], torch.arange(sum(lengths))),
        "Count positions from 0.": lambda lengths: (_packing(lengths)[0], _packing(lengths)[1] + 1)})


# --- 04.2: five faults in a contrastive loss
def _questions(logits):
    return F.cross_entropy(logits, torch.arange(len(logits)))


def _repaired(images, texts, logit_scale):
    return contrastive_loss(F.normalize(images, dim=1), F.normalize(texts, dim=1), logit_scale)


EXERCISES["04.2"] = Exercise(
    right=_repaired,
    cases=lambda: [(draw(n, n, width).requires_grad_(), draw(n + 1, n, width).requires_grad_(),
                    torch.tensor(scale).requires_grad_())
                   for n, width, scale in ((3, 6, 1.2), (5, 6, 2.0), (6, 2, math.log(99.0)))],
    hint="Ask of each line: over which dimension? Does a gradient pass? Is anything asked twice? What is the log of a "
         "softmax that has become 0 (F.cross_entropy and log_softmax avoid it)? What if the batch were larger?",
    mistakes={
        "Each vector should have length 1: divide by the norm over its numbers, dim=1. dim=0 runs over the batch.":
            lambda images, texts, scale: contrastive_loss(
                images / images.norm(dim=0), texts / texts.norm(dim=0), scale),
        "The vectors do not have length 1. What you multiply are no cosines.": contrastive_loss,
        "The rows are asked twice: a softmax over dim 0 of the transposed matrix runs along the rows again.":
            lambda images, texts, scale:
                _questions(scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T),
        "You ask the columns alone. Ask the rows, too.":
            lambda images, texts, scale:
                _questions(scale.exp() * F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T),
        "You add up over the batch. Take the mean, or a larger batch makes a larger step.":
            lambda images, texts, scale: len(images) * _repaired(images, texts, scale),
        "The first line divides by the norm over the batch, and you still add up: two faults are left.":
            lambda images, texts, scale: len(images) * contrastive_loss(
                images / images.norm(dim=0), texts / texts.norm(dim=0), scale)})


# --- 04.3: what fits is no negative
def _masked(similarity, rows, columns, scale):
    """Hide `rows` from the rows' questions and `columns` from the columns'."""
    hidden = [(scale * similarity).masked_fill(mask, -torch.inf) for mask in (rows, columns)]
    return (_questions(hidden[0]) + _questions(hidden[1].T)) / 2


def _others(fits):
    return fits & ~torch.eye(len(fits), dtype=torch.bool)


EXERCISES["04.3"] = Exercise(
    right=lambda cosines, fits, scale: _masked(cosines, _others(fits), _others(fits), scale),
    cases=lambda: [
        (draw(seed, 4, 4).clamp(-1, 1).requires_grad_(), 9 * torch.eye(4) + draw(seed + 9, 4, 4) > least, scale)
        for seed, least, scale in ((0, 0.5, 5.0), (1, 0.2, 2.0), (2, 1.0, 100.0), (3, -9, 5.0), (4, 8, 5.0))],
    hint="Set the logits of what fits, except the diagonal, to -inf before both softmaxes; then the usual loss.",
    mistakes={
        "fits is not used: what fits is still punished.":
            lambda cosines, fits, scale: _masked(cosines, fits & False, fits & False, scale),
        "You hide what does not fit. Those are the true negatives, from which it learns.":
            lambda cosines, fits, scale: _masked(cosines, ~fits, ~fits, scale),
        "A logit of 0 is not nothing: e^0 = 1 still stands in the denominator. Use -inf.":
            lambda cosines, fits, scale: _masked(cosines * ~_others(fits), fits & False, fits & False, scale),
        "You mask the rows' questions alone. What fits must go from the columns' as well.":
            lambda cosines, fits, scale: _masked(cosines, _others(fits), fits & False, scale),
        "The right answers are hidden, too: fits is True on the diagonal. Leave that one in.":
            lambda cosines, fits, scale: _masked(cosines, fits, fits, scale)})


# --- 04.4: how large the scale must be
def _scale(batch: int, loss: float, least: float | None = None) -> float:
    """least: the cosine between two pairs; by default the smallest that B vectors allow."""
    least = -1 / (batch - 1) if least is None else least
    return math.log((batch - 1) / math.expm1(loss)) / (1 - least)


EXERCISES["04.4"] = Exercise(
    right=_scale,
    cases=lambda: [(2, 0.1), (3, 0.5), (64, 1.0), (64, 4.1), (32_768, 0.1)],
    hint="With the cosine c between two pairs, the squared length of the sum is B + B(B - 1)c, at least 0. The loss is "
         "log(1 + (B - 1) e^(s(c - 1))). Solve it for s.",
    mistakes={
        "The pairs are at right angles here (cosine 0). They can lie farther apart.":
            lambda batch, loss: _scale(batch, loss, 0.0),
        "You let all pairs point in opposite directions (cosine -1). Only two vectors can.":
            lambda batch, loss: math.log((batch - 1) / math.expm1(loss)) / 2,
        "There are B - 1 wrong answers, not B.":
            lambda batch, loss: math.log(batch / math.expm1(loss)) / (1 + 1 / (batch - 1)),
        "The right answer stands in the denominator, too: e^loss is 1 + (B - 1) e^(s(c - 1)), not less.":
            lambda batch, loss: (math.log(batch - 1) - loss) / (1 + 1 / (batch - 1)),
        "That is the temperature. The scale is one over it.": lambda batch, loss: 1 / _scale(batch, loss),
        "That is the logit scale. The scale is its exp.": lambda batch, loss: math.log(_scale(batch, loss)),
        "That is the loss at this scale, or its bound. Solve for the scale.":
            lambda batch, loss: math.log(1 + (batch - 1) * math.exp(-loss * batch / (batch - 1)))})
