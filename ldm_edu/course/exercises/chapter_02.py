"""Exercises of chapter 02: the posterior, its mean from the noise, a sampler to mend, v-prediction."""
import torch

from ...schedule import linear_schedule
from . import Exercise, draw
from .chapter_01 import noised, noised_without_roots

EXERCISES = {}


# --- 02.1: q(x_{t-1} | x_t, x_0)
def _posterior(x0, x_t, beta, a_prev, power=0.5, change=lambda variance, beta: variance):
    a = (1 - beta) * a_prev
    mean = (a_prev**power * beta * x0 + (1 - beta) ** power * (1 - a_prev) * x_t) / (1 - a)
    return mean, change((1 - a_prev) / (1 - a) * beta, beta)


def _by_precisions(x0, x_t, beta, a_prev):
    variance = 1 / (1 / (1 - a_prev) + (1 - beta) / beta)
    return variance * (a_prev**0.5 / (1 - a_prev) * x0 + (1 - beta) ** 0.5 / beta * x_t), variance


EXERCISES["02.1"] = Exercise(
    right=_posterior,
    cases=lambda: [(draw(0, 5, 2), draw(1, 5, 2), torch.tensor(0.2), torch.tensor(0.5)),
                   (draw(2, 3, 4, 4), draw(3, 3, 4, 4), torch.tensor(0.01), torch.tensor(0.9)),
                   (draw(4, 3, 2), draw(5, 3, 2), torch.tensor(1e-4), torch.tensor(1.0))],
    hint="Return two things, (mean, variance): equations 6 and 7. If alpha_bar_prev is 1, the variance is 0.",
    mistakes={
        "At the last step alpha_bar_prev is 1, so 1 / (1 - alpha_bar_prev) is infinite. Equation 7 stays finite there.":
            _by_precisions,
        "The mean is right. The variance is that of the forward step, but x_0 is known here, which narrows it.":
            lambda *args: _posterior(*args, change=lambda variance, beta: beta),
        "The mean is right. You return the standard deviation instead of the variance.":
            lambda *args: _posterior(*args, change=lambda variance, beta: variance**0.5),
        "You use alpha_bar at t. What x_0 says about x_{t-1} depends on alpha_bar at t - 1.":
            lambda x0, x_t, beta, a_prev: _posterior(x0, x_t, beta, (1 - beta) * a_prev),
        "x_0 and x_t are swapped. For a small beta the mean must be close to x_t.":
            lambda x0, x_t, beta, a_prev: _posterior(x_t, x0, beta, a_prev),
        "In the mean, take the roots of what you multiply x_0 and x_t by.": lambda *args: _posterior(*args, power=1)})


# --- 02.2: its mean, in terms of the noise
def clean(x, eps, a):
    """The closed form solved for the clean data."""
    return (x - (1 - a) ** 0.5 * eps) / a**0.5


def _mean(x, eps, t, b, removed=lambda b, a: b / (1 - a) ** 0.5, left=lambda b, a: (1 - b) ** 0.5):
    a = torch.cumprod(1 - b, 0)[t]
    return (x - removed(b[t], a) * eps) / left(b[t], a)


EXERCISES["02.2"] = Exercise(
    right=_mean,
    cases=lambda: [(draw(t, 2, 3, 4), draw(t + 1, 2, 3, 4), t, linear_schedule().betas) for t in (0, 1, 300, 999)],
    hint="Put x_0 = (x_t - √(1 - ᾱ_t) eps) / √ᾱ_t into equation 7, with ᾱ_{t-1} = ᾱ_t / α_t, and collect x_t and eps.",
    mistakes={
        "You add the noise, but x_t contains it already.": lambda x, eps, t, b: _mean(x, -eps, t, b),
        "You return x_0, with all of the noise removed. One step back removes a small part of it.":
            lambda x, eps, t, b: clean(x, eps, torch.cumprod(1 - b, 0)[t]),
        "√β_t belongs to the noise that the last step added. eps is the noise of all steps up to t.":
            lambda *args: _mean(*args, removed=lambda b, a: b**0.5),
        "In front of eps 1 - ᾱ_t needs its root.": lambda *args: _mean(*args, removed=lambda b, a: b / (1 - a)),
        "The last step shrank the signal by √α_t. Undo that, too.": lambda *args: _mean(*args, left=lambda b, a: 1),
        "You divide by √ᾱ_t. Undo the shrinking of one step.": lambda *args: _mean(*args, left=lambda b, a: a**0.5),
        "You use ᾱ at t - 1. x_t holds the noise of the steps up to t.":
            lambda x, eps, t, b: (x - b[t] / (1 - torch.cumprod(1 - b, 0)[t - 1]) ** 0.5 * eps) / (1 - b[t]) ** 0.5})


