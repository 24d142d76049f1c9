"""Samplers: from pure noise to data, one predicted noise at a time.

A sampler knows nothing of the U-Net, the prompt or the guidance, only an `EpsFn`. It is a generator that
yields a `Step` and waits: pictures, progress bars and stopping early are the caller's, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .schedule import Schedule, timesteps

# eps(x_t, t), the noise that a model sees in x_t (B, ...); t is a scalar int64 tensor on the device of x_t.
EpsFn = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What one step of a sampler did. The tensors have the shape of the noise it started from."""

    t: int
    x: Tensor      # the sample after the step; that of the last step is the result
    x0: Tensor     # the clean data predicted at t
    eps: Tensor    # the noise predicted at t


@torch.no_grad()
def ddpm(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *,
         generator: Generator | None = None, spacing: str = "leading",
         offset: int = 1) -> Iterator[Step]:
    """Ancestral sampling from standard normal `x_T` on `steps` of the T levels.

    Ho et al. 2020, algorithm 2. Every step draws from q(x_prev | x_t, x_0), eq. 6 and 7, with the
    variance given there ("fixed small") but at least 1e-20. The last step leads to alpha_bar = 1.
    As in diffusers it draws noise, too, unless its t is 0, which SD v1's offset prevents: with a
    variance of 1e-20 only the generator notices.
    generator: a CPU one. Raises ValueError as `timesteps` does.
    """
    x = x_T
    last = torch.ones(1)
    for t, alpha_bar, alpha_bar_prev in _levels(schedule, steps, spacing, offset, last):
        e = eps(x, t.to(x.device))
        x0 = schedule.x0_from_eps(x, e, t)
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        mean = (alpha_bar_prev.sqrt() * beta / (1 - alpha_bar) * x0
                + alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x)                # eq. 7
        variance = ((1 - alpha_bar_prev) / (1 - alpha_bar) * beta).clamp(min=1e-20)
        x = mean + variance.sqrt() * _noise_like(x, generator) if t > 0 else mean
        yield Step(int(t), x, x0, e)


@torch.no_grad()
def ddim(eps: EpsFn, x_T: Tensor, schedule: Schedule, steps: int, *, eta: float = 0.0,
         generator: Generator | None = None, spacing: str = "leading",
         offset: int = 1) -> Iterator[Step]:
    """Sampling from standard normal `x_T` on `steps` of the T levels.

    Song et al. 2020, arXiv:2010.02502. eta: 0 draws nothing, so that the result is a function of
    x_T; 1 is as random as `ddpm`. As in SD v1 the last step leads to alpha_bar_0, not to 1
    (diffusers: set_alpha_to_one = False). Every other step leads to the next level visited.
    (diffusers goes to t - T // steps: the same for "leading" spacing, and for "trailing" where
    steps divides T; elsewhere a level that the model is then not told.)
    generator: a CPU one. Raises ValueError for eta outside 0 ... 1 and as `timesteps` does.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}, expected a number from 0 (deterministic) to 1 (like ddpm)")
    x = x_T
    last = schedule.alpha_bar[:1]
    for t, alpha_bar, alpha_bar_prev in _levels(schedule, steps, spacing, offset, last):
        e = eps(x, t.to(x.device))
        x0 = schedule.x0_from_eps(x, e, t)
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        sigma = eta * variance.sqrt()                                                       # eq. 16
        direction = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()    # rounding may go below 0
        x = alpha_bar_prev.sqrt() * x0 + direction * e                                      # eq. 12
        if eta > 0:
            x = x + sigma * _noise_like(x, generator)
        yield Step(int(t), x, x0, e)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {"ddpm": ddpm, "ddim": ddim}


def _levels(schedule: Schedule, steps: int, spacing: str, offset: int, last: Tensor) -> Iterator[tuple]:
    """For each step: t, alpha_bar at t, and alpha_bar where the step leads, which finally is `last` (1,)."""
    t = timesteps(steps, schedule.T, spacing, offset)
    alpha_bar = schedule.alpha_bar[t]
    return zip(t, alpha_bar, torch.cat([alpha_bar[1:], last.to(alpha_bar)]))


def _noise_like(x: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal noise, drawn on the CPU: one seed gives one picture on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
