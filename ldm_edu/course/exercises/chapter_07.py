"""Exercises of chapter 07: Euler's step, DPM-Solver++'s extrapolation, guidance rescaled, interpolation of noise."""
import math

import torch

from . import Exercise, draw
from .chapter_02 import clean

EXERCISES = {}


def _z(seed):
    return draw(seed, 2, 4, 3, 3)


# --- 07.1: Euler's step
def _sigma(a):
    return ((1 - a) / a) ** 0.5


def _euler(x, eps, a, b, sigma=_sigma):
    return b**0.5 * (x / a**0.5 + (sigma(b) - sigma(a)) * eps)


EXERCISES["07.1"] = Exercise(
    right=_euler,
    cases=lambda: [(_z(s), _z(s + 1), torch.tensor(a), torch.tensor(b))
                   for s, a, b in ((0, 0.09, 0.3), (2, 0.6, 0.95), (4, 0.5, 1.0))],
    hint="y = x / √ᾱ; y moves by (σ' - σ) eps, σ = √((1 - ᾱ) / ᾱ); then x = √ᾱ' y.",
    mistakes={
        "The sign is wrong: you add noise, but σ' is smaller than σ.": lambda x, e, a, b: _euler(x, -e, a, b),
        "You step in x. The slope eps is that of y = x / √ᾱ.": lambda x, e, a, b: x + (_sigma(b) - _sigma(a)) * e,
        "You return y, not x: multiply by √ᾱ of the next level.": lambda x, e, a, b: _euler(x, e, a, b) / b**0.5,
        "You go back to x with √ᾱ of the old level. The step leads to the next one.":
            lambda x, e, a, b: _euler(x, e, a, b) * (a / b) ** 0.5,
        "The step in y is right, but you begin with x instead of y = x / √ᾱ.":
            lambda x, e, a, b: b**0.5 * (x + (_sigma(b) - _sigma(a)) * e),
        "√(1 - ᾱ) is the noise in x. In y it is divided by √ᾱ, too.":
            lambda *args: _euler(*args, sigma=lambda a: (1 - a) ** 0.5),
        "You forget the root: σ² = (1 - ᾱ) / ᾱ.": lambda *args: _euler(*args, sigma=lambda a: (1 - a) / a),
        "You remove all of the noise. That gives x_0, but the step leads only to the next level.":
            lambda x, e, a, b: clean(x, e, a)})


# --- 07.2: the extrapolation
def _ahead(x0, before, sigma_before, sigma, sigma_next, part=0.5, clock=math.log):
    gone, to_go = clock(sigma_before) - clock(sigma), clock(sigma) - clock(sigma_next)
    return x0 + part * to_go / gone * (x0 - before)


EXERCISES["07.2"] = Exercise(
    right=_ahead,
    cases=lambda: [(_z(s), _z(s + 1), *sigmas)
                   for s, sigmas in ((0, (9.0, 4.0, 2.5)), (2, (3.0, 2.0, 0.5)), (4, (1.2, 0.4, 0.3)))],
    hint="x0 plus its change per λ in the last step, times half the length of the coming step in λ = -log σ.",
    mistakes={
        "You look ahead to the end of the step. Its middle stands for the whole step: take half.":
            lambda *args: _ahead(*args, part=1.0),
        "The sign is wrong: you look back.": lambda *args: _ahead(*args, part=-0.5),
        "You do not look ahead at all: that is Euler's step.": lambda x0, *rest: x0,
        "The clock is wrong: measure the steps in log σ, not in σ.": lambda *args: _ahead(*args, clock=float),
        "The ratio is upside down: divide by the length of the *last* step, multiply by that of the coming one.":
            lambda x0, before, s, t, u: x0 + (x0 - before) * math.log(s / t) / math.log(t / u) / 2,
        "You take both steps to be equally long. That holds only if λ is evenly spaced.":
            lambda x0, before, *sigmas: x0 + (x0 - before) / 2,
        "You average the two predictions. Look ahead instead.": lambda x0, before, *sigmas: (x0 + before) / 2,
        "You begin at `before`. Begin at the newest x0.":
            lambda x0, before, *sigmas: _ahead(x0, before, *sigmas) - x0 + before})


# --- 07.3: guidance rescaled
def _rescaled(guided, cond, phi, dims=(1, 2, 3), power=1):
    ratio = (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)) ** power
    return guided * (phi * ratio + 1 - phi)


