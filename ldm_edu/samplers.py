"""Samplers: from pure noise to data, one predicted noise at a time.

A sampler knows only an `EpsFn` and the levels to visit. It is a generator: pictures, progress bars and stopping early
are the caller's. The caller may also replace `step.x`; the sampler goes on from what it finds there.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from .schedule import Schedule, timesteps

# eps(x_t, t): the noise that a model sees in x_t (B, ...); t is a scalar tensor on the device of x_t.
EpsFn = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Step:
    """What one step of a sampler did. The tensors have the shape of the noise it started from."""

    t: int | float
    x: Tensor      # the sample after the step; that of the last step is the result
    x0: Tensor     # the clean data predicted at t
    eps: Tensor    # the noise predicted at t


# All four: x (B, ...) is the sample at levels[0]; levels are falling timesteps; generator is a CPU one.

@torch.no_grad()
def ddpm(eps: EpsFn, x: Tensor, schedule: Schedule, levels: Tensor, *,
         generator: Generator | None = None) -> Iterator[Step]:
    """Ancestral sampling: each step draws from q(x_prev | x_t, x_0). Ho et al. 2020, algorithm 2 and eq. 6, 7."""
    alpha_bars = torch.cat([schedule.alpha_bar[levels], torch.ones(1)])
    for t, alpha_bar, alpha_bar_prev in zip(levels, alpha_bars, alpha_bars[1:]):
        e = eps(x, t.to(x.device))
        x0 = (x - (1 - alpha_bar).sqrt() * e) / alpha_bar.sqrt()                            # eq. 4, solved for x_0
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        mean = (alpha_bar_prev.sqrt() * beta / (1 - alpha_bar) * x0
                + alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x)                # eq. 7
        variance = ((1 - alpha_bar_prev) / (1 - alpha_bar) * beta).clamp(min=1e-20)         # "fixed small"
        x = mean + variance.sqrt() * _noise_like(x, generator) if t > 0 else mean
        yield (step := Step(int(t), x, x0, e))
        x = step.x


@torch.no_grad()
def ddim(eps: EpsFn, x: Tensor, schedule: Schedule, levels: Tensor, *, eta: float = 0.0,
         generator: Generator | None = None) -> Iterator[Step]:
    """Non-Markovian sampling, Song et al. 2020 (arXiv:2010.02502). eta: 0 is deterministic, 1 as random as `ddpm`."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}, expected a number from 0 (deterministic) to 1 (like ddpm)")
    alpha_bars = torch.cat([schedule.alpha_bar[levels], schedule.alpha_bar[:1]])    # SD v1 ends at t = 0, not clean
    for t, alpha_bar, alpha_bar_prev in zip(levels, alpha_bars, alpha_bars[1:]):
        e = eps(x, t.to(x.device))
        x0 = (x - (1 - alpha_bar).sqrt() * e) / alpha_bar.sqrt()
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        sigma = eta * variance.sqrt()                                                       # eq. 16
        direction = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()    # rounding may go below 0
        x = alpha_bar_prev.sqrt() * x0 + direction * e                                      # eq. 12
        if eta > 0:
            x = x + sigma * _noise_like(x, generator)
        yield (step := Step(int(t), x, x0, e))
        x = step.x


@torch.no_grad()
def euler(eps: EpsFn, x: Tensor, schedule: Schedule, levels: Tensor, *,
          generator: Generator | None = None) -> Iterator[Step]:
    """Euler's method for dy / dsigma = eps, y = x / sqrt(alpha_bar). Karras et al. 2022, arXiv:2206.00364."""
    alpha_bars = torch.cat([alpha_bar_at(schedule, levels), torch.ones(1)])
    for t, alpha_bar, alpha_bar_next in zip(levels, alpha_bars, alpha_bars[1:]):
        sigma, sigma_next = _sigma(alpha_bar), _sigma(alpha_bar_next)
        e = eps(x, t.to(x.device))
        y = x / alpha_bar.sqrt()
        x0 = y - sigma * e
        x = alpha_bar_next.sqrt() * (y + (sigma_next - sigma) * e)
        yield (step := Step(t.item(), x, x0, e))
        x = step.x


