"""Exercises of chapter 08: where SDEdit begins, two wishes at once, blending for inpainting, a step of inversion."""
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


ALPHA_BAR = (1 - torch.linspace(0.03**0.5, 0.11**0.5, 1000).square() * 0.1).cumprod(0)    # falls from 0.997 to 0.0008


# --- 08.1: where to begin

def _begun(z_0: Tensor, noise: Tensor, times: list[int], strength: float, alpha_bar: Tensor,
           shift: int = 0, roots: bool = True, mixed: bool = True) -> tuple[Tensor, list[int]]:
    left = times[len(times) - int(len(times) * strength):]
    a = alpha_bar[times[len(times) - len(left) + shift]]
    signal, spread = (a.sqrt(), (1 - a).sqrt()) if roots else (a, 1 - a)
    return signal * z_0 + spread * noise if mixed else noise, left


def _wrong_part(z_0: Tensor, noise: Tensor, times: list[int], strength: float, alpha_bar: Tensor):
    """`strength` taken for what is left out."""
    left = times[int(len(times) * strength):]
    a = alpha_bar[left[0]]
    return a.sqrt() * z_0 + (1 - a).sqrt() * noise, left


def _never_left_out(z_0: Tensor, noise: Tensor, times: list[int], strength: float, alpha_bar: Tensor):
    return _begun(z_0, noise, times, strength, alpha_bar)[0], list(times)


def _the_first_ones(z_0: Tensor, noise: Tensor, times: list[int], strength: float, alpha_bar: Tensor):
    left = times[:int(len(times) * strength)]
    a = alpha_bar[left[0]]
    return a.sqrt() * z_0 + (1 - a).sqrt() * noise, left


def _full_noise(z_0: Tensor, noise: Tensor, times: list[int], strength: float, alpha_bar: Tensor):
    a = alpha_bar[times[0]]
    return a.sqrt() * z_0 + (1 - a).sqrt() * noise, times[len(times) - int(len(times) * strength):]


def _begun_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s), _randn(2, 4, 3, 3, seed=s + 1), list(range(1000 - gap, -1, -gap)), strength,
             ALPHA_BAR) for s, gap, strength in ((0, 100, 0.3), (2, 40, 0.59), (4, 50, 0.9))]


# --- 08.2: two wishes at once

def _both(e_u: Tensor, e_image: Tensor, e_text: Tensor, s_image: float, s_text: float) -> Tensor:
    return e_u + s_image * (e_image - e_u) + s_text * (e_text - e_u)


def _both_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s), _randn(2, 4, 3, 3, seed=s + 1), _randn(2, 4, 3, 3, seed=s + 2), *scales)
            for s, scales in ((0, (2.0, 4.0)), (3, (1.5, 0.0)), (6, (0.0, 3.0)))]


# --- 08.3: keep what is outside of the mask

def _blended(x: Tensor, z_0: Tensor, noise: Tensor, mask: Tensor, alpha_bar_next: Tensor) -> Tensor:
    known = alpha_bar_next.sqrt() * z_0 + (1 - alpha_bar_next).sqrt() * noise
    return mask * x + (1 - mask) * known


def _blended_cases() -> list[tuple]:
    cases = []
    for seed, a in ((0, 0.8), (3, 0.2), (6, 1.0)):
        mask = torch.zeros(1, 1, 4, 4)
        mask[..., 1:3, 2:] = 1
        cases.append((_randn(2, 4, 4, 4, seed=seed), _randn(2, 4, 4, 4, seed=seed + 1),
                      _randn(2, 4, 4, 4, seed=seed + 2), mask, torch.tensor(a)))
    return cases


# --- 08.4: a step of DDIM, up

def _up(x: Tensor, e: Tensor, below: Tensor, above: Tensor) -> Tensor:
    return above.sqrt() * (x - (1 - below).sqrt() * e) / below.sqrt() + (1 - above).sqrt() * e


