"""LPIPS against the `lpips` package and by hand, its verdicts on distortions, and the discriminator's losses."""
import random
import warnings
from dataclasses import replace

import lpips
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm_edu.autoencoder import AutoencoderConfig
from ldm_edu.perceptual import (
    LPIPS,
    FeatureNet,
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    hinge_loss,
    unit_features,
)
from ldm_edu.tiny_worlds.datasets import to_tensor
from ldm_edu.tiny_worlds.landscapes import paint
from ldm_edu.tiny_worlds.scenes import KINDS, make_scene
from ldm_edu.tiny_worlds.things import COLOURS

SMALL = AutoencoderConfig(channels=(8, 16), layers=1, groups=4)


def pair(size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, size, size, generator=g) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


# --- LPIPS ----------------------------------------------------------------------------------------------------------

def test_distance_by_hand():
    """Loops over pixels and channels, on a net of two stages and weights that are not all alike."""
    torch.manual_seed(0)
    net = FeatureNet((4, 6))
    weights = [torch.rand(4), torch.rand(6)]
    x, y = pair(8)
    total = torch.zeros(2)
    with torch.no_grad():
        for a, b, w in zip(net(x), net(y), weights):
            for item in range(2):
                height, width = a.shape[2:]
                for row in range(height):
                    for column in range(width):
                        u, v = a[item, :, row, column], b[item, :, row, column]
                        u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
                        total[item] += sum(w[c] * (u[c] - v[c])**2 for c in range(len(w))) / (height * width)
    torch.testing.assert_close(LPIPS(net, weights)(x, y), total)


class PackagesFeatures(nn.Module):
    """The feature maps that the `lpips` package compares."""

    def __init__(self, reference):
        super().__init__()
        self.scale, self.net, self.channels = reference.scaling_layer, reference.net, reference.chns

    def forward(self, x):
        return list(self.net(self.scale(x)))


def test_distance_equals_the_lpips_package():
    """Values and gradients, over an AlexNet with random weights (nothing is downloaded), and the published weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # about torchvision's argument names
        torch.manual_seed(0)
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    ours = LPIPS(PackagesFeatures(reference), [lin.model[1].weight.data.flatten() for lin in reference.lins])
    x, y = pair()
    expected = reference(x, y).flatten()
    assert expected.min() > 1e-4    # random features tell them apart as well
    torch.testing.assert_close(ours(x, y), expected, atol=0, rtol=1e-5)
    x.requires_grad_(True)
    gradients = [torch.autograd.grad(distance(x, y).sum(), x)[0] for distance in (ours, reference)]
    torch.testing.assert_close(*gradients, atol=1e-5 * gradients[1].abs().max().item(), rtol=1e-4)


def test_distance_is_a_distance():
    distance = LPIPS.tiny()
    x, y = pair()
    assert torch.equal(distance(x, x), torch.zeros(2))
    torch.testing.assert_close(distance(x, y), distance(y, x))
    assert (distance(x, y) > 0).all() and not any(p.requires_grad for p in distance.parameters())


def test_no_gradient_is_nan_where_features_are_zero():
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    unit_features(features).sum().backward()
    assert torch.isfinite(features.grad).all()


# --- What it says of distortions ------------------------------------------------------------------------------------

def scene_with(seed):
    """A scene of one big thing, as its painting and what a person would call a wrong picture of it."""
    rng = random.Random(seed)
    while len((scene := make_scene(rng.randrange(10**8, 2 * 10**8))).things) != 1 or scene.things[0].size != "big":
        pass
    return scene


def draw(scene, **change):
    """The scene as an image (1, 3, 64, 64), with attributes of its thing changed."""
    return to_tensor(paint(replace(scene, things=(replace(scene.things[0], **change),)), 64, 64)[0])[None]


def other(values, not_this, rng):
    return rng.choice([value for value in values if value != not_this])


def distortions(seed):
    """Pairs (name, original, minded less, minded more): the first of each pair has the LARGER squared error.

    A mild distortion (every pixel moved, brightened, or made noisy) is made just strong enough for that.
    """
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    scene = scene_with(seed)
    thing, x = scene.things[0], draw(scene)
    noise = torch.randn(x.shape, generator=g)
    worse = {"another kind": draw(scene, kind=other(KINDS, thing.kind, rng)),
             "another colour": draw(scene, colour=other(COLOURS, thing.colour, rng)),
             "nothing there": to_tensor(paint(replace(scene, things=()), 64, 64)[0])[None],
             "blur": F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="bilinear")}
    shifted = torch.roll(x, 1, dims=3)
    shifted[..., 0] = x[..., 0]
    for name, bad in worse.items():
        mse = F.mse_loss(bad, x)
        brighter = x + 1.05 * mse.sqrt()
        yield f"brighter / {name}", x, brighter.clamp(-1.9, 1.9), bad
        yield f"noise / {name}", x, x + 1.05 * mse.sqrt() * noise / noise.square().mean().sqrt(), bad
        if F.mse_loss(shifted, x) > mse:
            yield f"shift / {name}", x, shifted, bad


def test_it_ranks_distortions_as_a_person_would():
    distance, right, count = LPIPS.tiny(), {}, {}
    for seed in range(24):
        for name, x, mild, bad in distortions(seed):
            assert F.mse_loss(mild, x) > F.mse_loss(bad, x)    # L2 prefers the wrong one, every time
            right[name] = right.get(name, 0) + int(distance(x, mild) < distance(x, bad))
            count[name] = count.get(name, 0) + 1
    for name in right:
        print(f"{name}: {right[name]} of {count[name]}")
    assert sum(right.values()) > 0.75 * sum(count.values())


# --- The discriminator ----------------------------------------------------------------------------------------------

def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert adversarial_loss(fake).item() == pytest.approx(2 / 3)


def test_adaptive_weight_makes_gradients_equally_long():
    last = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    first, second = (3 * last).sum(), (0.01 * last**2).sum()
    weight = adaptive_weight(first, second, last)
    expected = (18**0.5) / (0.02 * 5**0.5 + 1e-4)
    assert weight.item() == pytest.approx(expected) and not weight.requires_grad
    assert adaptive_weight(first, 0 * second, last, most=5.0) == 5.0


def test_a_logit_sees_34_pixels():
    judge = PatchDiscriminator(8, layers=2).double()
    for module in judge.modules():
        if isinstance(module, torch.nn.GroupNorm):    # which looks everywhere
            module.forward = lambda x: x
    x = torch.zeros(1, 3, 96, 96, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(0))
    x.requires_grad_(True)
    logits = judge(x)
    grad, = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    seen = (grad.abs().sum((0, 1)) > 0).any(0).nonzero().flatten()
    assert seen.max() - seen.min() + 1 == 34


def test_the_slopes_are_patchgans():
    """Isola et al. 2017, appendix 6.1: leaky ReLUs with slope 0.2."""
    slopes = [part.negative_slope for part in PatchDiscriminator(layers=3).modules() if isinstance(part, nn.LeakyReLU)]
    assert slopes == [0.2] * 4
