"""Exercises of chapter 01: from any level to a later one, two designs of a schedule, a diagnosis by eye."""
import torch

from ...schedule import cosine_schedule, linear_schedule, scaled_linear_schedule
from . import Exercise, draw


def noised(x, eps, a):
    """Noise x until `a` of its variance is left: the closed form."""
    return a**0.5 * x + (1 - a) ** 0.5 * eps


def noised_without_roots(x, eps, a):
    """The most common mistake in it."""
    return a * x + (1 - a) * eps


def per_item(alpha_bar, t):
    return alpha_bar[t].reshape(-1, 1, 1, 1)    # (B, 1, 1, 1)


def alphas(alpha_bar):
    return torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


# --- 01.1: from one level to a later one, for a batch, q(x_t | x_s)
def _leap(x, eps, s, t, a):
    return noised(x, eps, per_item(a, t) / per_item(a, s))


def _with_noise(noise):
    """The right signal, and eps times noise(alpha_bar_s, alpha_bar_t)."""
    return lambda x, eps, s, t, a: _leap(x, 0, s, t, a) + noise(per_item(a, s), per_item(a, t)) * eps


# --- 01.2: a schedule with no signal at its end (Lin et al. 2023, algorithm 1)
def _zero_end(a):
    roots = a.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


# --- 01.3: the same schedule for larger pictures
def _with_snr(change):
    """The schedule whose signal-to-noise ratio is change(snr, factor)."""
    return lambda a, factor: 1 - 1 / (1 + change(a / (1 - a), factor))


_shift = _with_snr(lambda snr, factor: snr / factor**2)

EXERCISES = {
    "01.1": Exercise(
        right=_leap,
        cases=lambda: [    # batch and width are equal, so that factors along the wrong axis raise no error
            (draw(0, 5, 3, 2, 5), draw(1, 5, 3, 2, 5), torch.tensor([0, 0, 200, 600, 400]),
             torch.tensor([1, 999, 450, 999, 400]), scaled_linear_schedule().alpha_bar)],
        hint="Steps s + 1 ... t multiply the signal by the root of a product of alphas: express that product by "
             "alpha_bar[t] and alpha_bar[s], and reshape it to (B, 1, 1, 1). The squares of both factors add up to 1.",
        mistakes={
            "The wrong axis: a tensor of shape (B,) lines up with the columns. Each picture needs its own factor.":
                lambda x, eps, s, t, a: noised(x, eps, a[t] / a[s]),
            "You treat x_s as clean, but it has shrunk.": lambda x, eps, s, t, a: noised(x, eps, per_item(a, t)),
            "Both factors are variances; take their roots.":
                lambda x, eps, s, t, a: noised_without_roots(x, eps, per_item(a, t) / per_item(a, s)),
            "The signal is right. Your factor of eps is a variance.": _with_noise(lambda a, b: 1 - b / a),
            "The signal is right, but there is too much noise: part of the noise of x_t is in x_s already.":
                _with_noise(lambda a, b: (1 - b).sqrt()),
            "The signal is right. But the noise of x_s shrinks, too, before the new noise is added.":
                _with_noise(lambda a, b: (a - b).sqrt()),
            "The signal is right. But eps is fresh: it is not the noise in x_s, so it cannot help to recover x_0, and "
            "standard deviations cannot be subtracted. The variances of independent noises add up.":
                _with_noise(lambda a, b: (1 - b).sqrt() - (b / a * (1 - a)).sqrt()),
            "Upside down: the signal must shrink from s to t.": lambda x, eps, s, t, a: _leap(x, eps, t, s, a),
            "Off by one: step s is in x_s already. The first step to take is s + 1.":
                lambda x, eps, s, t, a: _leap(x, eps, s, t + 1, torch.cat([torch.ones(1), a]))}),
    "01.2": Exercise(
        right=_zero_end,
        cases=lambda: [(linear_schedule().alpha_bar,), (scaled_linear_schedule().alpha_bar,),
                       (torch.tensor([0.8, 0.5, 0.3]),)],
        hint="Subtract the last sqrt(alpha_bar) from all, multiply so that the first is what it was, and square.",
        mistakes={
            "Shift and scale the root, the factor of the picture.": lambda a: (a - a[-1]) * a[0] / (a[0] - a[-1]),
            "The first level has lost signal: scale after the shift.": lambda a: (a.sqrt() - a[-1].sqrt()) ** 2,
            "The first level has no noise at all: scale it to what it was, not to 1.": lambda a: _zero_end(a) / a[0],
            "A cliff: only the last level has changed.": lambda a: torch.cat([a[:-1], torch.zeros(1)]),
            "That is its root. Square it to get alpha_bar.": lambda a: _zero_end(a).sqrt(),
            "Both ends are right, but you subtract a ramp. Shift all roots by the same number, then scale.":
                lambda a: (a.sqrt() - a[-1].sqrt() * torch.linspace(0, 1, len(a))) ** 2}),
    "01.3": Exercise(
        right=_shift,
        cases=lambda: [(linear_schedule().alpha_bar, 2.0), (scaled_linear_schedule().alpha_bar, 1.0),
                       (cosine_schedule().alpha_bar, 0.5), (torch.tensor([0.9, 0.5, 0.1, 0.0]), 4.0)],
        hint="Find the SNR of each level, divide it by what averaging gains, and solve SNR = a / (1 - a) for a.",
        mistakes={
            "The mean of factor x factor pixels has 1 / factor² of the variance.": _with_snr(lambda snr, f: snr / f),
            "The wrong direction: a larger picture needs more noise.": _with_snr(lambda snr, factor: snr * factor**2),
            "You divided alpha_bar, so that a picture at t = 0 is nearly all noise already. Divide the SNR.":
                lambda a, factor: a / factor**2,
            "That is the new SNR. Solve SNR = a / (1 - a) for a.": lambda a, factor: a / (1 - a) / factor**2,
            "That is the share of the noise, 1 - alpha_bar.": lambda a, factor: 1 - _shift(a, factor),
            "The SNR is a ratio of variances, not of deviations.": _with_snr(lambda snr, factor: snr.sqrt() / factor),
            "Larger betas bend the curve. Divide every SNR by the same number.": lambda a, factor: a ** factor**2}),
    "01.4": Exercise(
        right=("no shrinking", "right", "one step", "no root"),
        hint="Each of right, no root, one step, no shrinking once. In which row does the picture never go? Which two "
             "end alike, and which of these is cleaner on the way? Whose colours are too strong?",
        mistakes={
            "A and B: where noise comes on top of a picture that never shrinks, values leave the range.":
                ("right", "no shrinking", "one step", "no root"),
            "A and C: a single step adds hardly any noise, however large t is.":
                ("one step", "right", "no shrinking", "no root"),
            "A and D: without the root there is less noise than there should be, not more.":
                ("no root", "right", "one step", "no shrinking"),
            "B and C: in one of them the picture is still there at t = 999. Can that be right?":
                ("no shrinking", "one step", "right", "no root"),
            "B and D: a number below 1 is smaller than its root, so without the root there is too little noise.":
                ("no shrinking", "no root", "one step", "right"),
            "C and D: both are too clean at t = 50. But only one of them ends in noise.":
                ("no shrinking", "right", "no root", "one step")})}
