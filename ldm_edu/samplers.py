"""Samplers: from pure noise to data, one predicted noise at a time.

A sampler knows nothing of the U-Net, the prompt or the guidance, only an `EpsFn`. It is a generator that
yields a `Step` and waits: pictures, progress bars and stopping early are the caller's, and nothing is kept.
The caller may also replace `step.x`: the sampler goes on from what it finds there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Generator, Tensor

from .schedule import Schedule, timesteps

# eps(x_t, t), the noise that a model sees in x_t (B, ...); t is a scalar tensor on the device of x_t: int64, or, from
# `euler`, float32.
EpsFn = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Step:
    """What one step of a sampler did. The tensors have the shape of the noise it started from."""

    t: int | float
    x: Tensor      # the sample after the step, from which the next one goes on; that of the last step is the result
    x0: Tensor     # the clean data predicted at t
    eps: Tensor    # the noise predicted at t


@torch.no_grad()
def ddpm(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *,
         generator: Generator | None = None, spacing: str = "leading",
         offset: int = 1, start: int = 0) -> Iterator[Step]:
    """Ancestral sampling from standard normal `x_T` on `steps` of the T levels.

    Ho et al. 2020, algorithm 2. Every step draws from q(x_prev | x_t, x_0), eq. 6 and 7, with the
    variance given there ("fixed small") but at least 1e-20. The last step leads to alpha_bar = 1.
    As in diffusers it draws noise, too, unless its t is 0, which SD v1's offset prevents: with a
    variance of 1e-20 only the generator notices.
    generator: a CPU one. start: leave out the first levels, as `visited` does; `x_T` is then x at the
    first that is left. Raises ValueError as `visited` does.
    """
    x, last = x_T, torch.ones(1)
    levels = visited("ddpm", steps, schedule.T, spacing, offset, start)
    for t, alpha_bar, alpha_bar_prev in _levels(schedule, levels, last):
        e = eps(x, t.to(x.device))
        x0 = schedule.x0_from_eps(x, e, t)
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        mean = (alpha_bar_prev.sqrt() * beta / (1 - alpha_bar) * x0
                + alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x)                # eq. 7
        variance = ((1 - alpha_bar_prev) / (1 - alpha_bar) * beta).clamp(min=1e-20)
        x = mean + variance.sqrt() * _noise_like(x, generator) if t > 0 else mean
        yield (step := Step(int(t), x, x0, e))
        x = step.x


@torch.no_grad()
def ddim(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *, eta: float = 0.0,
         generator: Generator | None = None, spacing: str = "leading",
         offset: int = 1, start: int = 0) -> Iterator[Step]:
    """Sampling from standard normal `x_T` on `steps` of the T levels.

    Song et al. 2020, arXiv:2010.02502. eta: 0 draws nothing, so that the result is a function of
    x_T; 1 is as random as `ddpm`. As in SD v1 the last step leads to alpha_bar_0, not to 1
    (diffusers: set_alpha_to_one = False). Every other step leads to the next level visited.
    (diffusers goes to t - T // steps: the same for "leading" spacing, and for "trailing" where
    steps divides T; elsewhere a level that the model is then not told.)
    generator: a CPU one. start: leave out the first levels, as `visited` does; `x_T` is then x at the
    first that is left. Raises ValueError for eta outside 0 ... 1 and as `visited` does.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}, expected a number from 0 (deterministic) to 1 (like ddpm)")
    x, last = x_T, schedule.alpha_bar[:1]
    levels = visited("ddim", steps, schedule.T, spacing, offset, start)
    for t, alpha_bar, alpha_bar_prev in _levels(schedule, levels, last):
        e = eps(x, t.to(x.device))
        x0 = schedule.x0_from_eps(x, e, t)
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        sigma = eta * variance.sqrt()                                                       # eq. 16
        direction = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()    # rounding may go below 0
        x = alpha_bar_prev.sqrt() * x0 + direction * e                                      # eq. 12
        if eta > 0:
            x = x + sigma * _noise_like(x, generator)
        yield (step := Step(int(t), x, x0, e))
        x = step.x


@torch.no_grad()
def euler(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *, generator: Generator | None = None,
          spacing: str = "linspace", offset: int = 1, start: int = 0) -> Iterator[Step]:
    """Euler's method for dy / dsigma = eps, where y = x / sqrt(alpha_bar) is the data plus sigma times noise.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1 without the correction. It is `ddim` with eta = 0 but for two
    things: "linspace" spacing visits t between the whole numbers, and the last step leads to sigma = 0. x_T: x at the
    first level, see `first_x`. generator: not used, nothing is drawn. Raises ValueError as `visited` does.
    """
    x = x_T
    levels = visited("euler", steps, schedule.T, spacing, offset, start)
    for t, alpha_bar, alpha_bar_next in _levels(schedule, levels, torch.ones(1)):
        sigma, sigma_next = _sigma(alpha_bar), _sigma(alpha_bar_next)
        e = eps(x, t.to(x.device))
        y = x / alpha_bar.sqrt()
        x0 = y - sigma * e
        x = alpha_bar_next.sqrt() * (y + (sigma_next - sigma) * e)
        yield (step := Step(t.item(), x, x0, e))
        x = step.x


