"""The autoencoder's loss by hand, its training, and the training of the feature network."""
import random
from dataclasses import replace

import pytest
import torch

from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig
from ldm_edu.perceptual import LPIPS, FeatureNet, unit_features
from ldm_edu.recipes.train_autoencoder import FirstStage, LossWeights, pixel_weights
from ldm_edu.recipes.train_features import FeatureTeacher, colours_of
from ldm_edu.support.files import save_weights
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.tiny_worlds.scenes import make_scene
from ldm_edu.tiny_worlds.things import CLASSES, COLOURS
from ldm_edu.training import TrainConfig, train

SMALL = AutoencoderConfig(channels=(8, 16), layers=1, groups=4)


def pair(size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, size, size, generator=g) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def scene_with(seed):
    """A scene of one big thing, as its painting and what a person would call a wrong picture of it."""
    rng = random.Random(seed)
    while len((scene := make_scene(rng.randrange(10**8, 2 * 10**8))).things) != 1 or scene.things[0].size != "big":
        pass
    return scene


def other(values, not_this, rng):
    return rng.choice([value for value in values if value != not_this])


def first_stage(**weights):
    torch.manual_seed(0)
    net = LPIPS(FeatureNet((4, 6)), [torch.ones(4), torch.ones(6)])
    return FirstStage(Autoencoder(SMALL), net, LossWeights(**weights))


def test_losses_by_hand():
    model = first_stage(l1=3, l2=5, perceptual=7, kl=11).eval()
    x, _ = pair(16)
    pixel_weight = torch.ones(2, 1, 16, 16)
    pixel_weight[:, :, :4] = 4
    parts = model(x, torch.Generator().manual_seed(1), pixel_weight)
    mean, logvar = model.autoencoder.encode(x)
    z = torch.distributions.Normal(mean, logvar.exp().sqrt())
    decoded = model.autoencoder.decode(
        mean + z.stddev * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)))
    w = pixel_weight.expand_as(x) / pixel_weight.mean()
    prior = torch.distributions.Normal(0, 1)
    expected = {"l1": 3 * (w * (decoded - x).abs()).mean(), "l2": 5 * (w * (decoded - x)**2).mean(),
                "perceptual": 7 * model.lpips(decoded, x).mean(),
                "kl": 11 * torch.distributions.kl_divergence(z, prior).mean()}
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name], msg=name)


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
    """From step 2 on, by the generator that `train` makes for a step; also of a run with another seed."""
    model = first_stage(adversarial=1.0, adversarial_start=2)
    x, _ = pair(32)
    for seed in (0, 7):
        seen = [model(x, torch.Generator().manual_seed(seed * 2**32 + step))["adversarial"].item() for step in range(4)]
        assert seen[:2] == [0.0, 0.0] and all(seen[2:])


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

    with pytest.raises(FloatingPointError, match=r"by step 6; last good checkpoint: .*state.safetensors"):
        for _ in train(first_stage(), loss_fn, TrainConfig(10, save_every=4), state):
            pass
    *_, last = train(first_stage(), lambda m, g: m(x, g), TrainConfig(5, save_every=4), state, resume=True)
    assert last.step == 5


def test_pixel_weights_count_things_more_and_small_ones_most():
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
        save_weights(FeatureNet(), path)
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(error, match="model.safetensors"):
        LPIPS.tiny(path)
