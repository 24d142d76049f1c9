"""Exercises of chapter 02: the posterior of a step, x_0 from the noise, one DDIM step, the loss L_simple."""
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ...schedule import linear_schedule
from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 02.1: q(x_{t-1} | x_t, x_0)

def _posterior(x0: Tensor, x_t: Tensor, beta: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = (1 - beta) * alpha_bar_prev
    mean = (alpha_bar_prev**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - alpha_bar_prev) * x_t) / (1 - alpha_bar)
    return mean, (1 - alpha_bar_prev) / (1 - alpha_bar) * beta


def _posterior_with(variance: Callable[[float, float, float], float]):
    """The right mean, and the variance that `variance(right, beta, alpha_bar_prev)` says."""
    def answer(x0, x_t, beta, alpha_bar_prev):
        mean, right = _posterior(x0, x_t, beta, alpha_bar_prev)
        return mean, variance(right, beta, alpha_bar_prev)
    return answer


def _posterior_alpha_bar(x0, x_t, beta, alpha_bar_prev):
    return _posterior(x0, x_t, beta, (1 - beta) * alpha_bar_prev)


def _posterior_without_roots(x0, x_t, beta, alpha_bar_prev):
    alpha_bar = (1 - beta) * alpha_bar_prev
    mean = (alpha_bar_prev * beta * x0 + (1 - beta) * (1 - alpha_bar_prev) * x_t) / (1 - alpha_bar)
    return mean, (1 - alpha_bar_prev) / (1 - alpha_bar) * beta


def _posterior_cases() -> list[tuple]:
    """The rates as tensors: .sqrt() works on them, math.sqrt does as well."""
    return [(_randn(5, 2, seed=0), _randn(5, 2, seed=1), torch.tensor(0.2), torch.tensor(0.5)),
            (_randn(3, 4, 4, seed=2), _randn(3, 4, 4, seed=3), torch.tensor(0.01), torch.tensor(0.9))]


# --- 02.2: x_0 from the predicted noise

def _x0(x_t: Tensor, eps: Tensor, t: int, alpha_bar: Tensor) -> Tensor:
    return (x_t - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()


def _x0_alpha(x_t, eps, t, alpha_bar):
    return _x0(x_t, eps, t, torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]))


def _x0_cases() -> list[tuple]:
    alpha_bar = linear_schedule().alpha_bar
    return [(_randn(2, 3, 4, 4, seed=t), _randn(2, 3, 4, 4, seed=t + 1), t, alpha_bar) for t in (50, 300, 600)]


# --- 02.3: one step of DDIM