@torch.no_grad()
def dpm_solver(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *, generator: Generator | None = None,
               spacing: str = "linspace", offset: int = 1, start: int = 0) -> Iterator[Step]:
    """DPM-Solver++ (2M): each step draws on two predictions of x_0, this one and the one before.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2. With lambda = -log sigma as the clock, x_0 changes nearly
    linearly; so y = x / sqrt(alpha_bar) moves towards x_0 as foreseen half a step ahead. The first step, without a
    predecessor, and the last, which ends on its x_0, are of first order. x_T: x at the first level. generator: not
    used, nothing is drawn. Raises ValueError as `visited` does.
    """
    x, before, sigma_before = x_T, None, None
    levels = visited("dpm_solver", steps, schedule.T, spacing, offset, start)
    for t, alpha_bar, alpha_bar_next in _levels(schedule, levels, torch.ones(1)):
        sigma, sigma_next = _sigma(alpha_bar), _sigma(alpha_bar_next)
        e = eps(x, t.to(x.device))
        y = x / alpha_bar.sqrt()
        x0 = ahead = y - sigma * e
        if before is not None and sigma_next > 0:
            r = (sigma_before / sigma).log() / (sigma / sigma_next).log()    # the step before, in this one's length
            ahead = x0 + (x0 - before) / (2 * r)
        x = alpha_bar_next.sqrt() * (ahead + sigma_next / sigma * (y - ahead))
        yield (step := Step(int(t), x, x0, e))
        x, before, sigma_before = step.x, x0, sigma


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm, "ddim": ddim, "euler": euler, "dpm_solver": dpm_solver}


def visited(sampler: str, steps: int, T: int = 1000, spacing: str | None = None, offset: int = 1,
            start: int = 0) -> Tensor:
    """The t that a sampler visits, falling: int64, for "euler" with "linspace" spacing float32, (steps - start,).

    They are those of `timesteps`, with two exceptions, as in diffusers: "euler" does not round those of "linspace";
    "dpm_solver" takes steps + 1 of "linspace" or "leading" and leaves out the last, so that it can do T - 1 steps at
    most. spacing: None is the sampler's own, "leading" for "ddpm" and "ddim", "linspace" for the others. start: how
    many of the first to leave out, to begin with a picture that is noised that far. Raises ValueError as `timesteps`
    does, and for a `start` outside 0 ... steps.
    """
    spacing = spacing or ("leading" if sampler in ("ddpm", "ddim") else "linspace")
    most = T - 1 if sampler == "dpm_solver" else T
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= most:
        raise ValueError(f"steps: got {steps!r}, expected an integer from 1 to {most}")
    if isinstance(start, bool) or not isinstance(start, Integral) or not 0 <= start <= steps:
        raise ValueError(f"start: got {start!r}, expected an integer from 0 to {steps}")
    if sampler == "euler" and spacing == "linspace" and steps > 1:
        return torch.from_numpy(np.linspace(0, T - 1, steps, dtype=np.float32)[::-1].copy())[start:]
    if sampler == "dpm_solver" and spacing != "trailing":
        return timesteps(steps + 1, T, spacing, offset)[start:-1]
    return timesteps(steps, T, spacing, offset)[start:]


def alpha_bar_at(schedule: Schedule, t: Tensor) -> Tensor:
    """alpha_bar at `t`, any shape, integers or fractions; between levels sigma is linear (diffusers)."""
    if not t.is_floating_point():
        return schedule.alpha_bar[t]
    sigma = np.interp(t.numpy(), np.arange(schedule.T), schedule.sigma.double().numpy())
    return torch.as_tensor(1 / (sigma**2 + 1)).to(schedule.betas)


def first_x(sampler: str, noise: Tensor, schedule: Schedule, steps: int, start: int = 0,
            x_0: Tensor | None = None) -> Tensor:
    """x at the first level that a sampler visits, from standard normal `noise` (B, ...).

    x_0: data of that shape, noised so far and no further: how SDEdit begins (Meng et al. 2021, arXiv:2108.01073).
    Without it only noise: for "euler" with the variance that the noise has at that level, for the others with 1, which
    says the same where nothing of the data is left. Raises ValueError as `visited` does.
    """
    if start == steps:
        return noise if x_0 is None else x_0    # there is nothing to visit
    a = alpha_bar_at(schedule, visited(sampler, steps, schedule.T, start=start)[0])
    if x_0 is not None:
        return a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (1 - a).sqrt() * noise if sampler == "euler" else noise


def last_x(steps: Iterator[Step], x: Tensor | None = None) -> Tensor:
    """Run a sampler to its end, keeping nothing on the way: x after its last step, or `x` if it does none."""
    for step in steps:
        x = step.x
    return x


def check_request(sampler: str, steps: int, T: int, seed: int) -> str:
    """`sampler`, or ValueError naming which of these is wrong, what came and what was expected."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: got {seed!r}, expected an integer from 0 to 2^63 - 1")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: got {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    visited(sampler, steps, T)
    return sampler


def _levels(schedule: Schedule, t: Tensor, last: Tensor) -> Iterator[tuple]:
    """For each step: t, alpha_bar at t, and alpha_bar where the step leads, which finally is `last` (1,)."""
    alpha_bar = alpha_bar_at(schedule, t)
    return zip(t, alpha_bar, torch.cat([alpha_bar[1:], last.to(alpha_bar)]))


def _sigma(alpha_bar: Tensor) -> Tensor:
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _noise_like(x: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal noise, drawn on the CPU: one seed gives one picture on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
