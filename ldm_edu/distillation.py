"""Distillation: a student learns to do in a few steps, without guidance, what its teacher does in many with it.

Both losses are regressions on what a frozen teacher does, so no training picture is needed: noise and prompts are
enough.
"""
from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from .losses import stratified
from .samplers import EpsFn, ddim
from .schedule import Schedule, timesteps


def ddim_step(x: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """Take one step of DDIM from x at level alpha_bar to alpha_bar_next. Song et al. 2020, eq. 12 with eta = 0.

    x, eps: (B, ...); the levels: (B,). The result is linear in eps: exactly one eps leads from x to a given target.
    """
    a, b = (level.view(-1, *[1] * (x.ndim - 1)) for level in (alpha_bar, alpha_bar_next))      # (B, 1, 1, 1)
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    return b.sqrt() * x0 + (1 - b).sqrt() * eps


@torch.no_grad()
def teacher_path(eps: EpsFn, noise: Tensor, schedule: Schedule, steps: int = 32, keep: int = 8) -> Tensor:
    """Run a teacher with DDIM from noise (B, ...); keep its states at `keep` levels and its result: (B, keep + 1, ...).

    The levels are those that a student of `keep` steps visits, or of any number of steps that divides `keep`. steps: a
    multiple of `keep`.
    """
    levels = timesteps(steps, schedule.T, "trailing")    # starts at T - 1, where x is pure noise
    states = [step.x for step in ddim(eps, noise, schedule, levels)]
    return torch.stack([noise, *states[steps // keep - 1::steps // keep]], dim=1)


def landing_loss(student: nn.Module, path: Tensor, context: Tensor, schedule: Schedule, levels: Tensor,
                 generator: Generator) -> Tensor:
    """Measure where one long step of the student lands, against where its teacher's short ones went: ().

    path: of `teacher_path`, (B, K + 1, 4, h, w); context: (B, N, D); levels: (S,), those of a student of S steps, S a
    divisor of K; generator: on their device. With S = 1: Luhman & Luhman 2021 (arXiv:2101.02388).
    """
    which = torch.randint(len(levels), (len(path),), generator=generator, device=path.device)    # of the S steps
    rows, stride = torch.arange(len(path), device=path.device), (path.shape[1] - 1) // len(levels)
    alpha_bars = torch.cat([schedule.alpha_bar[levels], schedule.alpha_bar[:1]])    # where `ddim` ends
    x, goal = path[rows, which * stride], path[rows, (which + 1) * stride]                # (B, 4, h, w)
    landed = ddim_step(x, student(x, levels[which], context), alpha_bars[which], alpha_bars[which + 1])
    return (landed - goal).square().mean()    # = c² |eps - eps*|²: an error in eps counts as much as it moves x


def guidance_loss(student: nn.Module, teacher: nn.Module, z_0: Tensor, cond: Tensor, uncond: Tensor, scale: float,
                  schedule: Schedule, weight: Tensor, generator: Generator) -> Tensor:
    """Compare the student's one prediction with the guided one, for which its teacher takes two: ().

    Meng et al. 2022 (arXiv:2210.03142), section 3.1, at one scale. z_0: latents (B, 4, h, w); cond, uncond: contexts
    (B, N, D); weight: (T,); generator: on their device.
    """
    t = stratified(len(z_0), schedule.T, generator)
    z_t = schedule.add_noise(z_0, torch.randn(z_0.shape, generator=generator, device=z_0.device), t)
    with torch.no_grad():
        e_uncond, e_cond = teacher(z_t, t, uncond), teacher(z_t, t, cond)
        goal = e_uncond + scale * (e_cond - e_uncond)
    return (weight[t] * (student(z_t, t, cond) - goal).square().mean((1, 2, 3))).mean()
