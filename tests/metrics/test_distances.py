"""Distances between clouds, against scipy's matrix root, closed forms of Gaussians, and brute force over every pair."""
import math

import pytest
import torch
from scipy.linalg import sqrtm

from ldm_edu.metrics.distances import coverage, feature_net, features, frechet_distance, precision_recall, radii
from ldm_edu.perceptual import FeatureNet


def cloud(n, d, seed, shift=0.0, stretch=1.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return stretch * torch.randn(n, d, generator=generator) @ mix + shift


@pytest.mark.parametrize("n, m, d", [(200, 150, 5), (20, 30, 40), (50, 60, 1)])
def test_frechet_distance_is_scipys(n, m, d):
    """The paper's formula with the root of the product; also with more features than points."""
    a, b = cloud(n, d, 0).double(), cloud(m, d, 1, shift=0.5).double()
    c, c_2 = torch.cov(a.T).view(d, d), torch.cov(b.T).view(d, d)
    root = torch.from_numpy(sqrtm((c @ c_2 + 1e-12 * torch.eye(d)).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.trace(c + c_2 - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-3 if d > n else 1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_of_two_gaussians_on_a_line():
    """(difference of means)² + (difference of deviations)², by hand: 3² + (4 - 2)²."""
    points = torch.tensor([[-1.0], [1.0]]) / math.sqrt(2)    # mean 0, deviation 1
    assert frechet_distance(2 * points, 4 * points + 3) == pytest.approx(13)


def test_frechet_distance_of_a_cloud_from_itself_is_zero():
    a = cloud(30, 50, 2)
    assert frechet_distance(a, a.flip(0)) < 1e-9 * a.square().sum()


def brute_force(real, fake, k):
    """Every pair in a loop: precision, recall, coverage."""
    def reach(points, i):
        return sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    def inside(x, points):
        return any(math.dist(x, p) <= reach(points, i) for i, p in enumerate(points))

    real, fake = real.tolist(), fake.tolist()
    covered = [min(math.dist(x, f) for f in fake) <= reach(real, i) for i, x in enumerate(real)]
    return (sum(inside(x, real) for x in fake) / len(fake), sum(inside(x, fake) for x in real) / len(real),
            sum(covered) / len(real))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shift, stretch", [(0, 1), (1, 0.3), (0.5, 3), (100, 1)])
def test_precision_recall_and_coverage_are_brute_forces(k, shift, stretch):
    real, fake = cloud(25, 2, 0).double(), cloud(18, 2, 0, shift, stretch).double()
    found = (*precision_recall(real, fake, k), coverage(real, fake, k))
    assert found == pytest.approx(brute_force(real, fake, k))


def test_what_precision_and_recall_distinguish():
    """One mode of two: precise, half recalled. Noise around both: recalled, not precise."""
    modes = torch.tensor([[-20.0, 0.0], [20.0, 0.0]])
    real = torch.cat([mode + cloud(40, 2, 3, stretch=0.1) for mode in modes])
    assert precision_recall(real, real[:40]) == (1, 0.5) and coverage(real, real[:40]) == 0.5
    spread = precision_recall(real, 30 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0)))
    assert spread.precision < 0.1 and spread.recall == 1


def test_points_that_coincide():
    same = torch.zeros(5, 3)
    assert radii(same, 2).tolist() == [0] * 5
    assert precision_recall(same, same) == (1, 1) and coverage(same, same, 2) == 1


def test_features_are_the_last_maps_averaged():
    images = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = torch.stack([FeatureNet.load()(image[None])[-1][0].flatten(1).mean(1) for image in images])
    torch.testing.assert_close(features(images, batch=2), expected)
    assert features(images).shape == (5, 96) and feature_net() is feature_net()
