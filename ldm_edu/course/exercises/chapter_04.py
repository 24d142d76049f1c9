"""Exercises of chapter 04: byte-pair encoding, cutting an image into patches, the contrastive loss, false negatives."""
import math

import torch
import torch.nn.functional as F

from ...losses import contrastive_loss
from . import Exercise, draw

EXERCISES = {}


# --- 04.1: replay the merges on a new word
def _encode(word, merges, most=100):
    pieces = list(word)
    for pair in merges:
        i = done = 0
        while i < len(pieces) - 1:
            if tuple(pieces[i:i + 2]) == pair and done < most:
                pieces[i:i + 2], done = ["".join(pair)], done + 1
            i += 1
    return tuple(pieces)


EXERCISES["04.1"] = Exercise(
    right=_encode,
    cases=lambda: [("snowman", [("o", "w"), ("n", "ow"), ("s", "now")]), ("nownow", [("o", "w"), ("n", "ow")]),
                   ("abcd", [("b", "c"), ("a", "b"), ("c", "d"), ("bc", "d")]), ("aaa", [("a", "a")]),
                   ("xabyab", [("p", "q"), ("a", "b"), ("b", "y")]), ("cat", [])],
    hint="Start from single letters; for each merge, in the order learned, join every such pair of neighbours.",
    mistakes={
        "You join a pair only where it first occurs. Join it everywhere in the word.":
            lambda word, merges: _encode(word, merges, most=1),
        "Your merges run in reverse. The pair learned first is joined first.":
            lambda word, merges: _encode(word, merges[::-1])})


# --- 04.2: an image as a sequence
def _patches(images, size):
    return F.unfold(images, size, stride=size).transpose(1, 2)


EXERCISES["04.2"] = Exercise(
    right=_patches,
    cases=lambda: [(draw(0, 2, 3, 12, 12), 4), (draw(1, 1, 3, 10, 10), 5), (draw(2, 2, 3, 6, 6), 6)],
    hint="One row for each patch, in reading order; in a row all of channel 0, then 1, then 2, each row by row.",
    mistakes={
        "Your patches go down the columns. Take them in reading order.": lambda x, size:
            _patches(x.mT, size).unflatten(2, (3, size, size)).mT.flatten(2),
        "reshape alone cuts lines out of one channel. Split both sides into (patch, pixel) first.":
            lambda x, size: x.reshape(len(x), -1, 3 * size * size),
        "The order within a patch is wrong: channels come first, as in a convolution's weight, not last.":
            lambda x, size: _patches(x, size).unflatten(2, (3, size * size)).mT.flatten(2)})


# --- 04.3: the contrastive loss
def _questions(logits):
    return F.cross_entropy(logits, torch.arange(len(logits)))


EXERCISES["04.3"] = Exercise(
    right=contrastive_loss,
    cases=lambda: [(F.normalize(draw(n, n, width), dim=1).requires_grad_(),
                    F.normalize(draw(n + 1, n, width), dim=1).requires_grad_(), torch.tensor(scale).requires_grad_())
                   for n, width, scale in ((3, 6, 1.2), (5, 6, 2.0), (6, 2, math.log(99.0)))],
    hint="Logits exp(logit_scale) · images · textsᵀ; cross-entropy of the rows and of the columns; their mean. For "
         "large logits use log_softmax or F.cross_entropy: the log of a softmax that is 0 is infinite.",
    mistakes={
        "You ask one question only: which text belongs to an image. Ask the columns, too.":
            lambda images, texts, scale: _questions(scale.exp() * images @ texts.T),
        "You ask one question only: which image belongs to a text. Ask the rows, too.":
            lambda images, texts, scale: _questions(scale.exp() * texts @ images.T),
        "logit_scale is a logarithm. Take its exp.": lambda images, texts, scale:
            contrastive_loss(images, texts, scale.log()),
        "You add up over the batch. Take the mean, or a larger batch makes a larger step.":
            lambda images, texts, scale: len(images) * contrastive_loss(images, texts, scale)})


# --- 04.4: what fits is no negative
def _masked(similarity, rows, columns, scale):
    """Hide `rows` from the rows' questions and `columns` from the columns'."""
    hidden = [(scale * similarity).masked_fill(mask, -torch.inf) for mask in (rows, columns)]
    return (_questions(hidden[0]) + _questions(hidden[1].T)) / 2


def _others(fits):
    return fits & ~torch.eye(len(fits), dtype=torch.bool)


EXERCISES["04.4"] = Exercise(
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
