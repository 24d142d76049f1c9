"""Exercises of chapter 01: one step of the chain, the leap to any t, the leap between two t, the SNR."""
import torch
from torch import Generator, Tensor

from ...schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 01.1: one step, q(x_t | x_{t-1})

def _step(x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
    return (1 - beta) ** 0.5 * x + beta**0.5 * eps


def _step_cases() -> list[tuple]:
    """beta as a tensor: .sqrt() works on it, math.sqrt does as well."""
    return [(_randn(2, 2, seed=0), _randn(2, 2, seed=1), torch.tensor(0.36)),
            (_randn(3, 8, 8, seed=2), _randn(3, 8, 8, seed=3), torch.tensor(0.01))]


# --- 01.2: the closed form for a batch, q(x_t | x_0)

def _rate(values: Tensor, x0: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x0.ndim - 1))    # (B, 1, 1, 1)


def _q_sample(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    a = _rate(alpha_bar[t], x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def _q_sample_alpha(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    return _q_sample(x0, eps, t, torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]))


def _q_sample_last_axis(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    return alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps


def _q_sample_variance(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    a = _rate(alpha_bar[t], x0)
    return a.sqrt() * x0 + (1 - a) * eps


def _q_sample_cases() -> list[tuple]:
    """As many pictures as columns, so that rates along the wrong axis raise no error: they are just wrong."""
    return [(_randn(4, 3, 5, 4, seed=0), _randn(4, 3, 5, 4, seed=1), torch.tensor([0, 30, 400, 999]),
             linear_schedule().alpha_bar),
            (_randn(2, 1, 3, 2, seed=2), _randn(2, 1, 3, 2, seed=3), torch.tensor([7, 2]),
             scaled_linear_schedule(10, 0.1, 0.4).alpha_bar)]


# --- 01.3: the leap from one level to a later one, q(x_t | x_s)

def _leap(x_s: Tensor, eps: Tensor, s: int, t: int, alpha_bar: Tensor) -> Tensor:
    ratio = alpha_bar[t] / alpha_bar[s]
    return ratio.sqrt() * x_s + (1 - ratio).sqrt() * eps


def _leap_with_noise(noise):
    """A leap with the right signal and the rate of noise that `noise(alpha_bar_s, alpha_bar_t)` says."""
    return lambda x_s, eps, s, t, alpha_bar: ((alpha_bar[t] / alpha_bar[s]).sqrt() * x_s
                                              + noise(alpha_bar[s], alpha_bar[t]) * eps)


def _leap_cases() -> list[tuple]:
    alpha_bar = scaled_linear_schedule().alpha_bar
    return [(_randn(3, 8, 8, seed=0), _randn(3, 8, 8, seed=1), s, t, alpha_bar)
            for s, t in ((0, 1), (200, 450), (600, 999))]


# --- 01.4: the first level with less signal than asked for

def _first_below(schedule: Schedule, snr: float) -> int:
    alpha_bar = schedule.alpha_bar
    return int((alpha_bar / (1 - alpha_bar) < snr).nonzero()[0])


def _first(condition):
    """The first t at which `condition(alpha_bar, snr)` holds."""
    return lambda schedule, snr: int(condition(schedule.alpha_bar, snr).nonzero()[0])


def _first_below_cases() -> list[tuple]:
    return [(schedule, snr) for schedule in (linear_schedule(), scaled_linear_schedule(), cosine_schedule())
            for snr in (4.0, 1.0, 0.1)]


EXERCISES = {
    "01.1": Exercise(
        right=_step,
        cases=_step_cases,
        hint="Two terms: x, shrunk by one rate, plus eps, multiplied by another; both rates follow from beta alone.",
        mistakes={
            "beta is the variance of the noise that is added. What is the number to multiply eps by, then?":
                lambda x, eps, beta: (1 - beta) ** 0.5 * x + beta * eps,
            "The noise is right, the signal shrinks too much: 1 - beta is its share of the variance.":
                lambda x, eps, beta: (1 - beta) * x + beta**0.5 * eps,
            "Both rates are variances. Numbers that multiply x and eps are standard deviations.":
                lambda x, eps, beta: (1 - beta) * x + beta * eps,
            "The signal does not shrink, so the variance grows with every step.":
                lambda x, eps, beta: x + beta**0.5 * eps,
            "Signal and noise have changed places: a small beta must leave x almost as it is.":
                lambda x, eps, beta: beta**0.5 * x + (1 - beta) ** 0.5 * eps,
            "The rates do not belong together: if the noise takes beta of the variance, how much is left for x?":
                lambda x, eps, beta: (1 - beta**0.5) * x + beta**0.5 * eps}),
    "01.2": Exercise(
        right=_q_sample,
        cases=_q_sample_cases,
        hint="Look up alpha_bar[t], make it (B, 1, 1, 1), then write the closed form.",
        mistakes={
            "Right numbers, wrong axis: a tensor of shape (B,) lines up with the columns of the pictures. "
            "Each picture of the batch needs its own rate.": _q_sample_last_axis,
            "The noise has the wrong size: 1 - alpha_bar is its variance, not its standard deviation.":
                _q_sample_variance,
            "Both rates are variances; take their roots.":
                lambda x0, eps, t, alpha_bar: _rate(alpha_bar[t], x0) * x0 + _rate(1 - alpha_bar[t], x0) * eps,
            "Signal and noise have changed places: at t = 0 nearly everything must be signal.":
                lambda x0, eps, t, alpha_bar: _q_sample(eps, x0, t, alpha_bar),
            "That is alpha_t, the share that one step leaves. You need what all steps up to t leave.":
                _q_sample_alpha,
            "Off by one: in the code t counts from 0, so that alpha_bar[t] is what you need, not its neighbour.":
                lambda x0, eps, t, alpha_bar: _q_sample(x0, eps, (t - 1).clamp(min=0), alpha_bar),
            "Off by one: in the code t counts from 0; and the index -1, of t = 0, is the last level, nearly all noise.":
                lambda x0, eps, t, alpha_bar: _q_sample(x0, eps, t - 1, alpha_bar)}),
    "01.3": Exercise(
        right=_leap,
        cases=_leap_cases,
        hint="The steps s + 1 ... t multiply the signal by the root of a product of alphas. Write that product with "
             "alpha_bar[t] and alpha_bar[s]; signal² + noise² = 1.",
        mistakes={
            "This treats x_s as if it were the clean picture: it has been shrunk up to s already.":
                lambda x_s, eps, s, t, alpha_bar: alpha_bar[t].sqrt() * x_s + (1 - alpha_bar[t]).sqrt() * eps,
            "The signal is right, the noise too large: part of the noise of x_t is in x_s already.":
                _leap_with_noise(lambda a_s, a_t: (1 - a_t).sqrt()),
            "The signal is right. The noise of x_s shrinks on the way, too, before the new noise is added to it.":
                _leap_with_noise(lambda a_s, a_t: (a_s - a_t).sqrt()),
            "The signal is right. For the noise, variances add up, not standard deviations.":
                _leap_with_noise(lambda a_s, a_t: (1 - a_t).sqrt() - (a_t / a_s * (1 - a_s)).sqrt()),
            "The signal is right. The noise is a variance: take its root.":
                _leap_with_noise(lambda a_s, a_t: 1 - a_t / a_s)}),
    "01.4": Exercise(
        right=_first_below,
        cases=_first_below_cases,
        hint="Compute alpha_bar / (1 - alpha_bar) for all t; it falls. Return the first t where it is below snr.",
        mistakes={
            "One too few: that is the last t at which the SNR is not below yet.":
                lambda schedule, snr: _first_below(schedule, snr) - 1,
            "One too many: t counts from 0.":
                lambda schedule, snr: _first_below(schedule, snr) + 1,
            "That is where alpha_bar falls below snr. The SNR compares it with what the noise has.":
                lambda schedule, snr: int((schedule.alpha_bar < snr).nonzero()[0]),
            "That is the ratio of the standard deviations. The SNR is a ratio of variances.":
                _first(lambda alpha_bar, snr: (alpha_bar / (1 - alpha_bar)).sqrt() < snr),
            "Upside down: that is noise over signal.":
                _first(lambda alpha_bar, snr: (1 - alpha_bar) / alpha_bar > snr),
            "That is the first t above snr. The SNR starts high and falls.":
                _first(lambda alpha_bar, snr: alpha_bar / (1 - alpha_bar) > snr)}),
}
