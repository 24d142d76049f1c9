"""Exercises of chapter 03: KL to a wider prior, a layer of LPIPS, a receptive field, a straight-through gradient."""
import math

import torch
import torch.nn.functional as F

from ...perceptual import layer_distance
from . import Exercise, draw


def _kl(m, v, s, log_s=1.0):
    return (0.5 * ((m**2 + v.exp()) / s**2 - 1 - v) + log_s * math.log(s)).sum((1, 2, 3))


def _layer(a, b, weights, axis):
    difference = F.normalize(a, dim=axis, eps=1e-10) - F.normalize(b, dim=axis, eps=1e-10)
    return torch.einsum("bchw,c->bhw", difference.square(), weights).mean((1, 2))


def _field(kernels, strides, own=0):
    """Side and distance of a receptive field. own: 1 if a layer's own stride spreads the inputs under its kernel."""
    apart = [math.prod(strides[:i]) for i in range(len(strides) + 1)]
    return 1 + sum((k - 1) * apart[i + own] for i, k in enumerate(kernels)), apart[-1]


def _quantise(z, codebook, choose=torch.argmin):
    codes = codebook[choose(torch.cdist(z, codebook), 1)]
    return z + (codes - z).detach()


EXERCISES = {
    "03.1": Exercise(
        right=_kl,
        cases=lambda: [(draw(i, 3, 4, 2, 2).requires_grad_(), (draw(i + 1, 3, 4, 2, 2) - 0.5).requires_grad_(), s)
                       for i, s in ((0, 1.0), (2, 0.5), (4, 3.0))],
        hint="log p has the constant -log s and the parabola -z²/2s²; take the mean under q, then one sum per picture.",
        mistakes={
            "Right for s = 1 only: the width of the prior is not used.": lambda m, v, s: _kl(m, v, 1.0),
            "The constant log s of the prior's density is missing.": lambda m, v, s: _kl(m, v, s, log_s=0),
            "The sign of log s is wrong: a prior that is too wide must cost something.": lambda *a: _kl(*a, log_s=-1),
            "You divide by s. The parabola of the prior is z² / 2s².": lambda m, v, s: _kl(m, v, s**0.5, log_s=2),
            "Twice too much: the ½ is missing.": lambda *a: 2 * _kl(*a),
            "You take the mean over a picture's numbers. Take the sum: their divergences add up.":
                lambda *a: _kl(*a) / a[0][0].numel(),
            "You add up the batch, too. Return one number per picture.": lambda *a: _kl(*a).sum(),
            "You average over the batch, too. Return one number per picture.": lambda *a: _kl(*a).mean(),
            "The overall sign is wrong: a divergence is never negative.": lambda *a: -_kl(*a)}),
    "03.2": Exercise(
        right=layer_distance,
        cases=lambda: [(*((draw(i, 2, 5, 3, 4).relu() + 0.01).requires_grad_() for i in (s, s + 1)),
                        draw(s + 2, 5).abs()) for s in (0, 3)],
        tolerance=1e-3,
        hint="Unit vectors along the channels; differences; squares; weighted sum over channels; mean over pixels.",
        mistakes={
            "You do not normalise: a layer with large activations would outvote the others.":
                lambda a, b, w: torch.einsum("bchw,c->bhw", (a - b).square(), w).mean((1, 2)),
            "You normalise over the pixels. Normalise over the channels.": lambda a, b, w: _layer(a, b, w, (2, 3)),
            "You normalise the whole map at once. Normalise each pixel.": lambda a, b, w: _layer(a, b, w, (1, 2, 3)),
            "You add up over the pixels, so larger pictures would be further apart. Take the mean.":
                lambda a, b, w: a[0, 0].numel() * layer_distance(a, b, w),
            "You take the mean over the channels. Take the weighted sum.": lambda *a: layer_distance(*a) / len(a[2]),
            "You square the weights with the differences. Square first, then multiply by the weights.":
                lambda a, b, w: layer_distance(a, b, w.square()),
            "The weights are not used.": lambda a, b, w: layer_distance(a, b, torch.ones_like(w))}),
    "03.3": Exercise(
        right=_field,
        cases=lambda: [([4, 4], [2, 1]), ([3], [1]), ([1, 5], [3, 1]), ([4] * 3, [2, 2, 1]), ([3, 3, 2], [1, 3, 2])],
        hint="Go up with two numbers: the side so far, and how far apart the inputs of a layer are. A kernel of k adds "
             "k - 1 of these distances; a stride multiplies the distance.",
        mistakes={
            "A layer's own stride spreads its outputs, not the inputs under its kernel. Multiply after adding.":
                lambda k, s: _field(k, s, own=1),
            "The strides are not used: behind a stride of 2, inputs are two pixels apart.":
                lambda k, s: (_field(k, [1] * len(k))[0], math.prod(s)),
            "The side is right. The distance is the product of all strides.": lambda k, s: (_field(k, s)[0], s[-1]),
            "The order is wrong: the lists begin at the picture.": lambda k, s: _field(k[::-1], s[::-1]),
            "A kernel of k adds k - 1 inputs to the first, not k.": lambda k, s: _field([i + 1 for i in k], s)}),
    "03.4": Exercise(
        right=_quantise,
        cases=lambda: [(draw(s, 12, 3).requires_grad_(), draw(s + 1, 5, 3)) for s in (0, 2)],
        hint="The nearest code by Euclidean distance; then z plus a difference, detached.",
        mistakes={
            "That is the code furthest away.": lambda z, codebook: _quantise(z, codebook, torch.argmax),
            "You return the latents themselves. The decoder must read codes.": lambda z, codebook: z,
            "That is the code with the largest dot product, which need not be the nearest.":
                lambda z, codebook: codebook[(z @ codebook.T).argmax(1)],
            "You return the numbers of the codes. Look the codes up.": lambda *a: torch.cdist(*a).argmin(1),
            "You mix the codes. The decoder must read one.": lambda z, c: (-torch.cdist(z, c)).softmax(1) @ c})}
