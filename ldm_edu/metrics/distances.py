"""How far apart two sets of pictures are: Fréchet distance, precision, recall and coverage of their features.

Each set is a cloud of points, real (N, D) and generated (M, D). Published figures use the features of Inception, which
was trained on photographs; ours come from a net that was trained on Tiny Worlds, and compare only with each other.
"""
from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..perceptual import FeatureNet


class PrecisionRecall(NamedTuple):
    """Shares of two sets of points that lie within each other."""

    precision: float    # of the generated, among the real
    recall: float       # of the real, among the generated


@functools.cache
def feature_net() -> FeatureNet:
    """Load the net behind `features`, once."""
    return FeatureNet.load().eval()


@torch.no_grad()
def features(images: Tensor, batch: int = 128) -> Tensor:
    """Average the net's last maps over the pixels: (B, 3, H, W) in [-1, 1], sides of at least 8 -> (B, 96)."""
    return torch.cat([feature_net()(part.cpu().float())[-1].mean((2, 3)) for part in images.split(batch)])


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Compare the Gaussians fitted to points (N, D) and (M, D): |mu - mu'|² + tr(C + C' - 2 (C C')^½).

    The fewer the points, the larger: compare figures of equal N and M. Heusel et al. 2017 (arXiv:1706.08500), eq. 6.
    """
    (mean, root), (mean_2, root_2) = _fitted(real), _fitted(fake)
    traces = root.square().sum() + root_2.square().sum()                                  # tr C = |C^½|²
    overlap = torch.linalg.matrix_norm(root @ root_2, "nuc")                              # tr (C C')^½
    return max(0.0, ((mean - mean_2).square().sum() + traces - 2 * overlap).item())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Measure which share of `fake` lies among `real`, and the reverse: points (N, D) and (M, D), more than k of each.

    A point lies among a set if it is in a ball around one of the set's points that reaches to that point's k-th
    neighbour in the set. Kynkäänniemi et al. 2019 (arXiv:1904.06991), eq. 1 to 3.
    """
    apart = torch.cdist(real.cpu().double(), fake.cpu().double())                                     # (N, M)
    inside = [(apart <= radii(real, k)[:, None]).any(0), (apart <= radii(fake, k)).any(1)]
    return PrecisionRecall(*(share.double().mean().item() for share in inside))


def coverage(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Measure which share of real points (N, D) has a generated one (M, D) within reach of its k-th neighbour: 0...1.

    Unlike recall it draws no balls around generated points, so one outlier among them cannot cover a whole region.
    Naeem et al. 2020 (arXiv:2002.09797), eq. 6.
    """
    nearest = torch.cdist(real.cpu().double(), fake.cpu().double()).amin(1)                           # (N,)
    return (nearest <= radii(real, k)).double().mean().item()


def radii(points: Tensor, k: int) -> Tensor:
    """Measure how far each of (N, D) points is from its k-th neighbour, itself not counted: (N,)."""
    points = points.cpu().double()    # a Mac's GPU has no float64
    apart = torch.cdist(points, points)
    return apart.fill_diagonal_(torch.inf).kthvalue(k, dim=1).values


def _fitted(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the root of the covariance (D, D), in double precision."""
    points = points.cpu().double()
    values, vectors = torch.linalg.eigh(torch.cov(points.T).view(points.shape[1], -1))
    return points.mean(0), (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Measure the peak signal-to-noise ratio of pictures (B, 3, H, W), clipped to [-1, 1]: (B,), in dB."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)