# --- 02.3: a sampler with two mistakes
def _walk(eps, x, alpha_bar, levels, late=False, last=1.0, again=lambda e: e):
    ends = [alpha_bar[t] for t in levels[1:]] + ([] if last is None else [torch.as_tensor(last)])
    for t, end in zip(levels, ends):
        e = eps(x, t)
        x = noised(clean(x, e, alpha_bar[t]) * ((alpha_bar[t] / end) ** 0.5 if late else 1), again(e), end)
    return x


EXERCISES["02.3"] = Exercise(
    right=_walk,
    cases=lambda: [(lambda x, t: x.tanh() * (1 + t / 500), draw(0, 6, 2), linear_schedule().alpha_bar, levels)
                   for levels in ([700, 400, 100], [999, 0], [300])],
    hint="Keep the loop. Check the level of each alpha_bar in it, and where the loop ends.",
    mistakes={
        "These are both mistakes still. Which would leave noise in a sample, and which would pull the blobs inwards?":
            lambda *args: _walk(*args, late=True, last=None),
        "One is mended. But the last level's noise is still in the samples.": lambda *args: _walk(*args, last=None),
        "One is mended. But x_0 is scaled for level t, not for the next.": lambda *args: _walk(*args, late=True),
        "You end at ᾱ of t = 0, where a hundredth of the noise is left. The clean end has ᾱ = 1.":
            lambda eps, x, a, levels: _walk(eps, x, a, levels, last=a[0]),
        "You add fresh noise. DDIM uses the predicted noise again.": lambda *args: _walk(*args, again=torch.randn_like),
        "At the next level eps is added, not subtracted again.": lambda *args: _walk(*args, again=lambda e: -e)})


# --- 02.4: the loss of v-prediction
def _errors(model, x0, t, eps, alpha_bar, target=lambda x0, eps, a: noised(eps, -x0, a), later=0):
    a = alpha_bar[t][:, None]
    return target(x0, eps, a) - model(noised(x0, eps, a), t + later)


class _Net(torch.nn.Embedding):    # bounded, with a weight for each t
    def forward(self, x_t, t):
        return super().forward(t) * x_t.tanh()


EXERCISES["02.4"] = Exercise(
    right=lambda *args: _errors(*args).square().mean(),
    cases=lambda: [(_Net.from_pretrained(torch.linspace(1, 3, 1001)[:, None], freeze=False), draw(0, 6, 2),
                    torch.tensor([0, 20, 200, 400, 700, 999]), draw(1, 6, 2), linear_schedule().alpha_bar)],
    hint="x_t from x0 and eps, each row at its own t; v from both; the mean squared difference from model(x_t, t).",
    mistakes={
        "Take the mean: a sum depends on the batch size.": lambda *args: _errors(*args).square().sum(),
        "Leave the mean squared error as it is, without a root.": lambda *args: _errors(*args).square().mean().sqrt(),
        "You square after taking the mean, so errors can cancel.": lambda *args: _errors(*args).mean().square(),
        "The model predicts v, not eps.": lambda *args: _errors(*args, target=lambda x0, e, a: e).square().mean(),
        "The sign of v is wrong: in pure noise v is -x0, in clean data it is eps.":
            lambda *args: _errors(*args, target=lambda x0, eps, a: noised(-eps, x0, a)).square().mean(),
        "In v the factors of eps and x0 need their roots.":
            lambda *args: _errors(*args, target=lambda x0, eps, a: noised_without_roots(eps, -x0, a)).square().mean(),
        "You draw noise of your own. x_t and v must both be made of the eps that is given.":
            lambda model, x0, t, eps, a: _errors(model, x0, t, torch.randn_like(eps), a).square().mean(),
        "You give the model another t than that of x_t.": lambda *args: _errors(*args, later=1).square().mean()})
