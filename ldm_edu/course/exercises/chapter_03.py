"""Exercises of chapter 03: a sample with its gradient, the KL divergence, one layer of LPIPS, the hinge loss."""
import torch
import torch.nn.functional as F

from ...perceptual import hinge_loss, layer_distance
from . import Exercise, draw

EXERCISES = {}


# --- 03.1: a sample of q(z | x) that gradients pass
EXERCISES["03.1"] = Exercise(
    right=lambda mean, logvar, eps: mean + (0.5 * logvar).exp() * eps,
    cases=lambda: [(draw(s, 2, 4, 3, 3).requires_grad_(), (draw(s + 1, 2, 4, 3, 3) - 1).requires_grad_(),
                    draw(s + 2, 2, 4, 3, 3)) for s in (0, 3)],
    hint="The mean plus noise times the standard deviation, which is exp of half the log-variance.",
    mistakes={
        "exp(logvar) is the variance. Multiply by its root.": lambda mean, logvar, eps: mean + logvar.exp() * eps,
        "You multiply by the log-variance itself. It is a logarithm, and may be negative.":
            lambda mean, logvar, eps: mean + logvar * eps,
        "All your noise has variance 1: the log-variance is not used.": lambda mean, logvar, eps: mean + eps,
        "The sign in the exponent is wrong: a large log-variance must give much noise.":
            lambda mean, logvar, eps: mean + (-0.5 * logvar).exp() * eps,
        "You return the noise alone, without the mean.": lambda mean, logvar, eps: (0.5 * logvar).exp() * eps})


# --- 03.2: the KL divergence of a picture
def _kl_parts(mean, logvar):
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def _kl(mean, logvar):
    return _kl_parts(mean, logvar).sum((1, 2, 3))


EXERCISES["03.2"] = Exercise(
    right=_kl,
    cases=lambda: [(draw(s, 3, 4, 2, 2), draw(s + 1, 3, 4, 2, 2) - 0.5) for s in (0, 2)],
    hint="For each number ½(μ² + σ² - 1 - log σ²), with σ² = exp(logvar); then one sum for each picture.",
    mistakes={
        "Twice too much: the ½ is missing.": lambda mean, logvar: 2 * _kl(mean, logvar),
        "You take the mean over a picture's numbers. Take the sum: their divergences add up.":
            lambda mean, logvar: _kl_parts(mean, logvar).mean((1, 2, 3)),
        "You add up the batch, too. Return one number per picture.": lambda mean, logvar: _kl_parts(mean, logvar).sum(),
        "σ² is exp(logvar). You put the log-variance or σ in its place.":
            lambda mean, logvar: (0.5 * (mean.square() + (0.5 * logvar).exp() - 1 - logvar)).sum((1, 2, 3)),
        "The sign of log σ² is wrong. The divergence must have its minimum, 0, at μ = 0 and σ = 1.":
            lambda mean, logvar: (_kl_parts(mean, logvar) + logvar).sum((1, 2, 3)),
        "You forget the mean: q may be as wide as the prior and still lie elsewhere.":
            lambda mean, logvar: _kl(torch.zeros_like(mean), logvar)})


# --- 03.3: one layer of LPIPS
def _layer(a, b, weights, axis):
    """LPIPS with the features normalised over `axis`."""
    difference = F.normalize(a, dim=axis, eps=1e-10) - F.normalize(b, dim=axis, eps=1e-10)
    return torch.einsum("bchw,c->bhw", difference.square(), weights).mean((1, 2))


EXERCISES["03.3"] = Exercise(
    right=layer_distance,
    cases=lambda: [(draw(s, 2, 5, 3, 4).relu() + 0.01, draw(s + 1, 2, 5, 3, 4).relu() + 0.01, draw(s + 2, 5).abs())
                   for s in (0, 3)],
    tolerance=1e-3,
    hint="Unit vectors along the channels; differences; squares; weighted sum over channels; mean over pixels.",
    mistakes={
        "You do not normalise: a layer with large activations would outvote the others.":
            lambda a, b, w: torch.einsum("bchw,c->bhw", (a - b).square(), w).mean((1, 2)),
        "You normalise over the pixels. Normalise over the channels.": lambda a, b, w: _layer(a, b, w, (2, 3)),
        "You normalise the whole map at once. Normalise each pixel.": lambda a, b, w: _layer(a, b, w, (1, 2, 3)),
        "You add up over the pixels, so larger pictures would be further apart. Take the mean.":
            lambda a, b, w: a[0, 0].numel() * layer_distance(a, b, w),
        "You take the mean over the channels. Take the weighted sum.": lambda a, b, w: layer_distance(a, b, w) / len(w),
        "You square the weights with the differences. Square first, then multiply by the weights.":
            lambda a, b, w: layer_distance(a, b, w.square()),
        "The weights are not used.": lambda a, b, w: layer_distance(a, b, torch.ones_like(w))})


# --- 03.4: the hinge loss
EXERCISES["03.4"] = Exercise(
    right=hinge_loss,
    cases=lambda: [(2 * draw(s, 2, 1, 6, 6) + s, 2 * draw(s + 1, 2, 1, 6, 6) - 0.2) for s in (0, 2)],
    hint="½(mean of max(0, 1 - real) + mean of max(0, 1 + fake)).",
    mistakes={
        "The signs are swapped: this rewards low logits for originals.": lambda real, fake: hinge_loss(fake, real),
        "The sign of fake is wrong: the discriminator would learn to take decoded images for originals.":
            lambda real, fake: hinge_loss(real, -fake),
        "You do not clip at 0: without the hinge the logits grow without limit.":
            lambda real, fake: 0.5 * ((1 - real).mean() + (1 + fake).mean()),
        "The ½ is missing.": lambda real, fake: 2 * hinge_loss(real, fake),
        "The margin is missing: the logits must reach 1 and -1, not only the right side of 0.":
            lambda real, fake: 0.5 * (F.relu(-real).mean() + F.relu(fake).mean()),
        "You clip after taking the mean, so a good patch makes up for a bad one.":
            lambda real, fake: hinge_loss(real.mean(), fake.mean())})
