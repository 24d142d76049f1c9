"""A generative adversarial network, as good as a minute of training allows, and data on which GANs are known to fail.

Goodfellow et al. 2014 (arXiv:1406.2661), with the gradient penalty of Mescheder et al. 2018 (arXiv:1801.04406); beside
them the diffusion model that they are compared with.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import timestep_embedding
from ..schedule import Schedule
from ..training import ema_update

SIDE = torch.linspace(-4, 4, 5) / 8**0.5      # scaled so that the data has a variance of 1
GRID = torch.cartesian_prod(SIDE, SIDE)       # (25, 2): the centres
SPREAD = 0.1 / 8**0.5                         # of each Gaussian: a twentieth of the way to its neighbour


def draw_grid(count: int, generator: torch.Generator) -> Tensor:
    """Draw points from 25 equal Gaussians on a 5 × 5 grid: (count, 2). Srivastava et al. 2017 (arXiv:1705.07761)."""
    mode = torch.randint(len(GRID), (count,), generator=generator)
    return GRID[mode] + SPREAD * torch.randn(count, 2, generator=generator)


class GridScore(NamedTuple):
    """How well points cover the grid."""

    modes: int        # of the 25, covered
    good: float       # share of points within 3 SPREAD of a centre
    counts: Tensor    # (25,), good points at each centre


def score_grid(x: Tensor) -> GridScore:
    """Score points (N, 2), N at least 250, as samples of `draw_grid`, which itself gets 25 modes and 98.9 % good.

    A mode is covered if it has at least a fifth of the good points that are due to it.
    """
    distance, mode = torch.cdist(x, GRID).min(1)
    good = distance < 3 * SPREAD                                                          # NaN is not
    counts = torch.bincount(mode[good], minlength=len(GRID))
    return GridScore(int((counts >= len(x) / len(GRID) / 5).sum()), good.float().mean().item(), counts)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of the discriminator's logits for real and for generated data. Any shapes -> ().

    Goodfellow et al. 2014, eq. 1, with -log sigmoid(l) = softplus(-l).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """The non-saturating loss, -log D, of the discriminator's logits for generated data. Any shape -> ().

    Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-fake).mean()    # steepest where D is sure of a fake; log (1 - D) is flat there


def gradient_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """R1: squared slope of the discriminator at real data, |grad D|², averaged over the batch. ().

    real: (B, ...), with requires_grad; logits: the discriminator's for them. Mescheder et al. 2018, eq. 9; the factor
    gamma / 2 is the caller's.
    """
    slope, = torch.autograd.grad(logits.sum(), real, create_graph=True)                   # (B, ...)
    return slope.flatten(1).square().sum(1).mean()


@dataclass(frozen=True)
class GanConfig:
    """How to train generator and discriminator."""

    steps: int
    batch: int = 256
    lr: float = 1e-3
    momentum: float = 0.0    # Adam's beta_1: none, because the target moves
    r1: float = 0.005        # gamma of the gradient penalty; 0: without
    ema: float = 0.995
    seed: int = 0


class GanProgress(NamedTuple):
    """What `train_gan` yields after a step."""

    step: int
    discriminator_loss: float
    generator_loss: float
    generator: nn.Module    # as it is
    ema: nn.Module          # the generator, averaged


