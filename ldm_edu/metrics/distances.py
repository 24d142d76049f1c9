"""How far a set of pictures is from another: Fréchet distance, precision, recall and coverage in a space of features.

No picture is held against a picture: what is compared are two clouds of points, real (N, D) and generated (M, D). The
space is ours (`features`), so that figures compare with each other and with no published one.
"""
from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..perceptual import FeatureNet


class PrecisionRecall(NamedTuple):
    """precision: share of the generated that look like real ones; recall: share of the real that could come out."""

    precision: float
    recall: float


@functools.cache
def feature_net() -> FeatureNet:
    """The net that `features` asks, loaded once. Raises as `FeatureNet.load` does."""
    return FeatureNet.load().eval()


@torch.no_grad()
def features(images: Tensor, batch: int = 128) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], H and W at least 8 -> (B, 96): the net's last maps, averaged over pixels.

    Where the papers ask Inception, a net that saw photographs, this asks our own, which saw worlds. Raises ValueError
    for other shapes.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 8:
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected (batch, 3, H, W), H and W at least 8")
    return torch.cat([feature_net()(part.cpu().float())[-1].mean((2, 3)) for part in images.split(batch)])


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu - mu'|² + tr(C + C' - 2 (C C')^½) of points (N, D) and (M, D): 0 for equal means and covariances.

    The distance of two Gaussians fitted to the clouds; it sees nothing else of their shape. The fewer points, the
    larger: compare figures of equal N and M only. Heusel et al. 2017 (arXiv:1706.08500), eq. 6. Raises ValueError for
    other shapes, for fewer than two points, and for numbers that are not finite.
    """
    _check(real, fake, 2)
    (mean, root), (mean_2, root_2) = _fitted(real), _fitted(fake)
    traces = root.square().sum() + root_2.square().sum()                                  # tr C = |C^½|²
    overlap = torch.linalg.matrix_norm(root @ root_2, "nuc")                              # tr (C C')^½
    return max(0.0, ((mean - mean_2).square().sum() + traces - 2 * overlap).item())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Are the generated real, and are the real generated? Points (N, D) and (M, D), more than k each.

    Around every point of a set a ball that reaches its k-th neighbour in the set: together, where that set may lie.
    precision: share of `fake` in the balls of `real`; recall: of `real` in those of `fake`. Kynkäänniemi et al. 2019
    (arXiv:1904.06991), eq. 1 to 3. Raises ValueError as `frechet_distance` does, and for too few points.
    """
    _check(real, fake, k + 1)
    apart = torch.cdist(real.double(), fake.double())                                     # (N, M)
    inside = [(apart <= radii(real, k)[:, None]).any(0), (apart <= radii(fake, k)).any(1)]
    return PrecisionRecall(*(share.double().mean().item() for share in inside))


def coverage(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Share of the real points (N, D) with a generated one (M, D) among their k nearest, 0...1: modes not forgotten.

    Unlike recall, one stray sample cannot claim a whole region: the balls are the real ones' alone. Naeem et al. 2020
    (arXiv:2002.09797), eq. 6. Raises ValueError as `precision_recall` does.
    """
    _check(real, fake, 1)
    if len(real) <= k:
        raise ValueError(f"real: got {len(real)} points, expected more than k = {k}")
    nearest = torch.cdist(real.double(), fake.double()).amin(1)                           # (N,)
    return (nearest <= radii(real, k)).double().mean().item()


def radii(points: Tensor, k: int) -> Tensor:
    """How far it is from each of (N, D) points to its k-th neighbour, itself not counted: (N,)."""
    apart = torch.cdist(points.double(), points.double())
    return apart.fill_diagonal_(torch.inf).kthvalue(k, dim=1).values


def _fitted(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and root of the covariance, in double precision."""
    values, vectors = torch.linalg.eigh(torch.cov(points.double().T).view(points.shape[1], -1))
    return points.double().mean(0), (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _check(real: Tensor, fake: Tensor, least: int) -> None:
    for name, points in (("real", real), ("fake", fake)):
        if points.ndim != 2 or points.shape[1:] != real.shape[1:] or len(points) < least:
            raise ValueError(f"{name}: got shape {tuple(points.shape)}, expected (points, features), at least {least} "
                             "points and as many features as the other")
        if not points.isfinite().all():
            raise ValueError(f"{name}: holds values that are infinite or not a number")


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture pair (B, 3, H, W) in [-1, 1]; values outside are clipped."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)
