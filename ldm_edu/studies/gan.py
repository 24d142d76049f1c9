"""A generative adversarial network, as decent as it gets in a minute, and the world on which GANs are known to stumble.

One network makes, another judges, each trained against the other: Goodfellow et al. 2014 (arXiv:1406.2661), with the
gradient penalty of Mescheder et al. 2018 (arXiv:1801.04406). What they are held against is a diffusion model.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..blocks import timestep_embedding
from ..schedule import Schedule
from ..training import ema_update

SIDE = torch.linspace(-4, 4, 5) / 8**0.5      # scaled so that the data has a variance of 1
GRID = torch.cartesian_prod(SIDE, SIDE)       # (25, 2): the centres
SPREAD = 0.1 / 8**0.5                         # of each Gaussian: a twentieth of the way to its neighbour


# --- 25 Gaussians in the plane --------------------------------------------------------------------------------------

def draw_grid(count: int, generator: Generator) -> Tensor:
    """`count` points of 25 equal Gaussians on a 5 × 5 grid: (count, 2). Metz et al. 2016 (arXiv:1611.02163)."""
    mode = torch.randint(len(GRID), (count,), generator=generator)
    return GRID[mode] + SPREAD * torch.randn(count, 2, generator=generator)


class GridScore(NamedTuple):
    """modes: how many of the 25 are covered; good: share of points within 3 SPREAD of a centre; counts: of the good
    points at each centre, (25,)."""

    modes: int
    good: float
    counts: Tensor


def score_grid(x: Tensor) -> GridScore:
    """How well points (N, 2) do for `draw_grid`, which itself gets 25 modes and 98.9 % good.

    A mode is covered if at least a fifth of the points that are due to it are good ones of it. Raises ValueError for
    other shapes and for fewer points than 250.
    """
    if x.ndim != 2 or x.shape[1] != 2 or len(x) < 250:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (points, 2), at least 250 points")
    distance, mode = torch.cdist(x, GRID).min(1)
    good = distance < 3 * SPREAD                                                          # NaN is not
    counts = torch.bincount(mode[good], minlength=len(GRID))
    return GridScore(int((counts >= len(x) / len(GRID) / 5).sum()), good.float().mean().item(), counts)


# --- The two losses -------------------------------------------------------------------------------------------------

def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the judge minimises, of its logits for real and generated data: the cross-entropy. Any shapes -> ().

    Goodfellow et al. 2014, eq. 1, with -log sigmoid(l) = softplus(-l).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """What the maker minimises, "non-saturating": -log D instead of log (1 - D). Any shape -> ().

    Where the judge is sure of a fake, the second has no slope left, and the first its steepest. Goodfellow et al. 2014,
    section 3.
    """
    return F.softplus(-fake).mean()


def gradient_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """R1: the squared slope of the judge at real data, |grad D|², as a mean over the batch. ().

    real: (B, ...), with requires_grad; logits: of the judge for it, one each. Where maker and data agree, the judge
    shall be flat; without this the two circle each other. Mescheder et al. 2018, eq. 9 (gamma / 2 is the caller's).
    """
    slope, = torch.autograd.grad(logits.sum(), real, create_graph=True)                   # (B, ...)
    return slope.flatten(1).square().sum(1).mean()


# --- Training -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class GanConfig:
    """How to train a pair. Raises ValueError for values out of range."""

    steps: int
    batch: int = 256
    lr: float = 1e-3
    momentum: float = 0.0    # Adam's beta_1: none, for the target moves
    r1: float = 0.005        # gamma of the gradient penalty; 0: without
    ema: float = 0.995
    seed: int = 0

    def __post_init__(self):
        if (self.steps < 1 or self.batch < 1 or not self.lr > 0 or not self.r1 >= 0
                or not 0 <= self.ema < 1 or not 0 <= self.momentum < 1):
            raise ValueError(f"expected steps and batch >= 1, lr > 0, r1 >= 0, 0 <= ema < 1 and 0 <= momentum < 1, "
                             f"got {self}")


class GanProgress(NamedTuple):
    """What `train_gan` yields after a step."""

    step: int
    judge_loss: float
    maker_loss: float
    maker: nn.Module    # as it is
    ema: nn.Module      # averaged


def train_gan(maker: nn.Module, judge: nn.Module, real: Callable[[int, Generator], Tensor],
              config: GanConfig) -> Iterator[GanProgress]:
    """Train the two against each other, one step each in turn.

    maker: (B, maker.noise) standard normal -> data; judge: data -> logits (B, 1); real: draws a batch of data. All
    randomness of step k comes from a generator seeded with (seed, k). Raises FloatingPointError at the first loss that
    is not finite.
    """
    ema = copy.deepcopy(maker).requires_grad_(False).eval()
    betas = config.momentum, 0.99
    makes, judges = (torch.optim.Adam(net.parameters(), config.lr, betas) for net in (maker, judge))
    for step in range(config.steps):
        generator = Generator().manual_seed(config.seed * 2**32 + step)
        x = real(config.batch, generator).requires_grad_(config.r1 > 0)
        noise = torch.randn(2, config.batch, maker.noise, generator=generator)
        with torch.no_grad():
            fake = maker(noise[0])
        logits = judge(x)
        judge_loss = discriminator_loss(logits, judge(fake))
        penalty = config.r1 / 2 * gradient_penalty(logits, x) if config.r1 else 0.0
        judges.zero_grad()
        (judge_loss + penalty).backward()
        judges.step()

        judge.requires_grad_(False)    # the maker's turn
        maker_loss = generator_loss(judge(maker(noise[1])))
        makes.zero_grad()
        maker_loss.backward()
        makes.step()
        judge.requires_grad_(True)
        ema_update(ema, maker, config.ema, step)
        if not torch.isfinite(judge_loss + maker_loss):
            raise FloatingPointError(f"losses are {judge_loss.item()} and {maker_loss.item()} at step {step}")
        yield GanProgress(step + 1, judge_loss.item(), maker_loss.item(), maker, ema)


# --- Networks of the plane ------------------------------------------------------------------------------------------

def perceptron(inputs: int, outputs: int, activation: type[nn.Module], width: int = 128) -> nn.Sequential:
    """Three hidden layers: (B, inputs) -> (B, outputs)."""
    sizes = [inputs, width, width, width]
    hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class PlaneMaker(nn.Module):
    """Noise (B, 2) -> points (B, 2)."""

    noise = 2

    def __init__(self):
        super().__init__()
        self.net = perceptron(self.noise, 2, nn.ReLU)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class PlaneJudge(nn.Module):
    """Points (B, 2) -> logits (B, 1), high for real ones. waves: of the points, as `PlaneDenoiser` has them."""

    def __init__(self, waves: bool = False):
        super().__init__()
        self.waves = waves
        self.net = perceptron(18 if waves else 2, 1, nn.LeakyReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(wavy_points(x) if self.waves else x)


class PlaneDenoiser(nn.Module):
    """Points x (B, 2) and t () or (B,) -> the noise in x (B, 2). Where all is noise, x itself is the first guess."""

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.register_buffer("alpha_bar", schedule.alpha_bar.float(), persistent=False)
        self.net = perceptron(18 + 32, 2, nn.SiLU)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        a = self.alpha_bar[t][:, None]
        told = torch.cat([wavy_points(x), timestep_embedding(t, 32)], 1)                  # (B, 50)
        return (1 - a).sqrt() * x + a.sqrt() * self.net(told)


def wavy_points(x: Tensor) -> Tensor:
    """Points (B, 2), and their sines and cosines at four frequencies: (B, 18).

    A small net is slow to find fine detail in a bare coordinate: Tancik et al. 2020 (arXiv:2006.10739).
    """
    angles = torch.cat([x * 2**k for k in range(4)], 1)                                   # (B, 8)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


# --- Networks of little worlds --------------------------------------------------------------------------------------

class LittleMaker(nn.Module):
    """Noise (B, 32) -> pictures (B, 3, 16, 16) in [-1, 1]. After DCGAN, Radford et al. 2015 (arXiv:1511.06434)."""

    noise = 32

    def __init__(self, width: int = 96):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(self.noise, 16 * width), nn.Unflatten(1, (width, 4, 4)), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width // 3, 3, padding=1), nn.BatchNorm2d(width // 3),
            nn.ReLU(), nn.Conv2d(width // 3, 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class LittleJudge(nn.Module):
    """Pictures (B, 3, 16, 16) -> logits (B, 1), high for real ones."""

    def __init__(self, width: int = 40):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),               # (B, w, 8, 8)
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),       # (B, 2w, 4, 4)
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),   # (B, 4w, 2, 2)
            nn.Flatten(), nn.Linear(16 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