def _fresh_noise(x: Tensor, e: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Chapter 01's way up."""
    torch.manual_seed(0)
    return (above / below).sqrt() * x + (1 - above / below).sqrt() * torch.randn_like(x)


def _of_its_noise(ending: Callable) -> Callable:
    """From the clean latent at the right level, something else than its noise at the level above."""
    def up(x, e, below, above):
        return ending((x - (1 - below).sqrt() * e) / below.sqrt(), e, x, below, above)
    return up


def _up_cases() -> list[tuple]:
    return [(_randn(2, 4, 3, 3, seed=s), _randn(2, 4, 3, 3, seed=s + 1), torch.tensor(below), torch.tensor(above))
            for s, below, above in ((0, 0.99, 0.9), (2, 0.7, 0.5), (4, 0.2, 0.05))]


EXERCISES = {
    "08.1": Exercise(
        right=_begun,
        cases=_begun_cases,
        hint="Of n times the last int(n * strength) are left; noise z_0 to the first of them, as in chapter 01.",
        mistakes={
            "You leave out the share that is to be done: at strength 0.9 nine tenths of the steps should be left.":
                _wrong_part,
            "You keep the times at the noisy end. A sampler ends at t = 0 whatever its start: leave out the first.":
                _the_first_ones,
            "Nothing is left out: the sampler would be told t of pure noise, and see a picture.": _never_left_out,
            "The noise is that of the very first time, whatever the strength: the sampler would be told another level.":
                _full_noise,
            "Your noise is a step too weak: noise to the first time that is left, not to the second.":
                lambda *a: _begun(*a, shift=1),
            "Your noise is a step too strong: noise to the first time that is left, not to the last one left out.":
                lambda *a: _begun(*a, shift=-1),
            "The roots are missing: ᾱ and 1 - ᾱ are variances.": lambda *a: _begun(*a, roots=False),
            "You begin with nothing but noise: the picture is forgotten.": lambda *a: _begun(*a, mixed=False)}),
    "08.2": Exercise(
        right=_both,
        cases=_both_cases,
        hint="Start at the unconditional noise once; add each wish's difference from it, times its scale.",
        mistakes={
            "The unconditional noise is added twice, once a wish. Start from it once.":
                lambda u, i, t, s, r: _both(u, i, t, s, r) + u,
            "You add the wishes' noises, not their differences from the unconditional.":
                lambda u, i, t, s, r: u + s * i + r * t,
            "You forget to start from the unconditional noise.":
                lambda u, i, t, s, r: _both(u, i, t, s, r) - u,
            "The two scales have changed places.": lambda u, i, t, s, r: _both(u, i, t, r, s),
            "You average the two guided noises. Then each wish counts half.":
                lambda u, i, t, s, r: u + (s * (i - u) + r * (t - u)) / 2,
            "You guide one wish away from the other: the text's difference is to be taken from the unconditional.":
                lambda u, i, t, s, r: u + s * (i - u) + r * (t - i),
            "The sign is reversed: you lead away from both.": lambda u, i, t, s, r: _both(u, i, t, -s, -r)}),
    "08.3": Exercise(
        right=_blended,
        cases=_blended_cases,
        hint="Inside of the mask the sampler's x; outside z_0, noised to the level where x is now.",
        mistakes={
            "Inside and outside have changed places: 1 in the mask means paint.":
                lambda x, z, n, m, a: _blended(x, z, n, 1 - m, a),
            "You put the clean latent back. x is still noisy here; at the border two noise levels would meet.":
                lambda x, z, n, m, a: m * x + (1 - m) * z,
            "You put the noise back, without the picture.": lambda x, z, n, m, a: m * x + (1 - m) * n,
            "The roots are missing: ᾱ and 1 - ᾱ are variances.":
                lambda x, z, n, m, a: m * x + (1 - m) * (a * z + (1 - a) * n),
            "Signal and noise have changed places: at ᾱ = 1 the picture must be back.":
                lambda x, z, n, m, a: _blended(x, z, n, m, 1 - a),
            "You add the picture on top of x. Outside of the mask x has to go.":
                lambda x, z, n, m, a: x + (1 - m) * (a.sqrt() * z + (1 - a).sqrt() * n)}),
    "08.4": Exercise(
        right=_up,
        cases=_up_cases,
        hint="First the clean latent that x and e speak of, by the level below; then noise it with the same e to the "
             "level above.",
        mistakes={
            "That is the step down: below and above have changed places.": lambda x, e, b, a: _up(x, e, a, b),
            "You noise x as if it were clean. Take out its own noise first.":
                lambda x, e, b, a: a.sqrt() * x + (1 - a).sqrt() * e,
            "You stop at the clean latent.": _of_its_noise(lambda z, e, x, b, a: z),
            "You noise the clean latent to the level where it was: that leads back to x.":
                _of_its_noise(lambda z, e, x, b, a: b.sqrt() * z + (1 - b).sqrt() * e),
            "The e is added without its factor: at the level above it counts √(1 - ᾱ).":
                _of_its_noise(lambda z, e, x, b, a: a.sqrt() * z + e),
            "The roots are missing: ᾱ and 1 - ᾱ are variances.":
                lambda x, e, b, a: a * (x - (1 - b) * e) / b + (1 - a) * e,
            "You draw fresh noise, as chapter 01 does. Nothing random may enter: the way back must be the same.":
                _fresh_noise}),
}
