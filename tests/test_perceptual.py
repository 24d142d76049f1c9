"""LPIPS against the `lpips` package and by hand, its verdicts on distortions, and the discriminator's losses."""
import random
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import VGG16_Weights, vgg16

from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig
from ldm_edu.perceptual import (
    LPIPS,
    FeatureNet,
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    hinge_loss,
    unit_features,
)
from ldm_edu.recipes.train_autoencoder import FirstStage, LossWeights, pick_occluded, pixel_weights
from ldm_edu.recipes.train_features import FeatureTeacher, colours_of
from ldm_edu.studies.vgg import VGGFeatures
from ldm_edu.tiny_worlds.datasets import render, to_float, to_tensor
from ldm_edu.tiny_worlds.landscapes import paint
from ldm_edu.tiny_worlds.scenes import KINDS, make_scene
from ldm_edu.tiny_worlds.things import CLASSES, COLOURS
from ldm_edu.training import TrainConfig, train

SMALL = AutoencoderConfig(channels=(8, 16), layers=1, groups=4)


def pair(size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, size, size, generator=g) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


# --- LPIPS ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def reference():
    """The `lpips` package with its published weights, on a VGG16 of random weights: nothing is downloaded."""
    import lpips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # about torchvision's argument names
        torch.manual_seed(0)
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()


