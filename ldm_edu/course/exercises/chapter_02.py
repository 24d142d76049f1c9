"""Exercises of chapter 02: the posterior of a step, x_0 from the noise, one DDIM step, the loss L_simple."""
import torch

from ...schedule import linear_schedule
from . import Exercise, draw
from .chapter_01 import alphas, noised

EXERCISES = {}


# --- 02.1: q(x_{t-1} | x_t, x_0)
def _posterior(x0, x_t, beta, a_prev, power=0.5):
    a = (1 - beta) * a_prev
    mean = (a_prev**power * beta * x0 + (1 - beta) ** power * (1 - a_prev) * x_t) / (1 - a)
    return mean, (1 - a_prev) / (1 - a) * beta


def _with_variance(change):
    """The right mean, and `change(variance, beta)` for the variance."""
    def answer(x0, x_t, beta, a_prev):
        mean, variance = _posterior(x0, x_t, beta, a_prev)
        return mean, change(variance, beta)
    return answer


EXERCISES["02.1"] = Exercise(
    right=_posterior,
    cases=lambda: [(draw(0, 5, 2), draw(1, 5, 2), torch.tensor(0.2), torch.tensor(0.5)),
                   (draw(2, 3, 4, 4), draw(3, 3, 4, 4), torch.tensor(0.01), torch.tensor(0.9))],
    hint="Return two things, (mean, variance). Add the two precisions; the variance is 1 over their sum.",
    mistakes={
        "The mean is right. The variance is that of the forward step, but x_0 is known here, which narrows it.":
            _with_variance(lambda variance, beta: beta),
        "The mean is right. You return the standard deviation instead of the variance.":
            _with_variance(lambda variance, beta: variance**0.5),
        "The mean is right. You return 1 over the variance.": _with_variance(lambda variance, beta: 1 / variance),
        "You use alpha_bar at t. What x_0 says about x_{t-1} depends on alpha_bar at t - 1.":
            lambda x0, x_t, beta, a_prev: _posterior(x0, x_t, beta, (1 - beta) * a_prev),
        "x_0 and x_t are swapped. For a small beta the mean must be close to x_t.":
            lambda x0, x_t, beta, a_prev: _posterior(x_t, x0, beta, a_prev),
        "The variance is right. In the mean, take the roots of what you multiply x_0 and x_t by.":
            lambda *args: _posterior(*args, power=1)})


# --- 02.2: x_0 from the predicted noise
def clean(x, eps, a):
    """The closed form solved for the clean data."""
    return (x - (1 - a) ** 0.5 * eps) / a**0.5


EXERCISES["02.2"] = Exercise(
    right=lambda x, eps, t, a: clean(x, eps, a[t]),
    cases=lambda: [(draw(t, 2, 3, 4, 4), draw(t + 1, 2, 3, 4, 4), t, linear_schedule().alpha_bar)
                   for t in (50, 300, 600)],
    hint="Start from x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) eps, and solve for x_0.",
    mistakes={
        "You add the noise again: x_t contains it already.": lambda x, eps, t, a: clean(x, -eps, a[t]),
        "The noise is gone, but x_0 is still shrunk by the forward process. Undo that, too.":
            lambda x, eps, t, a: x - (1 - a[t]).sqrt() * eps,
        "You divide by ᾱ_t, a share of variance. x_0 was multiplied by its root.":
            lambda x, eps, t, a: (x - (1 - a[t]).sqrt() * eps) / a[t],
        "1 - ᾱ_t is the variance of the noise. eps was multiplied by its root.":
            lambda x, eps, t, a: (x - (1 - a[t]) * eps) / a[t].sqrt(),
        "That undoes one step, with alpha_t. Remove the noise of all steps up to t.":
            lambda x, eps, t, a: clean(x, eps, alphas(a)[t])})


# --- 02.3: one step of DDIM
EXERCISES["02.3"] = Exercise(
    right=lambda x, eps, a, a_prev: noised(clean(x, eps, a), eps, a_prev),
    cases=lambda: [(draw(0, 4, 2), draw(1, 4, 2), 0.3, 0.6), (draw(2, 3, 5, 5), draw(3, 3, 5, 5), 0.9, 0.95)],
    hint="First x_0 from x_t and eps at the old level; then noise it to the new level with the same eps.",
    mistakes={
        "You return the predicted x_0. Go back up to the new level: this is not the last step.":
            lambda x, eps, a, a_prev: clean(x, eps, a),
        "The two levels are swapped: this adds noise.": lambda x, eps, a, a_prev: noised(clean(x, eps, a_prev), eps, a),
        "You noise x_t, which is noisy already. Find x_0 first.": lambda x, eps, a, a_prev: noised(x, eps, a_prev),
        "The signal is at the new level, but the noise is still at the old one.":
            lambda x, eps, a, a_prev: a_prev**0.5 * clean(x, eps, a) + (1 - a) ** 0.5 * eps,
        "The sign is wrong: at the new level eps is added, not subtracted again.":
            lambda x, eps, a, a_prev: noised(clean(x, eps, a), -eps, a_prev)})


# --- 02.4: L_simple
def _errors(model, x0, t, eps, a):
    return eps - model(noised(x0, eps, a[t][:, None]), t)


def _model(x_t, t):    # instead of a network: bounded, and different at each t
    return x_t.tanh() * (1 + t[:, None] / 500)


EXERCISES["02.4"] = Exercise(
    right=lambda *args: _errors(*args).square().mean(),
    cases=lambda: [(_model, draw(seed, 6, 2), torch.tensor([0, 20, 200, 400, 700, 999]), draw(seed + 1, 6, 2),
                    linear_schedule().alpha_bar) for seed in (0, 2)],
    hint="x_t from x0 and eps, each row at its own t; the model's prediction from x_t and t; the mean squared "
         "difference from eps.",
    mistakes={
        "You take the sum instead of the mean: the loss must not depend on the batch size.":
            lambda *args: _errors(*args).square().sum(),
        "You add up coordinates. Take the mean over all numbers.": lambda *args: _errors(*args).square().sum(1).mean(),
        "You compare the prediction with x0. The model predicts the noise.":
            lambda model, x0, t, eps, a: (_errors(model, x0, t, eps, a) - eps + x0).square().mean(),
        "You give the model the clean x0, without any noise to predict.":
            lambda model, x0, t, eps, a: (eps - model(x0, t)).square().mean(),
        "That is the mean absolute error: square the differences.": lambda *args: _errors(*args).abs().mean(),
        "You square after taking the mean, so errors can cancel.": lambda *args: _errors(*args).mean().square(),
        "You weight each t. L_simple drops the weights.": lambda model, x0, t, eps, a:
            ((a / (1 - a))[t][:, None] * _errors(model, x0, t, eps, a).square()).mean()})