def _ddim_step(x_t: Tensor, eps: Tensor, alpha_bar: float, alpha_bar_prev: float) -> Tensor:
    x0 = (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
    return alpha_bar_prev**0.5 * x0 + (1 - alpha_bar_prev) ** 0.5 * eps


def _ddim_step_keeping_noise(x_t, eps, alpha_bar, alpha_bar_prev):
    x0 = (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
    return alpha_bar_prev**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps


def _ddim_step_cases() -> list[tuple]:
    return [(_randn(4, 2, seed=0), _randn(4, 2, seed=1), 0.3, 0.6),
            (_randn(3, 5, 5, seed=2), _randn(3, 5, 5, seed=3), 0.9, 0.95)]


# --- 02.4: L_simple

def _loss(model, x0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return _errors(model, x0, t, eps, alpha_bar).square().mean()


def _errors(model, x0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return eps - model(_noised(x0, t, eps, alpha_bar), t)


def _noised(x0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    a = alpha_bar[t][:, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def _loss_weighted(model, x0, t, eps, alpha_bar):
    weight = alpha_bar[t] / (1 - alpha_bar[t])
    return (weight[:, None] * _errors(model, x0, t, eps, alpha_bar).square()).mean()


def _stand_in(x_t: Tensor, t: Tensor) -> Tensor:
    """Instead of a network: bounded, and different at each t."""
    return x_t.tanh() * (1 + t[:, None] / 500)


def _loss_cases() -> list[tuple]:
    return [(_stand_in, _randn(6, 2, seed=seed), torch.tensor([0, 20, 200, 400, 700, 999]), _randn(6, 2, seed=seed + 1),
             linear_schedule().alpha_bar) for seed in (0, 2)]


EXERCISES = {
    "02.1": Exercise(
        right=_posterior,
        cases=_posterior_cases,
        hint="Return two things, (mean, variance). Add the two precisions; the variance is one over their sum.",
        mistakes={
            "The mean is right. The variance is that of the forward step; x_0 is known here, and knowing more narrows "
            "it.":
                _posterior_with(lambda right, beta, alpha_bar_prev: beta),
            "The mean is right. You return the standard deviation; the variance is asked for.":
                _posterior_with(lambda right, beta, alpha_bar_prev: right**0.5),
            "The mean is right. You return the precision, one over the variance.":
                _posterior_with(lambda right, beta, alpha_bar_prev: 1 / right),
            "You use alpha_bar at t for the prior. What x_0 says about x_{t-1} is said with alpha_bar at t - 1.":
                _posterior_alpha_bar,
            "x_0 and x_t have changed places. For a small beta the mean must be close to x_t.":
                lambda x0, x_t, beta, alpha_bar_prev: _posterior(x_t, x0, beta, alpha_bar_prev),
            "The variance is right. In the mean, x_0 and x_t are multiplied by shares of variance; take the roots.":
                _posterior_without_roots}),
    "02.2": Exercise(
        right=_x0,
        cases=_x0_cases,
        hint="Start from x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) eps, and solve for x_0.",
        mistakes={
            "You add the noise a second time: x_t holds it already.":
                lambda x_t, eps, t, alpha_bar: _x0(x_t, -eps, t, alpha_bar),
            "The noise is gone, but what is left is x_0 shrunk by the forward process. Undo that, too.":
                lambda x_t, eps, t, alpha_bar: x_t - (1 - alpha_bar[t]).sqrt() * eps,
            "You divide by a share of variance. What shrank x_0 is its root.":
                lambda x_t, eps, t, alpha_bar: (x_t - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t],
            "1 - ᾱ_t is the variance of the noise. What eps was multiplied by is its root.":
                lambda x_t, eps, t, alpha_bar: (x_t - (1 - alpha_bar[t]) * eps) / alpha_bar[t].sqrt(),
            "That undoes one step, with alpha_t. The noise of all steps up to t is to be taken away.":
                _x0_alpha}),
    "02.3": Exercise(
        right=_ddim_step,
        cases=_ddim_step_cases,
        hint="Two lines: x_0 from x_t and eps at the old level; then noise it to the new level with the same eps.",
        mistakes={
            "You return the predicted x_0. Go back up to the new level: the step is not the last one.":
                lambda x_t, eps, alpha_bar, alpha_bar_prev: _ddim_step(x_t, eps, alpha_bar, 1.0),
            "The two levels have changed places: this adds noise.":
                lambda x_t, eps, alpha_bar, alpha_bar_prev: _ddim_step(x_t, eps, alpha_bar_prev, alpha_bar),
            "You noise x_t, which is noisy already. Find x_0 first.":
                lambda x_t, eps, alpha_bar, alpha_bar_prev: (alpha_bar_prev**0.5 * x_t
                                                             + (1 - alpha_bar_prev) ** 0.5 * eps),
            "The signal is at the new level, the noise still at the old one.":
                _ddim_step_keeping_noise,
            "The direction is wrong: at the new level the same eps is added, not subtracted again.":
                lambda x_t, eps, alpha_bar, alpha_bar_prev: (
                    2 * alpha_bar_prev**0.5 * _ddim_step(x_t, eps, alpha_bar, 1.0)
                    - _ddim_step(x_t, eps, alpha_bar, alpha_bar_prev))}),
    "02.4": Exercise(
        right=_loss,
        cases=_loss_cases,
        hint="Three lines: x_t from x0 and eps, each row at its own t; the model's guess from x_t and t; "
             "the mean of the squared differences from eps.",
        mistakes={
            "You sum where the mean is asked for: the loss must not depend on the size of the batch.":
                lambda *a: _errors(*a).square().sum(),
            "You add up over a point's coordinates. Here the mean over all numbers is asked for.":
                lambda *a: _errors(*a).square().sum(1).mean(),
            "The model must guess the noise. You compare its guess with x0.":
                lambda model, x0, t, eps, alpha_bar: (x0 - model(_noised(x0, t, eps, alpha_bar), t)).square().mean(),
            "You show the model the clean x0. There is no noise in it to guess.":
                lambda model, x0, t, eps, alpha_bar: (eps - model(x0, t)).square().mean(),
            "That is the mean absolute error: square the differences.":
                lambda *a: _errors(*a).abs().mean(),
            "You square after the mean, so that errors up and down cancel.":
                lambda *a: _errors(*a).mean().square(),
            "You weigh each t. L_simple drops the weights.":
                _loss_weighted}),
}
