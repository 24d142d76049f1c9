"""The noise schedule: how fast data drowns in noise, and which of the T noise levels a sampler visits.

Symbols are those of Ho et al. 2020 (arXiv:2006.11239): beta_t is the variance of the noise that step t adds,
alpha_bar_t = prod_{s <= t} (1 - beta_s) the share of the data's variance left after it; t is 0 ... T - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving forward process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    betas: (T,), each in (0, 1); everything else follows from it and has its dtype. `t` is everywhere an int
    or an integer tensor, () or (B,); with (B,) each item of the batch gets its own noise level.
    Raises ValueError for betas outside (0, 1) and for t outside 0 ... T - 1.
    """

    betas: Tensor
    alpha_bar: Tensor = field(init=False)    # (T,), falls from about 1 to about 0

    def __post_init__(self):
        if self.betas.ndim != 1 or len(self.betas) == 0 or not self.betas.is_floating_point():
            raise ValueError(f"betas: got {self.betas.dtype} of shape {tuple(self.betas.shape)}, "
                             "expected a vector of floats")
        outside = self.betas[~((self.betas > 0) & (self.betas < 1))]    # written so that NaN is outside
        if len(outside):
            raise ValueError(f"betas: got {outside[0]:g}, expected values between 0 and 1, both excluded")
        object.__setattr__(self, "alpha_bar", torch.cumprod(1 - self.betas, dim=0))

    @property
    def T(self) -> int:
        """The number of noise levels."""
        return len(self.betas)

    @property
    def sigma(self) -> Tensor:
        """(T,), noise over signal: x_t / sqrt(alpha_bar_t) is x_0 with noise of this standard deviation."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t), in the shape of t."""
        alpha_bar = self.alpha_bar[self._checked(t)]
        return alpha_bar / (1 - alpha_bar)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """x_t from clean `x0` (B, ...) and standard normal `eps`, in one step: DDPM eq. 4."""
        signal, noise = self._rates(t, x0)
        return signal * x0 + noise * eps

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """The clean data that `x_t` comes from if its noise is `eps`: DDPM eq. 4 solved for x_0."""
        signal, noise = self._rates(t, x_t)
        return (x_t - noise * eps) / signal

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor | int) -> Tensor:
        """The noise in `x_t` if its clean data is `x0`: DDPM eq. 4 solved for eps."""
        signal, noise = self._rates(t, x_t)
        return (x_t - signal * x0) / noise

    def _rates(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), ready to multiply `like`."""
        alpha_bar = self.alpha_bar[self._checked(t)].to(like.device)
        alpha_bar = alpha_bar.reshape(alpha_bar.shape + (1,) * (like.ndim - alpha_bar.ndim))  # (B, 1, 1, 1)
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def _checked(self, t: Tensor | int) -> Tensor:
        t = torch.as_tensor(t, device=self.betas.device)
        if t.dtype == torch.bool or t.is_floating_point():
            raise ValueError(f"t: got {t.dtype}, expected integers from 0 to {self.T - 1}")
        outside = t[(t < 0) | (t >= self.T)]
        if outside.numel():
            raise ValueError(f"t: got {int(outside.flatten()[0])}, expected integers from 0 to {self.T - 1}")
        return t.long()


def linear_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's schedule (Ho et al. 2020, section 4), for pixels: beta grows linearly."""
    _check(T, beta_start=beta_start, beta_end=beta_end)
    return Schedule(torch.linspace(beta_start, beta_end, T, dtype=torch.float32))


def scaled_linear_schedule(T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Stable Diffusion's schedule (Rombach et al. 2021), and ours, for latents: sqrt(beta) grows linearly."""
    _check(T, beta_start=beta_start, beta_end=beta_end)
    return Schedule(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float32) ** 2)


def cosine_schedule(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17: alpha_bar falls like cos², slowly at both ends."""
    _check(T, beta_max=beta_max)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return Schedule((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max).float())


def timesteps(steps: int, T: int = 1000, spacing: str = "leading", offset: int = 1) -> Tensor:
    """The `steps` noise levels that a sampler visits: int64 (steps,), falling, each in 0 ... T - 1.

    "leading"   multiples of T // steps, from 0, plus `offset`: SD v1's DDIM and DDPM. The fewer the steps,
                the further below T - 1 it starts: x_T is noisier than its t says (Lin et al. 2023).
    "trailing"  T, T - T / steps, ..., rounded, minus 1: starts at T - 1. (Where rounding makes diffusers go
                on to t = -1, for 61 steps say, we stop before it.)
    "linspace"  from T - 1 to 0, both included, evenly, rounded. (A single step is at T - 1, where there is noise to
                remove; diffusers' is at 0.)
    `offset` serves "leading" alone and is cut so that t stays below T, which only steps = T needs.
    Raises ValueError for steps outside 1 ... T, an offset outside 0 ... T - 1, an unknown spacing.
    """
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= T:
        raise ValueError(f"steps: got {steps!r}, expected an integer from 1 to {T}")
    if not 0 <= offset < T:
        raise ValueError(f"offset: got {offset!r}, expected an integer from 0 to {T - 1}")
    if spacing == "leading":
        t = np.arange(steps) * (T // steps)
        t = t[::-1] + min(offset, T - 1 - t[-1])
    elif spacing == "trailing":
        t = np.arange(T, 0, -T / steps)[:steps].round() - 1    # torch would round some halves the other way
    elif spacing == "linspace":
        t = np.linspace(0, T - 1, steps)[::-1].round() if steps > 1 else np.array([T - 1])
    else:
        raise ValueError(f"spacing: got {spacing!r}, expected one of {', '.join(SPACINGS)}")
    return torch.from_numpy(t.astype(np.int64))


def _check(T: int, **betas: float) -> None:
    if isinstance(T, bool) or not isinstance(T, Integral) or T < 1:
        raise ValueError(f"T: got {T!r}, expected a positive integer")
    for name, beta in betas.items():
        if not 0 < beta < 1:
            raise ValueError(f"{name}: got {beta}, expected a value between 0 and 1, both excluded")
