"""Exercises of chapter 08: how strong a start may be, two conditions at once, blending, an exact step of inversion."""
import torch
import torch.nn.functional as F

from ...schedule import scaled_linear_schedule, timesteps
from . import Exercise, draw
from .chapter_01 import noised, noised_without_roots

EXERCISES = {}
MIXES = {    # wrong ways to noise a picture, by what is wrong
    "The roots are missing: ᾱ and 1 - ᾱ are variances.": noised_without_roots,
    "Signal and noise are swapped: ᾱ = 1 means clean.": lambda z, noise, a: noised(z, noise, 1 - a),
    "You add σ times the noise, but do not shrink the picture.": lambda z, noise, a: z + (1 / a - 1).sqrt() * noise,
    "You draw fresh noise. Use the noise that you are given.": lambda z, noise, a: noised(z, torch.randn(z.shape), a)}


def _z(seed):
    return draw(seed, 2, 4, 3, 3)


# --- 08.1: how strong a start may be
def _strength(times, alpha_bar, ratio, noise=lambda a: (1 - a) / a, count=0, share=lambda k, n: k / n):
    return share(sum(bool(noise(alpha_bar[t]) <= ratio) for t in times) + count, len(times))


EXERCISES["08.1"] = Exercise(
    right=_strength,
    cases=lambda: [(timesteps(steps, offset=0).tolist(), scaled_linear_schedule().alpha_bar, ratio)
                   for steps, ratio in ((20, 1.0), (50, 4.0), (25, 1e-9), (10, 1e9))],
    hint="Count the times at which (1 - ᾱ) / ᾱ is at most `ratio`, and divide by the number of all times.",
    mistakes={
        "You compare σ, a ratio of amplitudes. Power is its square.":
            lambda times, a, r: _strength(times, a, r, lambda a: ((1 - a) / a).sqrt()),
        "The picture's power at t is ᾱ, not 1.": lambda times, a, r: _strength(times, a, r, lambda a: 1 - a),
        "That is signal over noise. Turn it round.": lambda times, a, r: _strength(times, a, r, lambda a: a / (1 - a)),
        "That is the share left out. Strength is the share that is done.":
            lambda times, a, r: 1 - _strength(times, a, r),
        "That is the number of steps. Strength is their share.":
            lambda times, a, r: _strength(times, a, r, share=lambda k, n: k),
        "Your start is a step too noisy.": lambda times, a, r: _strength(times, a, r, count=1),
        "You could take one step more.": lambda times, a, r: _strength(times, a, r, count=-1)})


# --- 08.2: two conditions at once, the second given the first
def _nested(e_u, e_image, e_both, s_image, s_text):
    return e_u + s_image * (e_image - e_u) + s_text * (e_both - e_image)


EXERCISES["08.2"] = Exercise(
    right=_nested,
    cases=lambda: [(_z(i), _z(i + 1), _z(i + 2), s, r) for i, s, r in ((0, 2.0, 4.0), (3, 1.5, 0.0), (6, 0.0, 3.0))],
    hint="log p(text|image, z) = log p(z|image, text) - log p(z|image) + a constant. Each density gives a difference.",
    mistakes={
        "You compare the last prediction with the unconditional one, as if the conditions were independent. "
        "By Bayes, p(text|image, z) compares it with the image's.":
            lambda u, i, b, s, r: u + s * (i - u) + r * (b - u),
        "The unconditional noise is added twice. Start from it once.": lambda *args: _nested(*args) + args[0],
        "You add the predicted noises, not their differences.": lambda u, i, b, s, r: u + s * i + r * b,
        "You forget to start from the unconditional noise.": lambda *args: _nested(*args) - args[0],
        "The two scales are swapped.": lambda u, i, b, s, r: _nested(u, i, b, r, s),
        "You start at the image's prediction. Then the image's scale has no effect.":
            lambda u, i, b, s, r: i + r * (b - i),
        "The last difference is the wrong way round.": lambda u, i, b, s, r: _nested(u, i, b, s, -r)})


# --- 08.3: keep what is outside a mask of pixels
def _blended(x, z_0, noise, mask, a, mix=noised, cells=lambda mask: F.max_pool2d(mask, 8)):
    return cells(mask) * x + (1 - cells(mask)) * mix(z_0, noise, a)