@pytest.fixture
def hub(reference, tmp_path, monkeypatch):
    """A torch cache that holds the reference's VGG16, under the name that torchvision gives the real one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    layers = {f"features.{i}": layer for part in range(1, 6) for i, layer in
              getattr(reference.net, f"slice{part}").named_children() if isinstance(layer, torch.nn.Conv2d)}
    state = {f"{name}.{kind}": getattr(layer, kind).data for name, layer in layers.items()
             for kind in ("weight", "bias")}
    torch.save(state, folder / VGG16_Weights.IMAGENET1K_V1.url.rsplit("/")[-1])
    return folder


@pytest.mark.parametrize("size", (64, 80))
def test_vgg_equals_the_lpips_package(reference, hub, size):
    ours = LPIPS.vgg()
    x, y = pair(size)
    expected = reference(x, y).flatten()
    assert expected.min() > 1e-3    # random features tell them apart as well
    torch.testing.assert_close(ours(x, y), expected, atol=0, rtol=1e-5)
    x.requires_grad_(True)
    ours_grad, = torch.autograd.grad(ours(x, y).sum(), x)
    expected_grad, = torch.autograd.grad(reference(x, y).sum(), x)
    torch.testing.assert_close(ours_grad, expected_grad, atol=1e-5 * expected_grad.abs().max().item(), rtol=1e-4)


def test_vgg_offline_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(FileNotFoundError, match=r"vgg16-\w+\.pth.*no network.*LPIPS\.tiny\(\), the default"):
        LPIPS.vgg()


def test_vgg_layers_are_torchvisions():
    torch.manual_seed(0)
    theirs, ours = vgg16(weights=None).features.eval(), VGGFeatures()
    ours.layers.load_state_dict({k: v for k, v in theirs[:30].state_dict().items()})
    x, _ = pair(32)
    expected = theirs[:30]((x - ours.shift) / ours.scale)
    torch.testing.assert_close(ours(x)[-1], expected)


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


def test_distance_is_a_distance():
    lpips = LPIPS.tiny()
    x, y = pair()
    assert torch.equal(lpips(x, x), torch.zeros(2))
    torch.testing.assert_close(lpips(x, y), lpips(y, x))
    assert (lpips(x, y) > 0).all() and not any(p.requires_grad for p in lpips.parameters())


def test_no_gradient_is_nan_where_features_are_zero():
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    unit_features(features).sum().backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("images, message", [
    (torch.zeros(3, 64, 64), "shapes"), (torch.zeros(1, 1, 64, 64), "shapes"), (torch.zeros(2, 3, 32, 32), "shapes"),
    (torch.full((2, 3, 64, 64), 255.0), r"up to 255, expected pixels in \[-1, 1\]")])
def test_lpips_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        LPIPS.tiny()(torch.zeros(2, 3, 64, 64), images)


@pytest.mark.parametrize("weights", ([torch.ones(4)], [torch.ones(4), torch.ones(5)], [-torch.ones(4), torch.ones(6)]))
def test_lpips_refuses_weights(weights):
    with pytest.raises(ValueError, match="one vector for each"):
        LPIPS(FeatureNet((4, 6)), weights)


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
    lpips, right, count = LPIPS.tiny(), {}, {}
    for seed in range(24):
        for name, x, mild, bad in distortions(seed):
            assert F.mse_loss(mild, x) > F.mse_loss(bad, x)    # L2 prefers the wrong one, every time
            right[name] = right.get(name, 0) + int(lpips(x, mild) < lpips(x, bad))
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


# --- The first stage ------------------------------------------------------------------------------------------------

def first_stage(**weights):
    torch.manual_seed(0)
    net = LPIPS(FeatureNet((4, 6)), [torch.ones(4), torch.ones(6)])
    return FirstStage(Autoencoder(SMALL), net, LossWeights(**weights))


def test_losses_by_hand():
    model = first_stage(l1=3, l2=5, perceptual=7, kl=11).eval()
    x, _ = pair(16)
    importance = torch.ones(2, 1, 16, 16)
    importance[:, :, :4] = 4
    parts = model(x, torch.Generator().manual_seed(1), importance)
    mean, logvar = model.autoencoder.encode(x)
    z = torch.distributions.Normal(mean, logvar.exp().sqrt())
    decoded = model.autoencoder.decode(
        mean + z.stddev * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)))
    w = importance.expand_as(x) / importance.mean()
    prior = torch.distributions.Normal(0, 1)
    expected = {"l1": 3 * (w * (decoded - x).abs()).mean(), "l2": 5 * (w * (decoded - x)**2).mean(),
                "perceptual": 7 * model.lpips(decoded, x).mean(),
                "kl": 11 * torch.distributions.kl_divergence(z, prior).mean()}
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name], msg=name)


def test_the_anchor_counts_how_far_scaled_latents_have_moved():
    model = first_stage(anchor=3.0).eval()
    x, _ = pair(16)
    before = model.autoencoder.to_latent(x).detach()
    parts = [model(x, torch.Generator().manual_seed(1), None, before + moved) for moved in (0.0, 0.5)]
    assert parts[0]["anchor"] == 0 and parts[1]["anchor"].item() == pytest.approx(3 * 0.25, rel=1e-4)
    assert gradients(model, parts[1]["anchor"]) == {"autoencoder"}
    assert "anchor" not in model(x, torch.Generator().manual_seed(1))


def test_half_of_a_batch_is_crowded():
    crowded = torch.zeros(1000, dtype=torch.bool)
    assert pick_occluded(crowded, 64, torch.Generator().manual_seed(0)).unique().numel() > 50    # none: any
    crowded[::10] = True
    picks = torch.stack([pick_occluded(crowded, 100, torch.Generator().manual_seed(i)) for i in range(50)])
    assert crowded[picks[:, :50]].all()
    assert crowded[picks[:, 50:]].float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert picks[:, :50].unique().numel() > 95    # of the 100


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_side_trains_its_own_weights():
    model = first_stage(adversarial=1.0)
    x, _ = pair(32)
    g = torch.Generator().manual_seed(0)
    for p in model.autoencoder.parameters():
        p.data.add_(0.05 * torch.randn(p.shape, generator=g))    # conv2 starts at zero
    assert gradients(model, model(x, g)["discriminator"]) == {"discriminator"}
    assert gradients(model, model(x, g)["adversarial"]) == {"autoencoder"}
    assert gradients(model, model(x, g)["perceptual"]) == {"autoencoder"}


def test_the_discriminator_is_listened_to_late():
    model = first_stage(adversarial=1.0, adversarial_start=2)
    x, _ = pair(32)
    seen = [model(x, torch.Generator().manual_seed(0))["adversarial"].item() for _ in range(4)]
    assert seen[:2] == [0.0, 0.0] and all(seen[2:])
    model.eval()
    model(x, torch.Generator().manual_seed(0))
    assert model.steps == 4    # evaluation does not count


def test_the_adversarial_loss_has_the_weight_it_claims():
    """Its gradient at the last layer is `adversarial` times as long as that of the reconstruction losses."""
    model = first_stage(adversarial=0.5)
    x, _ = pair(32)
    parts = model(x, torch.Generator().manual_seed(0))
    last = model.autoencoder.decoder.conv_out.weight
    lengths = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm().item()
               for loss in (parts["l1"] + parts["l2"] + parts["perceptual"], parts["adversarial"])]
    assert lengths[1] == pytest.approx(0.5 * lengths[0], rel=1e-2)


def test_training_with_every_loss_resumes_exactly(tmp_path):
    config = TrainConfig(8, lr=1e-3, warmup=1, save_every=4)
    x, _ = pair(16)

    def loss_fn(model, generator):
        return model(x, generator)

    def stage():
        return first_stage(adversarial=0.5, adversarial_start=3)

    *_, whole = train(stage(), loss_fn, config, tmp_path / "a.safetensors")
    for progress in train(stage(), loss_fn, config, tmp_path / "b.safetensors"):
        if progress.step == 5:
            break
    *_, resumed = train(stage(), loss_fn, config, tmp_path / "b.safetensors", resume=True)
    assert resumed.losses == whole.losses and resumed.losses["adversarial"] != 0


def test_nan_stops_and_keeps_the_checkpoint(tmp_path):
    state = tmp_path / "state.safetensors"
    x, _ = pair(16)

    def loss_fn(model, generator):
        if generator.initial_seed() == 6:
            model.autoencoder.decoder.conv_out.bias.data.fill_(torch.nan)
        return model(x, generator)

    with pytest.raises(FloatingPointError, match=r"at step 6; last good checkpoint: .*state.safetensors"):
        for _ in train(first_stage(), loss_fn, TrainConfig(10, save_every=4), state):
            pass
    *_, last = train(first_stage(), lambda m, g: m(x, g), TrainConfig(5, save_every=4), state, resume=True)
    assert last.step == 5


def test_perceptual_loss_needs_a_net():
    with pytest.raises(ValueError, match="lpips: got None, but its weight is 0.5"):
        FirstStage(Autoencoder(SMALL))


def test_importance_counts_things_more_and_small_ones_most():
    maps = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)
    assert torch.equal(pixel_weights(maps), torch.tensor([[[[1.0, 1.0], [1.0, 2.2]]]]))     # 0.3 of a quarter
    small = torch.zeros(2, 10, 10, dtype=torch.uint8)
    small[0, :5, 0], small[0, 5:, 9], small[1, 0, 0] = 3, 5, 3
    found = pixel_weights(small)
    assert found.shape == (2, 1, 10, 10) and found[0, 0, 0, 0] == found[0, 0, 9, 9] == 7    # 0.3 of a twentieth each
    assert found[1, 0, 0, 0] == 25 and found[1].sum() == 25 + 99 and found[0].sum() == 70 + 90


def test_feature_teacher_shapes():
    answers = FeatureTeacher(FeatureNet())(torch.zeros(2, 3, 64, 48))
    assert [tuple(a.shape) for a in answers] == [(2, 13, 32, 24), (2, 8, 32, 24), (2, 3), (2, 4), (2, 5)]


def test_colours_of_a_scene():
    scene = scene_with(0)
    thing = scene.things[0]
    twin = replace(thing, place="left", colour=other(COLOURS, thing.colour, random.Random(0)))
    number = CLASSES.index(thing.kind)
    assert colours_of(scene)[number] == list(COLOURS).index(thing.colour)
    assert (colours_of(scene) >= 0).sum() == 1
    assert (colours_of(replace(scene, things=(thing, twin))) == -1).all()    # which one a pixel shows is not said


def test_the_shipped_net_knows_things_from_their_background():
    """Nearest of two mean features, fitted on some scenes and tried on others: better than pixels allow."""
    images, maps = render("validation", 40)
    images, things = to_float(images), (maps[:, ::4, ::4] > CLASSES.index("sun or moon")).flatten()

    def right(features):
        columns = features.movedim(1, -1).flatten(0, 2)
        train, test = columns.chunk(2)
        is_thing, answer = things.chunk(2)
        means = torch.stack([train[is_thing == side].mean(0) for side in (False, True)])
        guess = torch.cdist(test, means).argmin(1).bool()
        return torch.stack([(guess == answer)[answer == side].float().mean() for side in (False, True)]).mean().item()

    with torch.no_grad():
        features = FeatureNet.load()(images)[2]
    assert right(unit_features(features)) > right(images[..., ::4, ::4]) + 0.05
    assert sum(p.numel() for p in FeatureNet().parameters()) * 2 < 2e6    # bytes in the file


@pytest.mark.parametrize("damage, error", [("missing", FileNotFoundError), ("truncated", ValueError)])
def test_a_damaged_feature_net_is_refused(tmp_path, damage, error):
    path = tmp_path / "model.safetensors"
    if damage == "truncated":
        FeatureNet().save(path)
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(error, match="model.safetensors"):
        LPIPS.tiny(path)
