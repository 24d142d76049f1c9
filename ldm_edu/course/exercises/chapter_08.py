"""Exercises of chapter 08: where SDEdit begins, two conditions at once, blending, a step of inversion."""
import torch

from ...schedule import scaled_linear_schedule, timesteps
from . import Exercise, draw
from .chapter_01 import noised, noised_without_roots
from .chapter_02 import clean

EXERCISES = {}


def _z(seed):
    return draw(seed, 2, 4, 3, 3)


# --- 08.1: where to begin
def _last(times, strength):
    return times[len(times) - int(len(times) * strength):]


def _begin(z, noise, t, left, a, mix=noised):
    return mix(z, noise, a[t]), left


EXERCISES["08.1"] = Exercise(
    right=lambda z, n, times, s, a: _begin(z, n, _last(times, s)[0], _last(times, s), a),
    cases=lambda: [(_z(s), _z(s + 1), timesteps(steps, offset=0).tolist(), strength,
                    scaled_linear_schedule().alpha_bar)
                   for s, steps, strength in ((0, 10, 0.3), (2, 25, 0.59), (4, 20, 0.9))],
    hint="Of n times the last int(n * strength) are left; noise z_0 to the first of them, as in chapter 01.",
    mistakes={
        "You leave out the share that is to be done: at strength 0.9, nine tenths of the steps are left.":
            lambda z, n, times, s, a: _begin(z, n, times[int(len(times) * s)], times[int(len(times) * s):], a),
        "You keep the times at the noisy end. A sampler always ends at t = 0: leave out the first ones.":
            lambda z, n, times, s, a: _begin(z, n, times[0], times[:int(len(times) * s)], a),
        "Nothing is left out: at its first times the U-Net would expect more noise than there is.":
            lambda z, n, times, s, a: _begin(z, n, _last(times, s)[0], times, a),
        "Your noise is that of the very first time, whatever the strength. Noise to the first time that is left.":
            lambda z, n, times, s, a: _begin(z, n, times[0], _last(times, s), a),
        "Your noise is a step too weak: noise to the first time that is left, not to the second.":
            lambda z, n, times, s, a: _begin(z, n, _last(times, s)[1], _last(times, s), a),
        "Your noise is a step too strong: noise to the first time that is left, not to the last one left out.":
            lambda z, n, times, s, a: _begin(z, n, times[-len(_last(times, s)) - 1], _last(times, s), a),
        "The roots are missing: ᾱ and 1 - ᾱ are variances.":
            lambda z, n, times, s, a: _begin(z, n, _last(times, s)[0], _last(times, s), a, noised_without_roots),
        "You begin with nothing but noise: the picture is lost.": lambda z, n, times, s, a: (n, _last(times, s))})


# --- 08.2: two conditions at once
def _both(e_u, e_image, e_text, s_image, s_text):
    return e_u + s_image * (e_image - e_u) + s_text * (e_text - e_u)


EXERCISES["08.2"] = Exercise(
    right=_both,
    cases=lambda: [(_z(s), _z(s + 1), _z(s + 2), *scales) for s, scales in ((0, (2.0, 4.0)), (3, (1.5, 0.0)),
                                                                            (6, (0.0, 3.0)))],
    hint="Start at the unconditional noise once; add each condition's difference from it, times its scale.",
    mistakes={
        "The unconditional noise is added twice, once for each condition. Start from it once.":
            lambda u, i, t, s, r: _both(u, i, t, s, r) + u,
        "You add the predicted noises, not their differences from the unconditional one.":
            lambda u, i, t, s, r: u + s * i + r * t,
        "You forget to start from the unconditional noise.": lambda u, i, t, s, r: _both(u, i, t, s, r) - u,
        "The two scales are swapped.": lambda u, i, t, s, r: _both(u, i, t, r, s),
        "You average the two guided noises: each counts half.": lambda u, i, t, s, r: _both(u, i, t, s / 2, r / 2),
        "You subtract the image's noise from the text's. Subtract the unconditional one from both.":
            lambda u, i, t, s, r: u + s * (i - u) + r * (t - i),
        "The sign is wrong: you lead away from both.": lambda u, i, t, s, r: _both(u, i, t, -s, -r)})


# --- 08.3: keep what is outside the mask
def _blended(x, z_0, noise, mask, a, mix=noised):
    return mask * x + (1 - mask) * mix(z_0, noise, a)


def _blended_case(seed, a):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 2:] = 1
    return (*(draw(seed + i, 2, 4, 4, 4) for i in range(3)), mask, torch.tensor(a))


EXERCISES["08.3"] = Exercise(
    right=_blended,
    cases=lambda: [_blended_case(0, 0.8), _blended_case(3, 0.2), _blended_case(6, 1.0)],
    hint="Inside the mask the sampler's x; outside z_0, noised to the level that x has now.",
    mistakes={
        "Inside and outside are swapped: 1 in the mask means paint.": lambda x, z, n, m, a: _blended(x, z, n, 1 - m, a),
        "You put the clean latent back. x is still noisy: two noise levels would meet at the border.":
            lambda x, z, n, m, a: m * x + (1 - m) * z,
        "You put the noise back without the picture.": lambda x, z, n, m, a: m * x + (1 - m) * n,
        "The roots are missing: ᾱ and 1 - ᾱ are variances.": lambda *args: _blended(*args, mix=noised_without_roots),
        "Signal and noise are swapped: ᾱ = 1 means clean.": lambda x, z, n, m, a: _blended(x, z, n, m, 1 - a),
        "You add the picture on top of x. Outside the mask x must go.":
            lambda x, z, n, m, a: _blended(x, z, n, m, a) + (1 - m) * x})


# --- 08.4: a step of DDIM, up
def _up(x, e, below, above):
    return noised(clean(x, e, below), e, above)


EXERCISES["08.4"] = Exercise(
    right=_up,
    cases=lambda: [(_z(s), _z(s + 1), torch.tensor(below), torch.tensor(above))
                   for s, below, above in ((0, 0.99, 0.9), (2, 0.7, 0.5), (4, 0.2, 0.05))],
    hint="First the clean latent, from x and e at the level below; then noise it with the same e to the level above.",
    mistakes={
        "That is the step down: below and above are swapped.": lambda x, e, b, a: _up(x, e, a, b),
        "You noise x as if it were clean. Remove its own noise first.": lambda x, e, b, a: noised(x, e, a),
        "You stop at the clean latent.": lambda x, e, b, a: clean(x, e, b),
        "You noise the clean latent to the level where it was: that leads back to x.": lambda x, e, b, a: x,
        "You add e without its factor, √(1 - ᾱ) at the level above.": lambda x, e, b, a: a.sqrt() * clean(x, e, b) + e,
        "The roots are missing: ᾱ and 1 - ᾱ are variances.":
            lambda x, e, b, a: noised_without_roots((x - (1 - b) * e) / b, e, a),
        "You draw fresh noise, as in chapter 01. Inversion must not be random: use e.": lambda x, e, b, a:
            noised(x, torch.randn(x.shape), a / b)})
