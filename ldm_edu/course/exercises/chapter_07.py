"""Exercises of chapter 07: Euler's step, DPM-Solver++'s look ahead, guidance cooled, the way along the sphere."""
from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 07.1: Euler's step

def _sigma(alpha_bar: float) -> float:
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def _euler(x: Tensor, eps: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return math.sqrt(b) * (x / math.sqrt(a) + (_sigma(b) - _sigma(a)) * eps)


def _euler_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s), _randn(2, 4, 3, 3, seed=s + 1), *map(torch.tensor, levels))
            for s, levels in ((0, (0.09, 0.3)), (2, (0.6, 0.95)), (4, (0.5, 1.0)))]


# --- 07.2: the look ahead

def _ahead(x0: Tensor, before: Tensor, sigma_before: float, sigma: float, sigma_next: float, part: float = 0.5,
           clock=math.log) -> Tensor:
    gone, to_go = clock(sigma_before) - clock(sigma), clock(sigma) - clock(sigma_next)
    return x0 + part * to_go / gone * (x0 - before)


def _ahead_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s), _randn(2, 4, 3, 3, seed=s + 1), *sigmas)
            for s, sigmas in ((0, (9.0, 4.0, 2.5)), (2, (3.0, 2.0, 0.5)), (4, (1.2, 0.4, 0.3)))]


# --- 07.3: guidance cooled

def _cooled(guided_x0: Tensor, told_x0: Tensor, phi: float, dims: tuple[int, ...] = (1, 2, 3),
            power: float = 1.0) -> Tensor:
    ratio = (told_x0.std(dims, keepdim=True) / guided_x0.std(dims, keepdim=True)) ** power
    return guided_x0 * (phi * ratio + 1 - phi)


def _cooled_cases() -> list[tuple]:
    wide = torch.tensor([3.0, 6.0, 0.5]).view(3, 1, 1, 1) * torch.tensor([1.0, 2.0, 0.5, 3.0]).view(4, 1, 1)
    return [(wide * _randn(3, 4, 5, 5, seed=s) + 0.4, _randn(3, 4, 5, 5, seed=s + 1) - 0.2, phi)
            for s, phi in ((0, 0.7), (2, 1.0), (4, 0.2))]


# --- 07.4: along the sphere

def _angle(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1).acos()


def _slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    theta = _angle(a, b)
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def _lerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    return (1 - u) * a + u * b


def _stretched(a: Tensor, b: Tensor, u: float) -> Tensor:
    """The straight line, brought back to the length of a."""
    return _lerp(a, b, u) / _lerp(a, b, u).norm() * a.norm()


def _rooted(a: Tensor, b: Tensor, u: float) -> Tensor:
    return math.sqrt(1 - u) * a + math.sqrt(u) * b


def _rows(a: Tensor, b: Tensor, u: float) -> Tensor:
    """An angle for each vector along the last dimension."""
    theta = ((a * b).sum(-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True))).acos()
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def _not_normed(a: Tensor, b: Tensor, u: float) -> Tensor:
    theta = (a * b).sum().clamp(-1, 1).acos()
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def _slerp_cases() -> list[tuple]:
    a, b, c = (_randn(4, 3, 3, seed=s) for s in (0, 1, 2))
    return [(a, b, 0.5), (a, b, 0.2), (0.05 * a, 0.06 * (a + 0.5 * c), 0.8), (a[0], c[0], 0.0)]