def _blended_case(seed, a):
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 9:25, 12:24] = 1    # whole cells, and parts of them
    return (*(draw(seed + i, 2, 4, 4, 4) for i in range(3)), mask, torch.tensor(a))


EXERCISES["08.3"] = Exercise(
    right=_blended, cases=lambda: [_blended_case(0, 0.8), _blended_case(3, 0.01), _blended_case(6, 1.0)],
    hint="Paint a cell if any of its 8 × 8 pixels is masked. There the sampler's x; elsewhere z_0, noised to the level "
         "that x has now.",
    mistakes={
        "You look at one pixel of each cell, so masked pixels beside it keep the old picture.":
            lambda *args: _blended(*args, cells=lambda m: m[..., ::8, ::8]),
        "You take the mean of the mask. In cells that are partly masked the old latent shines through.":
            lambda *args: _blended(*args, cells=lambda m: F.avg_pool2d(m, 8)),
        "You paint only cells that are masked as a whole. One masked pixel is enough.":
            lambda *args: _blended(*args, cells=lambda m: 1 - F.max_pool2d(1 - m, 8)),
        "You paint a cell if most of its pixels are masked. One is enough.":
            lambda *args: _blended(*args, cells=lambda m: (F.avg_pool2d(m, 8) >= 0.5).float()),
        "Inside and outside are swapped: 1 in the mask means paint.":
            lambda *args: _blended(*args, cells=lambda m: 1 - F.max_pool2d(m, 8)),
        "You put the clean latent back. x is still noisy: two noise levels would meet at the border.":
            lambda *args: _blended(*args, mix=lambda z, n, a: z),
        "You put the noise back without the picture.": lambda *args: _blended(*args, mix=lambda z, n, a: n),
        "You add the picture on top of x. Outside the mask x must go.":
            lambda x, z, n, m, a: _blended(x, z, n, m, a) + (1 - F.max_pool2d(m, 8)) * x,
        **{hint: lambda *args, mix=mix: _blended(*args, mix=mix) for hint, mix in MIXES.items()}})


# --- 08.4: a step of DDIM, up, that the step down undoes
def _up(x, eps, below, above, iterations, mix=noised, climb=False):
    guess = x
    for _ in range(iterations + 1):
        e = eps(guess)
        guess = mix(((guess if climb else x) - (1 - below).sqrt() * e) / below.sqrt(), e, above)
    return guess


EXERCISES["08.4"] = Exercise(
    right=_up,
    cases=lambda: [(_z(s), lambda y, s=s: (y @ draw(s, 3, 3)).tanh() + 0.3 * y, torch.tensor(b), torch.tensor(a), k)
                   for s, b, a, k in ((0, 0.999, 0.9, 0), (2, 0.7, 0.5, 1), (4, 0.2, 0.05, 3))],
    hint="Each time: e = eps(the latest guess), the clean latent from x and e at `below`, noised with e to `above`.",
    mistakes={
        "That is the step down: below and above are swapped.": lambda x, f, b, a, k: _up(x, f, a, b, k),
        "That is the plain step, whatever `iterations` says. Ask the network again at each guess.":
            lambda x, f, b, a, k: _up(x, f, b, a, 0),
        "You climb on from your guess. Every guess starts from the same x; only e is new.":
            lambda *args: _up(*args, climb=True),
        "You ask the network once too few: iteration 0 is the plain step.": lambda *args: _up(*args[:4], args[4] - 1),
        "You ask the network once too often: iteration 0 is the plain step.": lambda *args: _up(*args[:4], args[4] + 1),
        "You stop at the clean latent.": lambda *args: _up(*args, mix=lambda z, e, a: z),
        "You add e without its factor, √(1 - ᾱ).": lambda *args: _up(*args, mix=lambda z, e, a: a.sqrt() * z + e),
        "You noise x as if it were clean. Remove its own noise first.":
            lambda x, f, b, a, k: _up(x, f, torch.tensor(1.0), a, k),
        **{hint: lambda *args, mix=mix: _up(*args, mix=mix) for hint, mix in MIXES.items()}})
