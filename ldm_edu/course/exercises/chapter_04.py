"""Exercises of chapter 04: the causal mask, cutting an image into patches, the contrastive loss, recall at k."""
import torch
import torch.nn.functional as F

from ...losses import contrastive_loss
from . import Exercise, draw

EXERCISES = {}


# --- 04.1: who may look at whom
def _mask(n, diagonal=0):
    return torch.ones(n, n, dtype=torch.bool).tril(diagonal)


EXERCISES["04.1"] = Exercise(
    right=_mask,
    cases=lambda: [(4,), (7,)],
    hint="Row i, column j is True where j is not after i.",
    mistakes={
        "Transposed: your tokens look at those after them. Rows look, columns are looked at.": lambda n: _mask(n).T,
        "A token must see itself as well: the first one would have nothing to look at.": lambda n: _mask(n, -1),
        "You mark what is hidden. True means: may look.": lambda n: ~_mask(n),
        "You hide nothing: this is the image transformer's mask.": lambda n: torch.ones(n, n, dtype=torch.bool),
        "One token too many: each of yours sees the next one, which is what it should predict.": lambda n: _mask(n, 1)})


# --- 04.2: an image as a sequence
def _patches(images, size):
    return F.unfold(images, size, stride=size).transpose(1, 2)


EXERCISES["04.2"] = Exercise(
    right=_patches,
    cases=lambda: [(draw(0, 2, 3, 12, 12), 4), (draw(1, 1, 3, 10, 10), 5)],
    hint="One row for each patch, in reading order; in a row all of channel 0, then 1, then 2, each row by row.",
    mistakes={
        "Patches and pixels are swapped: return (B, patches, 3 · size · size).": lambda x, size: _patches(x, size).mT,
        "Your patches go down the columns. Take them in reading order.": lambda x, size:
            _patches(x.mT, size).unflatten(2, (3, size, size)).mT.flatten(2),
        "reshape alone cuts lines out of one channel. Split both sides into (patch, pixel) first.":
            lambda x, size: x.reshape(len(x), -1, 3 * size * size),
        "The order within a patch is wrong: channels come first, as in a convolution's weight, not last.":
            lambda x, size: _patches(x, size).unflatten(2, (3, size * size)).mT.flatten(2),
        "Your patches overlap. Move on by `size` pixels.": lambda x, size: F.unfold(x, size).transpose(1, 2),
        "Rows and columns within a patch are swapped.":
            lambda x, size: _patches(x, size).unflatten(2, (3, size, size)).mT.flatten(2)})


# --- 04.3: the contrastive loss
def _to_texts(images, texts, factor):
    """Which text belongs to each image."""
    return F.cross_entropy(factor * images @ texts.T, torch.arange(len(images)))


def _both(images, texts, factor):
    return (_to_texts(images, texts, factor) + _to_texts(texts, images, factor)) / 2


EXERCISES["04.3"] = Exercise(
    right=contrastive_loss,
    cases=lambda: [(F.normalize(draw(n, n, 6), dim=1), F.normalize(draw(n + 1, n, 6), dim=1), torch.tensor(scale))
                   for n, scale in ((3, 1.2), (5, 2.0))],
    hint="Logits exp(logit_scale) · images · textsᵀ; cross-entropy of the rows and of the columns; their mean.",
    mistakes={
        "You ask one question only: which text belongs to an image. Ask the columns, too.":
            lambda images, texts, scale: _to_texts(images, texts, scale.exp()),
        "You ask one question only: which image belongs to a text. Ask the rows, too.":
            lambda images, texts, scale: _to_texts(texts, images, scale.exp()),
        "logit_scale is a logarithm. Take its exp.": _both,
        "You divide by the scale. It is 1 / temperature already.":
            lambda images, texts, scale: _both(images, texts, (-scale).exp()),
        "The scale is not used: cosines alone are too close together for a clear decision.":
            lambda images, texts, scale: _both(images, texts, 1),
        "You add the two losses. Take their mean.": lambda *args: 2 * contrastive_loss(*args),
        "You add up over the batch. Take the mean, or a larger batch makes a larger step.":
            lambda images, texts, scale: len(images) * contrastive_loss(images, texts, scale)})


# --- 04.4: found among the k nearest
def _recall(similarity, k):
    best = similarity.topk(k, dim=1).indices
    return (best == torch.arange(len(similarity))[:, None]).any(1).float().mean().item()


EXERCISES["04.4"] = Exercise(
    right=_recall,
    cases=lambda: [(2 * torch.eye(40) + draw(s, 40, 40) + 0.4 * draw(s + 9, 1, 40), k)
                   for s, k in ((0, 1), (1, 5), (2, 10))],
    hint="For each row: is the diagonal entry among the k largest? Then the mean.",
    mistakes={
        "You look down the columns. Each row is one query.": lambda similarity, k: _recall(similarity.T, k),
        "k is not used: yours is always R@1.": lambda similarity, k: _recall(similarity, 1),
        "You take the k lowest. A high similarity means near.": lambda similarity, k: _recall(-similarity, k),
        "One too many: at most k - 1 others may rank above it.": lambda similarity, k: _recall(similarity, k + 1),
        "You return a count instead of a share.": lambda similarity, k: len(similarity) * _recall(similarity, k)})