def _wide(seed):
    spread = torch.tensor([3.0, 6.0, 0.5]).view(3, 1, 1, 1) * torch.tensor([1.0, 2.0, 0.5, 3.0]).view(4, 1, 1)
    return spread * draw(seed, 3, 4, 5, 5) + 0.4


EXERCISES["07.3"] = Exercise(
    right=_rescaled,
    cases=lambda: [(_wide(s), draw(s + 1, 3, 4, 5, 5) - 0.2, phi) for s, phi in ((0, 0.7), (2, 1.0), (4, 0.2))],
    tolerance=2e-3,
    hint="Multiply each picture by φ · (its conditional spread / its guided spread) + (1 - φ).",
    mistakes={
        "The ratio is upside down: you make the wide one wider.": lambda *args: _rescaled(*args, power=-1),
        "That is the spread of the batch. Each picture has its own.": lambda *args: _rescaled(*args, dims=(0, 1, 2, 3)),
        "You take a spread for each channel, which would change the colours. Take one for each picture.":
            lambda *args: _rescaled(*args, dims=(2, 3)),
        "You take the variance. Take the standard deviation.": lambda *args: _rescaled(*args, power=2),
        "φ and 1 - φ are swapped: φ = 1 rescales fully, φ = 0 not at all.":
            lambda guided, cond, phi: _rescaled(guided, cond, 1 - phi),
        "You rescale fully: φ is not used.": lambda guided, cond, phi: _rescaled(guided, cond, 1.0),
        "You mix the two x0. That is less guidance; keep the guided one and change its spread alone.":
            lambda guided, cond, phi: phi * cond + (1 - phi) * guided,
        "You hold the mean in place. Multiply the whole picture, its mean included, by one number.":
            lambda g, cond, phi: _rescaled(g - (mean := g.mean((1, 2, 3), keepdim=True)), cond, phi) + mean,
        "You forget to add (1 - φ) of the guided x0.": lambda guided, cond, phi: phi * _rescaled(guided, cond, 1.0)})


# --- 07.4: along the sphere
def _angle(a, b):
    return ((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1).acos()


def _slerp(a, b, u, theta=None):
    theta = _angle(a, b) if theta is None else theta
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def _slerp_cases():
    a, b, c = (draw(s, 4, 3, 3) for s in (0, 1, 2))
    return [(a, b, 0.5), (a, b, 0.2), (0.05 * a, 0.06 * (a + 0.5 * c), 0.8), (a[0], c[0], 0.0), (a, c, 1.0)]


EXERCISES["07.4"] = Exercise(
    right=_slerp,
    cases=_slerp_cases,
    hint="θ from the cosine (a·b) / (|a| |b|) over all numbers; then the formula.",
    mistakes={
        "That is the straight line. Halfway it is too short: the weights must be sines.": torch.lerp,
        "a and b are swapped: u = 0 is a.": lambda a, b, u: _slerp(b, a, u),
        "You forget to divide by sin θ.": lambda a, b, u: _slerp(a, b, u) * torch.sin(_angle(a, b)),
        "You take a·b for the cosine. Divide it by both lengths first.":
            lambda a, b, u: _slerp(a, b, u, (a * b).sum().clamp(-1, 1).acos()),
        "You stretch the straight line to the length of a. But a and b may differ in length, and equal steps of u are "
        "no longer equal angles.": lambda a, b, u: a.lerp(b, u) / a.lerp(b, u).norm() * a.norm(),
        "You divide the straight line by √((1 - u)² + u²). That keeps the length only at right angles, and equal steps "
        "of u are no longer equal angles.": lambda a, b, u: a.lerp(b, u) / ((1 - u) ** 2 + u**2) ** 0.5,
        "You take θ for 90°. Two draws of noise are nearly at right angles, but compute the angle.":
            lambda a, b, u: math.cos(math.pi / 2 * u) * a + math.sin(math.pi / 2 * u) * b,
        "√(1 - u) and √u are right only for a and b at right angles.": lambda a, b, u: (1 - u) ** 0.5 * a + u**0.5 * b,
        "You take an angle for each row. Take all numbers together as one long vector.":
            lambda a, b, u: _slerp(a, b, u, torch.cosine_similarity(a, b, dim=-1)[..., None].acos())})
