"""Rectified flow: straight paths from data to noise, a model of their velocity, and Euler's method back to data.

Liu et al. 2022 (arXiv:2209.03003), Lipman et al. 2022 (arXiv:2210.02747), Esser et al. 2024 (arXiv:2403.03206, SD3).
The clock t runs from 0, data, to 1, noise.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Generator, Tensor, nn

from .samplers import EpsFn, Step, alpha_bar_at
from .schedule import Schedule
from .support.checks import check_flow

# v(z_t, t): the velocity eps - z_0 that a model expects at z_t (B, ...); t is a scalar tensor on the device of z_t.
VelocityFn = Callable[[Tensor, Tensor], Tensor]


def flow_loss(model: nn.Module, z_0: Tensor, context: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """|v - v_theta(z_t, t, tau(y))|² of each latent, averaged over its numbers: (B,). Liu et al. 2022, eq. 1.

    z_0: scaled latents (B, 4, h, w); context: tau(y), (B, N, D); t: (B,), 0 to 1; eps: like z_0, standard normal.
    """
    clock = t[:, None, None, None]                                                        # (B, 1, 1, 1)
    z_t = (1 - clock) * z_0 + clock * eps    # on a straight line ...
    v = eps - z_0                            # ... that is travelled at constant speed
    return (model(z_t, t, context) - v).square().mean((1, 2, 3))


def logit_normal(count: int, generator: Generator) -> Tensor:
    """Draw `count` times t in [0, 1], whose logit is standard normal, one from each of as many equal shares: (count,).

    Near t = 0 and 1 one end of the line is in plain sight: what is hard to learn lies between. SD3, section 3.1.
    """
    shares = torch.randperm(count, generator=generator, device=generator.device)
    uniform = (shares + torch.rand(count, generator=generator, device=generator.device)) / count
    return torch.special.ndtri(uniform).sigmoid()


def flow_levels(steps: int, shift: float = 1.0) -> Tensor:
    """Choose `steps` levels t from 1 down, evenly, the next one being 0: (steps,). shift: above 1, more of them noisy.

    SD3 shifts by 3 at a megapixel: large pictures need more noise before they are unrecognisable. Esser et al., eq. 23.
    """
    t = torch.linspace(1, 1 / steps, steps)
    return shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def flow_euler(velocity: VelocityFn, x: Tensor, levels: Tensor) -> Iterator[Step]:
    """Euler's method for dz / dt = v, from x (B, ...) at levels[0] to data. levels: of `flow_levels`, falling."""
    check_flow(velocity, levels)
    for t, t_next in zip(levels, torch.cat([levels[1:], torch.zeros(1)])):
        v = velocity(x, t.to(x.device))
        x0, eps = x - t * v, x + (1 - t) * v    # both ends of the line through x
        x = x + (t_next - t) * v
        yield (step := Step(t.item(), x, x0, eps))
        x = step.x


def eps_from_velocity(velocity: VelocityFn, schedule: Schedule) -> EpsFn:
    """See a flow model as a diffusion model, for any of the `samplers`: the same noise over signal at another clock."""
    def eps(x: Tensor, timestep: Tensor) -> Tensor:
        alpha_bar = alpha_bar_at(schedule, timestep.cpu())
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        t = sigma / (1 + sigma)                                # the flow's t at which noise over signal is sigma, too
        z_t = (1 - t) / alpha_bar.sqrt() * x
        return z_t + (1 - t) * velocity(z_t, t.to(x.device))
    return eps


def velocity_from_eps(eps: EpsFn, schedule: Schedule) -> VelocityFn:
    """See a diffusion model as a flow model, for `flow_euler`; noise beyond the schedule's end is taken for its end."""
    def velocity(z_t: Tensor, t: Tensor) -> Tensor:
        t = t.cpu()
        timestep = torch.as_tensor(np.interp(t / (1 - t), schedule.sigma, np.arange(schedule.T)), dtype=torch.float32)
        alpha_bar = alpha_bar_at(schedule, timestep)
        x = z_t / ((1 - t) ** 2 + t**2).sqrt()                 # of variance 1 at every t, as diffusion has it
        x0 = (x - (1 - alpha_bar).sqrt() * eps(x, timestep.to(x.device))) / alpha_bar.sqrt()
        return (z_t - x0) / t                                  # the speed on the straight line from x0 to here
    return velocity
