"""The noise schedule: how fast data drowns in noise, and which of the T noise levels a sampler visits.

Ho et al. 2020 (arXiv:2006.11239): alpha_bar_t = prod_{s <= t} (1 - beta_s) is the data's share of the variance at t.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .support.checks import check_timesteps, expect


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving forward process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    betas: (T,), each in (0, 1). `t` is an int or an integer tensor, () or (B,), from 0 to T - 1.
    """

    betas: Tensor
    alpha_bar: Tensor = field(init=False)    # (T,), falls from about 1 to about 0
    T: int = field(init=False)               # number of noise levels

    def __post_init__(self):
        expect(bool(((self.betas > 0) & (self.betas < 1)).all()), "betas",
               f"values from {self.betas.min():g} to {self.betas.max():g}", "between 0 and 1, both excluded")
        object.__setattr__(self, "alpha_bar", torch.cumprod(1 - self.betas, dim=0))
        object.__setattr__(self, "T", len(self.betas))

    @property
    def sigma(self) -> Tensor:
        """(T,), noise over signal: x_t / sqrt(alpha_bar_t) is x_0 plus noise of this standard deviation."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t), in the shape of t."""
        alpha_bar = self.alpha_bar[check_timesteps(t, self.T).cpu()]
        return alpha_bar / (1 - alpha_bar)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """Make x_t from clean `x0` (B, ...) and standard normal `eps` in one step: DDPM eq. 4."""
        signal, noise = self._rates(t, x0)
        return signal * x0 + noise * eps

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """Estimate the clean data in `x_t` if its noise is `eps`: DDPM eq. 4 solved for x_0."""
        signal, noise = self._rates(t, x_t)
        return (x_t - noise * eps) / signal

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor | int) -> Tensor:
        """Find the noise in `x_t` if its clean data is `x0`: DDPM eq. 4 solved for eps."""
        signal, noise = self._rates(t, x_t)
        return (x_t - signal * x0) / noise

    def _rates(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply `like`."""
        alpha_bar = self.alpha_bar.to(like.device)[check_timesteps(t, self.T).to(like.device)]
        alpha_bar = alpha_bar.reshape(alpha_bar.shape + (1,) * (like.ndim - alpha_bar.ndim))  # (B, 1, 1, 1)
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


def linear_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's schedule for pixels (Ho et al. 2020, section 4): beta grows linearly."""
    return Schedule(torch.linspace(beta_start, beta_end, T, dtype=torch.float32))


def scaled_linear_schedule(T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Stable Diffusion's schedule for latents (Rombach et al. 2021), and ours: sqrt(beta) grows linearly."""
    return Schedule(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float32) ** 2)


def cosine_schedule(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17: alpha_bar falls like cos², slowly at both ends."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return Schedule((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max).float())


def timesteps(steps: int, T: int = 1000, spacing: str = "leading", offset: int = 1) -> Tensor:
    """Choose `steps` of the T noise levels for a sampler to visit, from noisy to clean: (steps,), int64.

    "leading": multiples of T // steps, from 0, plus `offset` (SD v1's DDIM and DDPM); "trailing": starts at T - 1;
    "linspace": from T - 1 to 0, evenly; "fractional": the same unrounded, float32 (Euler); "half-open": "linspace" of
    one step more, without its end (DPM-Solver++). Raises ValueError for anything else, and for steps outside 1 ... T.
    """
    count = steps + (spacing == "half-open")
    if count not in range(1, T + 1):
        raise ValueError(f"steps: got {count}, expected an integer from 1 to {T}")
    even = np.linspace(0, T - 1, count)[::-1] if count > 1 else np.array([T - 1.0])
    if spacing == "leading":    # starts below T - 1, where x_T is noisier than its t says (Lin et al. 2023)
        t = np.arange(steps)[::-1] * (T // steps)
        t = t + min(offset, T - 1 - t[0])
    elif spacing == "trailing":
        t = np.arange(T, 0, -T / steps)[:steps].round() - 1
    elif spacing == "fractional":
        return torch.from_numpy(even.astype(np.float32))
    else:
        expect(spacing in ("linspace", "half-open"), "spacing", repr(spacing),
               "one of leading, trailing, linspace, fractional, half-open")
        t = even[:steps].round()
    return torch.from_numpy(t.astype(np.int64))
