"""Exercises of chapter 01: one step of the forward process, from x_0 to x_t, from x_s to x_t, the SNR."""
import torch

from ...schedule import cosine_schedule, linear_schedule, scaled_linear_schedule
from . import Exercise, draw

EXERCISES = {}


def noised(x, eps, a):
    """Noise x until `a` of its variance is left: the closed form."""
    return a**0.5 * x + (1 - a) ** 0.5 * eps


def noised_without_roots(x, eps, a):
    """The most common mistake in it."""
    return a * x + (1 - a) * eps


# --- 01.1: one step, q(x_t | x_{t-1})
EXERCISES["01.1"] = Exercise(
    right=lambda x, eps, beta: noised(x, eps, 1 - beta),
    cases=lambda: [(draw(0, 2, 2), draw(1, 2, 2), torch.tensor(0.36)),    # tensors: beta.sqrt() works, too
                   (draw(2, 3, 8, 8), draw(3, 3, 8, 8), torch.tensor(0.01))],
    hint="x times one factor plus eps times another; both factors follow from beta alone.",
    mistakes={
        "beta is the variance of the added noise. So what do you multiply eps by?":
            lambda x, eps, beta: (1 - beta) ** 0.5 * x + beta * eps,
        "The noise is right, but the signal shrinks too much: 1 - beta is its share of the variance.":
            lambda x, eps, beta: (1 - beta) * x + beta**0.5 * eps,
        "Both factors are variances. Multiply x and eps by standard deviations.":
            lambda x, eps, beta: noised_without_roots(x, eps, 1 - beta),
        "The signal does not shrink, so the variance grows with every step.": lambda x, eps, beta: x + beta**0.5 * eps,
        "Signal and noise are swapped: a small beta must hardly change x.": lambda x, eps, beta: noised(x, eps, beta),
        "The factors do not belong together: if the noise takes beta of the variance, how much is left for x?":
            lambda x, eps, beta: (1 - beta**0.5) * x + beta**0.5 * eps})


# --- 01.2: the closed form for a batch, q(x_t | x_0)
def per_item(alpha_bar, t):
    return alpha_bar[t].reshape(-1, 1, 1, 1)    # (B, 1, 1, 1)


def alphas(alpha_bar):
    return torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _q_sample(x0, eps, t, alpha_bar):
    return noised(x0, eps, per_item(alpha_bar, t))


EXERCISES["01.2"] = Exercise(
    right=_q_sample,
    cases=lambda: [    # batch and width are equal, so that factors along the wrong axis raise no error
        (draw(0, 4, 3, 5, 4), draw(1, 4, 3, 5, 4), torch.tensor([0, 30, 400, 999]), linear_schedule().alpha_bar),
        (draw(2, 2, 1, 3, 2), draw(3, 2, 1, 3, 2), torch.tensor([7, 2]),
         scaled_linear_schedule(10, 0.1, 0.4).alpha_bar)],
    hint="Look up alpha_bar[t], reshape it to (B, 1, 1, 1), then write the closed form.",
    mistakes={
        "The wrong axis: a tensor of shape (B,) lines up with the columns. Each picture needs its own factor.":
            lambda x0, eps, t, alpha_bar: noised(x0, eps, alpha_bar[t]),
        "1 - alpha_bar is the variance of the noise, not its standard deviation.":
            lambda x0, eps, t, alpha_bar: _q_sample(x0, 0, t, alpha_bar) + (1 - per_item(alpha_bar, t)) * eps,
        "Both factors are variances; take their roots.":
            lambda x0, eps, t, alpha_bar: noised_without_roots(x0, eps, per_item(alpha_bar, t)),
        "Signal and noise are swapped: at t = 0 nearly everything must be signal.":
            lambda x0, eps, t, alpha_bar: _q_sample(eps, x0, t, alpha_bar),
        "That is alpha_t, what one step leaves. You need what all steps up to t leave.":
            lambda x0, eps, t, alpha_bar: _q_sample(x0, eps, t, alphas(alpha_bar)),
        "Off by one: t counts from 0, so you need alpha_bar[t] itself, not its neighbour.":
            lambda x0, eps, t, alpha_bar: _q_sample(x0, eps, (t - 1).clamp(min=0), alpha_bar),
        "Off by one: t counts from 0. And for t = 0 your index is -1, the last level, which is nearly all noise.":
            lambda x0, eps, t, alpha_bar: _q_sample(x0, eps, t - 1, alpha_bar)})


# --- 01.3: from one level to a later one, q(x_t | x_s)
def _with_noise(factor):
    """The right signal, and noise times `factor(alpha_bar_s, alpha_bar_t)`."""
    return lambda x_s, eps, s, t, a: (a[t] / a[s]).sqrt() * x_s + factor(a[s], a[t]) * eps


EXERCISES["01.3"] = Exercise(
    right=lambda x_s, eps, s, t, a: noised(x_s, eps, a[t] / a[s]),
    cases=lambda: [(draw(0, 3, 8, 8), draw(1, 3, 8, 8), s, t, scaled_linear_schedule().alpha_bar)
                   for s, t in ((0, 1), (200, 450), (600, 999))],
    hint="The steps s + 1 ... t multiply the signal by the root of a product of alphas. Express that product by "
         "alpha_bar[t] and alpha_bar[s]; signal² + noise² = 1.",
    mistakes={
        "You treat x_s as clean, but its signal has shrunk already.": lambda x_s, eps, s, t, a: noised(x_s, eps, a[t]),
        "The signal is right, but there is too much noise: part of the noise of x_t is in x_s already.":
            _with_noise(lambda a_s, a_t: (1 - a_t).sqrt()),
        "The signal is right. But the noise of x_s shrinks, too, before the new noise is added.":
            _with_noise(lambda a_s, a_t: (a_s - a_t).sqrt()),
        "The signal is right. For the noise, variances add up, not standard deviations.":
            _with_noise(lambda a_s, a_t: (1 - a_t).sqrt() - (a_t / a_s * (1 - a_s)).sqrt()),
        "The signal is right. Your factor of eps is a variance.": _with_noise(lambda a_s, a_t: 1 - a_t / a_s)})


# --- 01.4: the first level with less signal than asked for
def _first(condition):
    """The first t where `condition(alpha_bar, snr)` holds."""
    return lambda schedule, snr: int(condition(schedule.alpha_bar, snr).nonzero()[0])


_first_below = _first(lambda a, snr: a / (1 - a) < snr)

EXERCISES["01.4"] = Exercise(
    right=_first_below,
    cases=lambda: [(schedule, snr) for schedule in (linear_schedule(), scaled_linear_schedule(), cosine_schedule())
                   for snr in (4.0, 1.0, 0.1)],
    hint="Compute alpha_bar / (1 - alpha_bar) for all t; it falls. Return the first t where it is below snr.",
    mistakes={
        "One too few: that is the last t where the SNR is not below yet.": lambda s, snr: _first_below(s, snr) - 1,
        "One too many: t counts from 0.": lambda s, snr: _first_below(s, snr) + 1,
        "That is where alpha_bar falls below snr. Divide it by 1 - alpha_bar first.": _first(lambda a, snr: a < snr),
        "That is the ratio of the standard deviations. The SNR is a ratio of variances.":
            _first(lambda a, snr: (a / (1 - a)).sqrt() < snr),
        "Upside down: that is noise over signal.": _first(lambda a, snr: (1 - a) / a > snr),
        "That is the first t above snr. The SNR starts high and falls.": _first(lambda a, snr: a / (1 - a) > snr)})