EXERCISES = {
    "07.1": Exercise(
        right=_euler,
        cases=_euler_cases,
        hint="y = x / √ᾱ; y moves by (σ' - σ) eps, σ = √((1 - ᾱ) / ᾱ); then x = √ᾱ' y.",
        mistakes={
            "The sign is reversed: you add noise. σ' is smaller than σ, so σ' - σ is negative.":
                lambda x, e, a, b: math.sqrt(b) * (x / math.sqrt(a) + (_sigma(a) - _sigma(b)) * e),
            "You step in x. The slope eps is that of y = x / √ᾱ.":
                lambda x, e, a, b: x + (_sigma(b) - _sigma(a)) * e,
            "You return y, not x: multiply by √ᾱ of the next level.":
                lambda x, e, a, b: x / math.sqrt(a) + (_sigma(b) - _sigma(a)) * e,
            "You go back to x with the old level's √ᾱ. The step leads to the next level.":
                lambda x, e, a, b: x + math.sqrt(a) * (_sigma(b) - _sigma(a)) * e,
            "The step in y is right, but you begin with x instead of y = x / √ᾱ.":
                lambda x, e, a, b: math.sqrt(b) * (x + (_sigma(b) - _sigma(a)) * e),
            "That is √(1 - ᾱ), the noise in x. In y it is divided by √ᾱ, too.":
                lambda x, e, a, b: math.sqrt(b) * (x / math.sqrt(a) + (math.sqrt(1 - b) - math.sqrt(1 - a)) * e),
            "You forget the root: σ² = (1 - ᾱ) / ᾱ.":
                lambda x, e, a, b: math.sqrt(b) * (x / math.sqrt(a) + (_sigma(b)**2 - _sigma(a)**2) * e),
            "You take all of the noise out. That gives x_0; the step leads to the next level only.":
                lambda x, e, a, b: (x - math.sqrt(1 - a) * e) / math.sqrt(a)}),
    "07.2": Exercise(
        right=_ahead,
        cases=_ahead_cases,
        hint="x0 plus its change per λ in the last step, times half of the coming step's length in λ = -log σ.",
        mistakes={
            "You look ahead to the end of the step. What stands for the whole step is its middle: half.":
                lambda *args: _ahead(*args, part=1.0),
            "The sign is reversed: you look back. What x0 gained since `before`, it goes on gaining.":
                lambda *args: _ahead(*args, part=-0.5),
            "You do not look ahead at all: that is Euler's step.": lambda x0, *rest: x0,
            "The clock is wrong: the lengths are differences of σ, not of log σ.":
                lambda *args: _ahead(*args, clock=float),
            "The ratio is upside down: the change per length of the *last* step, times that of the coming one.":
                lambda x0, before, s, t, u:
                    x0 + (x0 - before) * math.log(s / t) / math.log(t / u) / 2,
            "You take both steps for equally long. They are so only on evenly spaced λ.":
                lambda x0, before, *sigmas: x0 + (x0 - before) / 2,
            "You average the two predictions: halfway between them lies the past.":
                lambda x0, before, *sigmas: (x0 + before) / 2,
            "You begin at `before`. Begin at the newest x0.":
                lambda x0, before, *sigmas: _ahead(x0, before, *sigmas) - x0 + before}),
    "07.3": Exercise(
        right=_cooled,
        cases=_cooled_cases,
        tolerance=2e-3,
        hint="Multiply each picture by φ · (its told spread / its guided spread) + (1 - φ).",
        mistakes={
            "The ratio is upside down: you make the wide one wider.": lambda *args: _cooled(*args, power=-1.0),
            "You take one spread for the whole batch. Each picture has its own.":
                lambda *args: _cooled(*args, dims=(0, 1, 2, 3)),
            "You take a spread for each channel: their balance, the colours, would be lost. One for each picture.":
                lambda *args: _cooled(*args, dims=(2, 3)),
            "You take the variance. It is the standard deviation that shall fit.":
                lambda *args: _cooled(*args, power=2.0),
            "φ and 1 - φ have changed places: at φ = 1 all is cooled, at 0 nothing.":
                lambda g, told, phi: _cooled(g, told, 1 - phi),
            "You cool wholly; φ is not used.": lambda g, told, phi: _cooled(g, told, 1.0),
            "You mix the two x0. That is less guidance; keep the guided one and change its spread alone.":
                lambda g, told, phi: phi * told + (1 - phi) * g,
            "You forget the rest, (1 - φ) of the guided x0 as it was.":
                lambda g, told, phi: phi * _cooled(g, told, 1.0)}),
    "07.4": Exercise(
        right=_slerp,
        cases=_slerp_cases,
        hint="θ from the cosine (a·b) / (|a| |b|) over all numbers; then the formula.",
        mistakes={
            "That is the straight line. Halfway it is too short: the weights must be sines.": _lerp,
            "a and b have changed places: u = 0 is a.": lambda a, b, u: _slerp(b, a, u),
            "You forget to divide by sin θ.": lambda a, b, u: _slerp(a, b, u) * torch.sin(_angle(a, b)),
            "You take a·b for the cosine. Divide it by both lengths first.": _not_normed,
            "You stretch the straight line to the length of a. The lengths are right then, but equal steps of u are no "
            "longer equal angles, and a and b may differ in length.": _stretched,
            "√(1 - u) and √u are right for vectors at right angles, and nearly so for noise. The formula holds for any "
            "angle.": _rooted,
            "You take an angle for each row. Take all numbers together as one long vector.": _rows}),
}
