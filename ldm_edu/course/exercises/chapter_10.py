"""Exercises of chapter 10: Fréchet distance, recall, the generator's loss, modes counted."""
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 10.1: the distance of two Gaussians without correlations

def _frechet(mean: Tensor, std: Tensor, mean_2: Tensor, std_2: Tensor) -> Tensor:
    return (mean - mean_2).square().sum() + (std - std_2).square().sum()


def _frechet_cases() -> list[tuple]:
    return [(_randn(d, seed=d), 0.3 + _randn(d, seed=d + 1).abs(), _randn(d, seed=d + 2), 0.5 + _randn(d, seed=3).abs())
            for d in (1, 3, 6)]


# --- 10.2: recall

def _reach(points: Tensor, k: int) -> Tensor:
    """Distance to the k-th neighbour; the 0th is the point itself."""
    return torch.cdist(points, points).sort(1).values[:, k]


def _share(points: Tensor, balls: Tensor, k: int) -> Tensor:
    return (torch.cdist(points, balls) <= _reach(balls, k)).any(1).double().mean()


def _recall(real: Tensor, fake: Tensor, k: int) -> Tensor:
    return _share(real, fake, k)


def _recall_cases() -> list[tuple]:
    """Fakes in one part of the real cloud, and some strays."""
    cases = []
    for seed, k in ((0, 1), (5, 2), (9, 3)):
        real, fake = _randn(40, 2, seed=seed), 0.4 * _randn(25, 2, seed=seed + 1) + 0.5
        cases.append((real.double(), torch.cat([fake, 3 + _randn(6, 2, seed=seed + 2)]).double(), k))
    return cases


# --- 10.3: what the generator minimises

def _maker_loss(logits: Tensor) -> Tensor:
    return F.softplus(-logits).mean()


def _maker_cases() -> list[tuple]:
    return [(3 * _randn(8, 1, seed=0) - 1,), (_randn(5, 1, seed=1) + 2,)]


# --- 10.4: modes that are covered

def _modes(x: Tensor, centres: Tensor, radius: float, least: int) -> int:
    distance, mode = torch.cdist(x, centres).min(1)
    return int((torch.bincount(mode[distance < radius], minlength=len(centres)) >= least).sum())


def _modes_cases() -> list[tuple]:
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0], [8.0, 0.0], [8.0, 4.0]])
    counts = (30, 12, 5, 1, 0, 0)
    near = torch.cat([centre + 0.3 * _randn(count, 2, seed=i).clamp(-1, 1)
                      for i, (centre, count) in enumerate(zip(centres, counts))])
    strays = torch.tensor([[8.0, 1.5]]) + 0.1 * _randn(20, 2, seed=9)
    just_beyond = centres[3] + torch.tensor([[0.78, 0.0]]).expand(6, -1)
    x = torch.cat([near, strays, just_beyond])
    return [*((x, centres, 0.7, least) for least in (2, 5, 20)), (x, centres, 3.4, 20)]    # the last: circles overlap


EXERCISES = {
    "10.1": Exercise(
        right=_frechet,
        cases=_frechet_cases,
        hint="Without correlations the formula falls apart: per dimension, the difference of the means squared plus "
             "the difference of the standard deviations squared; all added.",
        mistakes={
            "You compare variances. In the formula σ² + σ'² - 2σσ' = (σ - σ')², it is the deviations that differ.":
                lambda m, s, n, r: (m - n).square().sum() + (s**2 - r**2).square().sum(),
            "You take the root at the end. The distance as everybody reports it is the square, without the root.":
                lambda m, s, n, r: _frechet(m, s, n, r).sqrt(),
            "You forgot the means.": lambda m, s, n, r: _frechet(0 * m, s, 0 * n, r),
            "You forgot the spreads: a cloud shrunk to its centre would have a distance of 0.":
                lambda m, s, n, r: (m - n).square().sum(),
            "You add the variances and do not take off what they share, 2σσ': a cloud would be far from itself.":
                lambda m, s, n, r: (m - n).square().sum() + (s**2 + r**2).sum(),
            "The squares are missing.": lambda m, s, n, r: (m - n).abs().sum() + (s - r).abs().sum()}),
    "10.2": Exercise(
        right=_recall,
        cases=_recall_cases,
        hint="A ball around each *fake* point, to its k-th neighbour among the fakes; the share of *real* points in a "
             "ball.",
        mistakes={
            "That is precision: the share of fakes in the balls of the real. Exchange the two.":
                lambda real, fake, k: _share(fake, real, k),
            "Each point is its own nearest neighbour, at distance 0. Your k-th is the one before.":
                lambda real, fake, k: _share(real, fake, k - 1),
            "Your balls reach one neighbour too far.": lambda real, fake, k: _share(real, fake, k + 1),
            "Your balls stand around the real points. That is coverage, not recall: one stray fake cannot fill it.":
                lambda real, fake, k: (torch.cdist(real, fake).amin(1) <= _reach(real, k)).double().mean(),
            "You count. A share is asked for.": lambda real, fake, k: len(real) * _share(real, fake, k)}),
    "10.3": Exercise(
        right=_maker_loss,
        cases=_maker_cases,
        hint="-log D of the generated, with D = sigmoid(logit), as a mean.",
        mistakes={
            "That is log(1 - D), which saturates: where the judge is sure, it has no slope left.":
                lambda logits: -F.softplus(logits).mean(),
            "That is what the judge pays for fakes. The generator wants the opposite.":
                lambda logits: F.softplus(logits).mean(),
            "The sign: less loss must mean a judge more deceived.": lambda logits: -_maker_loss(logits),
            "You add up where the mean is asked for.": lambda logits: len(logits) * _maker_loss(logits),
            "You forget the logarithm.": lambda logits: -torch.sigmoid(logits).mean(),
            "That is the loss for a hinge, minus the mean logit. Put it through the sigmoid and the logarithm.":
                lambda logits: -logits.mean()}),
    "10.4": Exercise(
        right=_modes,
        cases=_modes_cases,
        hint="Nearest centre of each point; drop the points beyond the radius; count the centres that keep `least` or "
             "more.",
        mistakes={
            "You count points that lie nowhere: beyond the radius of their nearest centre they belong to no mode.":
                lambda x, c, r, n: _modes(x, c, float("inf"), n),
            "You count a point for every mode within the radius. It belongs to the nearest alone.":
                lambda x, c, r, n: int(((torch.cdist(x, c) < r).sum(0) >= n).sum()),
            "One point is not a mode: `least` of them are.": lambda x, c, r, n: _modes(x, c, r, 1),
            "More than `least`, you say; exactly `least` is enough.": lambda x, c, r, n: _modes(x, c, r, n + 1),
            "You count points, not modes.":
                lambda x, c, r, n: int((torch.cdist(x, c).amin(1) < r).sum()),
            "You compare the squared distance with the radius.":
                lambda x, c, r, n: _modes(x, c, r**0.5, n),
            "You count the modes that are missed.": lambda x, c, r, n: len(c) - _modes(x, c, r, n)}),
}