def train_gan(generator: nn.Module, discriminator: nn.Module, real: Callable[[int, torch.Generator], Tensor],
              config: GanConfig) -> Iterator[GanProgress]:
    """Train generator and discriminator against each other, one step each in turn. Goodfellow et al. 2014, algorithm 1.

    generator: standard normal (B, generator.noise) -> data; discriminator: data -> logits (B, 1); real(B, rng) draws a
    batch of data. Raises FloatingPointError at the first loss that is not finite.
    """
    ema = copy.deepcopy(generator).requires_grad_(False).eval()
    g_optimizer, d_optimizer = (torch.optim.Adam(net.parameters(), config.lr, (config.momentum, 0.99))
                                for net in (generator, discriminator))
    for step in range(config.steps):
        rng = torch.Generator().manual_seed(config.seed * 2**32 + step)
        x = real(config.batch, rng).requires_grad_(config.r1 > 0)
        noise = torch.randn(2, config.batch, generator.noise, generator=rng)
        with torch.no_grad():
            fake = generator(noise[0])
        logits = discriminator(x)
        d_loss = discriminator_loss(logits, discriminator(fake))
        penalty = config.r1 / 2 * gradient_penalty(logits, x) if config.r1 else 0.0
        d_optimizer.zero_grad()
        (d_loss + penalty).backward()
        d_optimizer.step()

        discriminator.requires_grad_(False)    # the generator's turn
        g_loss = generator_loss(discriminator(generator(noise[1])))
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        discriminator.requires_grad_(True)
        ema_update(ema, generator, config.ema, step)
        if not torch.isfinite(d_loss + g_loss):
            raise FloatingPointError(f"losses are {d_loss.item()} and {g_loss.item()} at step {step}")
        yield GanProgress(step + 1, d_loss.item(), g_loss.item(), generator, ema)


def perceptron(inputs: int, outputs: int, activation: type[nn.Module], width: int = 128) -> nn.Sequential:
    """Build three hidden layers: (B, inputs) -> (B, outputs)."""
    sizes = [inputs, width, width, width]
    hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class PlaneGenerator(nn.Sequential):
    """Noise (B, 2) -> points (B, 2)."""

    noise = 2

    def __init__(self):
        super().__init__(*perceptron(self.noise, 2, nn.ReLU))


class PlaneDiscriminator(nn.Module):
    """Points (B, 2) -> logits (B, 1), high for real ones. waves: show it `wavy_points`, as the denoiser sees them."""

    def __init__(self, waves: bool = False):
        super().__init__()
        self.waves = waves
        self.net = perceptron(18 if waves else 2, 1, nn.LeakyReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(wavy_points(x) if self.waves else x)


class PlaneDenoiser(nn.Module):
    """Points x (B, 2) and t () or (B,) -> the noise in x (B, 2)."""

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.register_buffer("alpha_bar", schedule.alpha_bar.float(), persistent=False)
        self.net = perceptron(18 + 32, 2, nn.SiLU)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        a = self.alpha_bar[t][:, None]
        inputs = torch.cat([wavy_points(x), timestep_embedding(t, 32)], 1)                # (B, 50)
        return (1 - a).sqrt() * x + a.sqrt() * self.net(inputs)    # where all is noise, x itself is the first guess


def wavy_points(x: Tensor) -> Tensor:
    """Append to points (B, 2) their sines and cosines at four frequencies: (B, 18).

    Small networks are slow to find fine detail in a bare coordinate: Tancik et al. 2020 (arXiv:2006.10739).
    """
    angles = torch.cat([x * 2**k for k in range(4)], 1)                                   # (B, 8)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


class LittleGenerator(nn.Sequential):
    """Noise (B, 32) -> pictures (B, 3, 16, 16) in [-1, 1]. After DCGAN, Radford et al. 2015 (arXiv:1511.06434)."""

    noise = 32

    def __init__(self, width: int = 96):
        super().__init__(
            nn.Linear(self.noise, 16 * width), nn.Unflatten(1, (width, 4, 4)), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width // 3, 3, padding=1), nn.BatchNorm2d(width // 3),
            nn.ReLU(), nn.Conv2d(width // 3, 3, 3, padding=1), nn.Tanh())


class LittleDiscriminator(nn.Sequential):
    """Pictures (B, 3, 16, 16) -> logits (B, 1), high for real ones."""

    def __init__(self, width: int = 40):
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),               # (B, w, 8, 8)
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),       # (B, 2w, 4, 4)
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),   # (B, 4w, 2, 2)
            nn.Flatten(), nn.Linear(16 * width, 1))