@torch.no_grad()
def dpm_solver(eps: EpsFn, x: Tensor, schedule: Schedule, levels: Tensor, *,
               generator: Generator | None = None) -> Iterator[Step]:
    """DPM-Solver++ (2M), Lu et al. 2022 (arXiv:2211.01095), algorithm 2: each step uses two predictions of x_0.

    With lambda = -log sigma as the clock, x_0 is nearly linear, so y moves towards x_0 extrapolated half a step ahead.
    """
    before = sigma_before = None
    alpha_bars = torch.cat([alpha_bar_at(schedule, levels), torch.ones(1)])
    for t, alpha_bar, alpha_bar_next in zip(levels, alpha_bars, alpha_bars[1:]):
        sigma, sigma_next = _sigma(alpha_bar), _sigma(alpha_bar_next)
        e = eps(x, t.to(x.device))
        y = x / alpha_bar.sqrt()
        x0 = ahead = y - sigma * e
        if before is not None and sigma_next > 0:
            r = (sigma_before / sigma).log() / (sigma / sigma_next).log()    # the last step's length over this one's
            ahead = x0 + (x0 - before) / (2 * r)
        x = alpha_bar_next.sqrt() * (ahead + sigma_next / sigma * (y - ahead))
        yield (step := Step(int(t), x, x0, e))
        x, before, sigma_before = step.x, x0, sigma


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm, "ddim": ddim, "euler": euler, "dpm_solver": dpm_solver}
SPACING = {"ddpm": "leading", "ddim": "leading", "euler": "fractional", "dpm_solver": "half-open"}    # of `timesteps`


def sampler_levels(sampler: str, steps: int, T: int = 1000, spacing: str | None = None) -> Tensor:
    """Choose the levels that diffusers' scheduler of that sampler visits: (steps,), falling.

    spacing: "leading", "trailing" or "linspace", its timestep_spacing; by default the sampler's own.
    """
    if spacing is None or spacing == "linspace" and sampler in ("euler", "dpm_solver"):
        return timesteps(steps, T, SPACING[sampler])
    if spacing == "leading" and sampler == "dpm_solver":    # half-open, too
        return timesteps(steps + 1, T, spacing)[:-1]
    return timesteps(steps, T, spacing)


def alpha_bar_at(schedule: Schedule, t: Tensor) -> Tensor:
    """alpha_bar at `t`, of any shape; at fractional t sigma is interpolated linearly."""
    if not t.is_floating_point():
        return schedule.alpha_bar[t]
    sigma = np.interp(t.numpy(), np.arange(schedule.T), schedule.sigma.double().numpy())
    return torch.as_tensor(1 / (sigma**2 + 1)).to(schedule.betas)


def start_from(x_0: Tensor | float, noise: Tensor, schedule: Schedule, levels: Tensor) -> Tensor:
    """Noise data `x_0` to levels[0], where a sampler starts: SDEdit, Meng et al. 2021 (arXiv:2108.01073).

    Without levels this is x_0 itself; with x_0 = 0 it is what `euler` starts from at T - 1.
    """
    alpha_bar = alpha_bar_at(schedule, levels[0]) if len(levels) else torch.ones(())
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


def last_x(steps: Iterator[Step], x: Tensor | None = None) -> Tensor:
    """Run a sampler to its end and return x after the last step, or `x` if there is none."""
    for step in steps:
        x = step.x
    return x


def _sigma(alpha_bar: Tensor) -> Tensor:
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _noise_like(x: Tensor, generator: Generator | None) -> Tensor:
    """Draw standard normal noise on the CPU: one seed gives one picture on every device, in float16 as in float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)    # not in half precision, whose numbers are others
    return torch.randn(x.shape, generator=generator, dtype=dtype).to(x)
