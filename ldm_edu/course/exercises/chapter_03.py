"""Exercises of chapter 03: a sample with its gradient, the KL by hand, one layer of LPIPS, the hinge loss."""
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...perceptual import hinge_loss, layer_distance
from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 03.1: a draw from q(z | x) that gradients pass

def _sample(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    return mean + (0.5 * logvar).exp() * eps


def _sample_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s).requires_grad_(), (_randn(2, 4, 3, 3, seed=s + 1) - 1).requires_grad_(),
             _randn(2, 4, 3, 3, seed=s + 2)) for s in (0, 3)]


# --- 03.2: the KL of a picture

def _kl_parts(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def _kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return _kl_parts(mean, logvar).sum((1, 2, 3))


def _kl_cases() -> list[tuple]:
    return [(_randn(3, 4, 2, 2, seed=s), _randn(3, 4, 2, 2, seed=s + 1) - 0.5) for s in (0, 2)]


# --- 03.3: one layer of LPIPS

def _layer(a: Tensor, b: Tensor, weights: Tensor, axis: int | tuple[int, ...] = 1) -> Tensor:
    """LPIPS with the features normalised over `axis`."""
    difference = F.normalize(a, dim=axis, eps=1e-10) - F.normalize(b, dim=axis, eps=1e-10)
    return torch.einsum("bchw,c->bhw", difference.square(), weights).mean((1, 2))


def _layer_cases() -> list[tuple]:
    return [(_randn(2, 5, 3, 4, seed=s).relu() + 0.01, _randn(2, 5, 3, 4, seed=s + 1).relu() + 0.01,
             _randn(5, seed=s + 2).abs()) for s in (0, 3)]


# --- 03.4: the hinge

def _hinge_cases() -> list[tuple]:
    return [(2 * _randn(2, 1, 6, 6, seed=s) + s, 2 * _randn(2, 1, 6, 6, seed=s + 1) - 0.2) for s in (0, 2)]


EXERCISES = {
    "03.1": Exercise(
        right=_sample,
        cases=_sample_cases,
        hint="The mean, plus the noise as wide as the standard deviation, which is e to half the log-variance.",
        mistakes={
            "exp(logvar) is the variance. What noise is multiplied by is its root.":
                lambda mean, logvar, eps: mean + logvar.exp() * eps,
            "You multiply by the log-variance itself. It is a logarithm, and may be negative.":
                lambda mean, logvar, eps: mean + logvar * eps,
            "All your noise has variance 1: the log-variance is not used.":
                lambda mean, logvar, eps: mean + eps,
            "The sign under the exponent is wrong: a large log-variance must give much noise.":
                lambda mean, logvar, eps: mean + (-0.5 * logvar).exp() * eps,
            "You return the noise alone. Where is its centre?":
                lambda mean, logvar, eps: (0.5 * logvar).exp() * eps}),
    "03.2": Exercise(
        right=_kl,
        cases=_kl_cases,
        hint="Per number ½(μ² + σ² - 1 - log σ²), with σ² = exp(logvar); then one sum for each picture.",
        mistakes={
            "Twice too much: the ½ is missing.":
                lambda mean, logvar: 2 * _kl(mean, logvar),
            "You average where the sum over a picture's numbers is asked for: their divergences add up.":
                lambda mean, logvar: _kl_parts(mean, logvar).mean((1, 2, 3)),
            "You add up over the batch as well. Each picture has its own divergence.":
                lambda mean, logvar: _kl_parts(mean, logvar).sum(),
            "σ² is exp(logvar). You put the log-variance, or σ, in its place.":
                lambda mean, logvar: (0.5 * (mean.square() + (0.5 * logvar).exp() - 1 - logvar)).sum((1, 2, 3)),
            "The sign of log σ² is wrong. At μ = 0 and σ = 1, and only there, the divergence must have its least "
            "value, 0.":
                lambda mean, logvar: (0.5 * (mean.square() + logvar.exp() - 1 + logvar)).sum((1, 2, 3)),
            "You forget the mean: q may be as wide as the prior and still lie elsewhere.":
                lambda mean, logvar: _kl(torch.zeros_like(mean), logvar)}),
    "03.3": Exercise(
        right=layer_distance,
        cases=_layer_cases,
        tolerance=1e-3,
        hint="Unit vectors along the channels; differences; squares; weighted sum over channels; mean over pixels.",
        mistakes={
            "You do not normalise: a layer with large activations would outvote the others.":
                lambda a, b, w: torch.einsum("bchw,c->bhw", (a - b).square(), w).mean((1, 2)),
            "You normalise along the pixels. The vector at one pixel, over the channels, is to have length 1.":
                lambda a, b, w: _layer(a, b, w, (2, 3)),
            "You normalise the whole map at once. Each pixel has a vector of its own.":
                lambda a, b, w: _layer(a, b, w, (1, 2, 3)),
            "You add up over the pixels: a larger picture would be further away. Take their mean.":
                lambda a, b, w: a[0, 0].numel() * layer_distance(a, b, w),
            "You average over the channels. The weighted sum is asked for.":
                lambda a, b, w: layer_distance(a, b, w) / len(w),
            "You square the weights with the differences. Weigh after squaring.":
                lambda a, b, w: layer_distance(a, b, w.square()),
            "The weights are not used.":
                lambda a, b, w: layer_distance(a, b, torch.ones_like(w))}),
    "03.4": Exercise(
        right=hinge_loss,
        cases=_hinge_cases,
        hint="½(mean of max(0, 1 - real) + mean of max(0, 1 + fake)).",
        mistakes={
            "The signs have changed places: this rewards low logits for originals.":
                lambda real, fake: hinge_loss(fake, real),
            "The sign before fake is wrong: you would teach the judge to take decoded images for originals.":
                lambda real, fake: 0.5 * (F.relu(1 - real).mean() + F.relu(1 - fake).mean()),
            "You do not cut at 0: without the hinge the logits run away to infinity.":
                lambda real, fake: 0.5 * ((1 - real).mean() + (1 + fake).mean()),
            "The ½ is missing.":
                lambda real, fake: 2 * hinge_loss(real, fake),
            "The margin is missing: it is not enough to be on the right side of 0, both must reach 1.":
                lambda real, fake: 0.5 * (F.relu(-real).mean() + F.relu(fake).mean()),
            "You cut after the mean, so that a good patch pays for a bad one.":
                lambda real, fake: 0.5 * (F.relu((1 - real).mean()) + F.relu((1 + fake).mean()))}),
}
