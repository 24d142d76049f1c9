"""Exercises of chapter 04: the causal mask, cutting a picture into patches, the contrastive loss, R@k."""
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...clip import contrastive_loss
from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 04.1: who may look at whom

def _mask(n: int, diagonal: int = 0) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril(diagonal)


# --- 04.2: a picture as a sequence

def _patches(images: Tensor, size: int) -> Tensor:
    return F.unfold(images, size, stride=size).transpose(1, 2)


def _patches_cases() -> list[tuple]:
    return [(_randn(2, 3, 12, 12, seed=0), 4), (_randn(1, 3, 10, 10, seed=1), 5)]


# --- 04.3: the contrastive loss

def _contrastive_cases() -> list[tuple]:
    return [(F.normalize(_randn(n, 6, seed=n), dim=1), F.normalize(_randn(n, 6, seed=n + 1), dim=1),
             torch.tensor(scale)) for n, scale in ((3, 1.2), (5, 2.0))]


def _to_texts(images: Tensor, texts: Tensor, factor: Tensor) -> Tensor:
    """Which text belongs to each image."""
    return F.cross_entropy(factor * images @ texts.T, torch.arange(len(images)))


def _both(images: Tensor, texts: Tensor, factor: Tensor) -> Tensor:
    return (_to_texts(images, texts, factor) + _to_texts(texts, images, factor)) / 2


# --- 04.4: found among the k nearest

def _recall(similarity: Tensor, k: int) -> float:
    best = similarity.topk(k, dim=1).indices
    return (best == torch.arange(len(similarity))[:, None]).any(1).float().mean().item()


def _recall_cases() -> list[tuple]:
    return [(2 * torch.eye(40) + _randn(40, 40, seed=s) + 0.4 * _randn(1, 40, seed=s + 9), k)
            for s, k in ((0, 1), (1, 5), (2, 10))]


EXERCISES = {
    "04.1": Exercise(
        right=_mask,
        cases=lambda: [(4,), (7,)],
        hint="Row i, column j is True where j is not after i.",
        mistakes={
            "Turned round: your words look at what comes after them. Rows look, columns are looked at.":
                lambda n: _mask(n).T,
            "A word must see itself as well: the first one would have nothing to look at.":
                lambda n: _mask(n, -1),
            "You mark what is hidden. True is to mean: may look.":
                lambda n: ~_mask(n),
            "You hide nothing: this is the image transformer's mask.":
                lambda n: torch.ones(n, n, dtype=torch.bool),
            "One word too many: each of yours sees the next one, and so the answer to what comes next.":
                lambda n: _mask(n, 1)}),
    "04.2": Exercise(
        right=_patches,
        cases=_patches_cases,
        hint="One row per patch, patches in reading order; in a row all of channel 0, then 1, then 2, each row by row.",
        mistakes={
            "Patches and pixels have changed places: the answer is (B, patches, 3 · size · size).":
                lambda x, size: _patches(x, size).mT,
            "Your patches go down the columns. Read the picture as you read a page.":
                lambda x, size: F.unfold(x.mT, size, stride=size).transpose(1, 2)
                .unflatten(2, (3, size, size)).mT.flatten(2),
            "A reshape alone cuts lines out of one channel, not squares: split both sides into (patch, pixel) first.":
                lambda x, size: x.reshape(len(x), -1, 3 * size * size),
            "The order in a patch is another: channels first, as in a convolution's weight, not last.":
                lambda x, size: _patches(x, size).unflatten(2, (3, size * size)).mT.flatten(2),
            "Your patches overlap: the next one begins where this one ends.":
                lambda x, size: F.unfold(x, size).transpose(1, 2),
            "Rows and columns within a patch are turned.":
                lambda x, size: _patches(x, size).unflatten(2, (3, size, size)).mT.flatten(2)}),
    "04.3": Exercise(
        right=contrastive_loss,
        cases=_contrastive_cases,
        hint="Logits exp(logit_scale) · images · textsᵀ; cross-entropy of the rows, of the columns, and their mean.",
        mistakes={
            "You ask one question only: which text belongs to an image. Ask the columns, too.":
                lambda i, t, s: _to_texts(i, t, s.exp()),
            "You ask one question only: which image belongs to a text. Ask the rows, too.":
                lambda i, t, s: _to_texts(t, i, s.exp()),
            "logit_scale is a logarithm. Take its exp.":
                lambda i, t, s: _both(i, t, s),
            "You divide by the scale. It is 1 / temperature already.":
                lambda i, t, s: _both(i, t, (-s).exp()),
            "The scale is not used: cosines alone are too close together to decide anything.":
                lambda i, t, s: _both(i, t, torch.tensor(1.0)),
            "You add the two losses up. Take their mean.":
                lambda i, t, s: 2 * contrastive_loss(i, t, s),
            "You add up over the batch. Take the mean, or a larger batch is a larger step.":
                lambda i, t, s: len(i) * contrastive_loss(i, t, s)}),
    "04.4": Exercise(
        right=_recall,
        cases=_recall_cases,
        hint="Row by row: is the number of the row among the k columns with the highest values? Then the mean.",
        mistakes={
            "You look down the columns. Each row is one question.":
                lambda similarity, k: _recall(similarity.T, k),
            "k is not used: yours is always R@1.":
                lambda similarity, k: _recall(similarity, 1),
            "You take the k lowest. A high similarity is near.":
                lambda similarity, k: _recall(-similarity, k),
            "One too many: the true one may have at most k - 1 others above it.":
                lambda similarity, k: _recall(similarity, k + 1),
            "You count. The share of the rows is asked for.":
                lambda similarity, k: len(similarity) * _recall(similarity, k)}),
}
