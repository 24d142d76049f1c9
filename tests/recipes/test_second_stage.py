"""The second stage: its loss, its weights over t, guidance, the three conditions, and the measure of maps."""
import math
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ldm_edu import DATA, autoencoder, clip
from ldm_edu.clip import CLIP, ImageConfig, ImageTransformer, TextTransformer
from ldm_edu.conditioning import MapEncoder, guided
from ldm_edu.losses import latent_loss, logit_normal, loss_weights, stratified
from ldm_edu.metrics.segmenter import mean_iou
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import train_unet as second_stage
from ldm_edu.recipes.profile import Profile
from ldm_edu.recipes.train_unet import CONDITIONS, SecondStage, captioned_batch
from ldm_edu.schedule import Schedule, linear_schedule, scaled_linear_schedule
from ldm_edu.tiny_worlds.captions import make_caption, vocabulary
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.tiny_worlds.scenes import KINDS, make_scene
from ldm_edu.tiny_worlds.things import CLASSES
from ldm_edu.tokenizer import build_tokenizer
from ldm_edu.training import TrainConfig
from ldm_edu.unet import UNet, UNetConfig


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stage() -> SecondStage:
    """The three conditions at their sizes, untrained; the text and image transformers have one block each."""
    tokenizer = build_tokenizer(vocabulary())
    torch.manual_seed(0)
    text = replace(clip.TINY, layers=1, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id)
    image = replace(clip.TINY_IMAGE, layers=1)
    return SecondStage(CLIP(TextTransformer(text), ImageTransformer(image)))


@pytest.fixture(scope="module")
def worlds() -> dict:
    """Two scenes, as each of the three conditions."""
    images, maps = render("validation", 2)
    return {"text": ["a big red boat, by day, on the water", "a cat, at night"], "image": to_float(images), "map": maps}


# ---- The loss ----

class Affine(nn.Module):
    """eps = w x + t / 1000 + the mean of the context: a model whose loss can be written down."""

    def __init__(self, w: float = 0.5):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.w * x + (t / 1000 + context.mean((1, 2)))[:, None, None, None]


def test_the_loss_by_hand():
    """ᾱ is 0.64 at t = 0 and 0.36 at t = 1, so that √ᾱ and √(1 - ᾱ) are 0.8 and 0.6, then 0.6 and 0.8."""
    schedule = Schedule(torch.tensor([0.36, 1 - 0.36 / 0.64]))
    z_0, eps = torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, -1.0, 0.5])
    z_0, eps = z_0.view(1, 1, 2, 2).expand(2, 1, 2, 2), eps.view(1, 1, 2, 2).expand(2, 1, 2, 2)
    context = torch.tensor([0.0, 0.25]).view(2, 1, 1).expand(2, 3, 2)
    found = latent_loss(Affine(), z_0, context, torch.tensor([0, 1]), eps, schedule)
    # z_t: (1.4, -0.8, -0.6, 1.9) and (1.4, -0.6, -0.8, 1.6); guesses: half of it, plus 0, or plus 0.001 + 0.25
    errors = [(-0.3, -0.4, 0.7, 0.45), (-0.049, -0.049, 0.851, 0.551)]
    expected = torch.tensor([sum(e**2 for e in row) / 4 for row in errors])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_loss_of_the_true_noise_is_zero_and_of_silence_one():
    z_0, eps, t = randn(64, 4, 8, 8), randn(64, 4, 8, 8, seed=1), torch.linspace(0, 999, 64).long()
    context, schedule = torch.zeros(64, 1, 8), scaled_linear_schedule()
    told = latent_loss(lambda x, t, c: eps, z_0, context, t, eps, schedule)
    silent = latent_loss(lambda x, t, c: torch.zeros_like(x), z_0, context, t, eps, schedule)
    assert told.shape == (64,) and told.max() == 0 and abs(silent.mean() - 1) < 0.05


def test_gradients_reach_model_and_condition_and_no_pixel():
    """A latent made without a graph, as a cached one is, has no way back to the picture, and the loss asks for none."""
    model, context = Affine(), torch.zeros(2, 3, 4, requires_grad=True)
    z_0, eps = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
    latent_loss(model, z_0, context, torch.tensor([5, 900]), eps, scaled_linear_schedule()).mean().backward()
    assert model.w.grad.abs() > 0 and context.grad.abs().min() > 0 and z_0.grad is None


# ---- Which t, and how much each counts ----

@pytest.mark.parametrize("schedule", [scaled_linear_schedule(), linear_schedule(T=200)], ids=["scaled", "linear"])
def test_emphasis_makes_the_loss_that_of_v(schedule):
    """v = √ᾱ ε - √(1 - ᾱ) x_0 of the truth and of a guess, both from the same x_t: by brute force at all t."""
    eps, guess = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    ratio, x_0 = [], randn(3, 4, 2, 2, seed=2)
    for t in range(schedule.T):
        x_t = schedule.add_noise(x_0, eps, t)
        a, s = schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()
        v = [a * e - s * schedule.x0_from_eps(x_t, e, t) for e in (eps, guess)]
        ratio.append((v[0] - v[1]).square().mean() / (eps - guess).square().mean())
    weight = loss_weights(schedule, most=1e9)
    ratio = torch.stack(ratio)
    torch.testing.assert_close(weight, ratio / ratio.mean(), rtol=2e-3, atol=0)


def test_emphasis_is_cut_and_has_mean_one():
    schedule = scaled_linear_schedule()
    for most in (1.5, 10.0, 100.0):
        weight = loss_weights(schedule, most)
        assert abs(weight.mean() - 1) < 1e-5 and (weight.diff() >= 0).all()
        assert abs(weight.max() / weight[0] - most * schedule.alpha_bar[0]) < 1e-3 * most
    assert (1 / schedule.alpha_bar).max() > 100, "the default cuts something"


def test_stratified_draws_one_of_each_part():
    for count, T in ((8, 1000), (5, 20), (1000, 1000)):
        t = stratified(count, T, torch.Generator().manual_seed(3))
        assert t.dtype == torch.int64 and t.shape == (count,)
        assert sorted((t * count // T).tolist()) == list(range(count))
    firsts = [stratified(8, 8, torch.Generator().manual_seed(seed))[0].item() for seed in range(400)]
    assert all(firsts.count(t) > 20 for t in range(8))    # each place in a batch meets every t
    one = [stratified(1, 10, torch.Generator().manual_seed(seed)).item() for seed in range(400)]
    assert set(one) == set(range(10))


def named(text: str) -> int:
    """How many things a text names, by its words alone."""
    singular = re.findall(rf"\b(?:a|an)(?: \w+)*? (?:{'|'.join(KINDS)})\b", text)
    return len(singular) + sum(n * len(re.findall(rf"\b{word}\b", text)) for n, word in ((2, "two"), (3, "three")))


def has_number(text: str) -> bool:
    return bool(re.search(r"\b(two|three)\b", text))


def test_captioned_batch_adds_captions_of_two_and_three_things_and_no_scene_to_any():
    """Held against captions of scenes as they come: captions of two things must belong to as many scenes of three."""
    scenes = [make_scene(seed) for seed in range(4000)]
    three = [i for i, scene in enumerate(scenes) if len(scene.things) == 3]
    rng = random.Random(0)
    plain = [(len(scenes[i].things), make_caption(scenes[i], rng).text) for _ in range(5) for i in range(4000)]
    as_they_come = [text for _, text in plain]
    batches = [captioned_batch(scenes, three, 64, rng) for _ in range(400)]
    drawn = [(len(scenes[i].things), text) for batch in batches for i, text in zip(*batch, strict=True)]

    def shares(pairs):
        two = [things for things, text in pairs if named(text) == 2]
        return two.count(3) / len(two), sum(named(text) == 3 for _, text in pairs) / len(pairs)

    (extra, threes), (extra_drawn, threes_drawn) = shares(plain), shares(drawn)
    assert 0.01 < extra < 0.08 and abs(extra_drawn - extra) < 0.015
    assert threes < 0.2 and threes_drawn > 0.44
    empty = [things for things, text in drawn if not text]
    assert abs(len(empty) / len(drawn) - 0.3 * 21 / 64) < 0.01
    assert abs(empty.count(3) / len(empty) - len(three) / len(scenes)) < 0.03    # guidance leaves the data as it is
    later = [text for _, texts in batches for text in texts[21:]]
    second = [named(text) for text in later]
    assert set(second) == {2, 3} and abs(second.count(3) / len(second) - 2 / 3) < 0.03
    for many in (2, 3):    # of captions without a number every other one is passed over
        now, before = ([has_number(text) for text in texts if named(text) == many] for texts in (later, as_they_come))
        share = sum(before) / len(before)
        assert share > 0.03 and abs(sum(now) / len(now) - 2 * share / (1 + share)) < 0.03
    few = [scene for scene in scenes if len(scene.things) < 3][:50]
    assert {len(few[i].things) for i in captioned_batch(few, [], 64, rng)[0]} == {1, 2}


def test_stratified_never_rounds_up_to_T(monkeypatch):
    """The largest float32 below 1 as every draw: (63 + it) / 64 is 1 in float32, and a run of hours ended there."""
    largest = 1 - 2**-24
    monkeypatch.setattr(torch, "rand", lambda count, generator: torch.full((count,), largest))
    t = stratified(64, 1000, torch.Generator())
    assert t.max() == 999 and t.unique().numel() == 64


@pytest.mark.parametrize("middle", [0.55, 0.93])
def test_timesteps_are_logit_normal(middle):
    """Quantiles against those of the standard normal distribution; the order stays, the ends stay within 0...T - 1."""
    every = torch.arange(1000)
    t = logit_normal(every, 1000, middle)
    assert t.dtype == torch.int64 and t.min() >= 0 and t.max() <= 999 and (t.diff() >= 0).all()
    for share, z in ((0.5, 0.0), (0.8413, 1.0), (0.0228, -2.0)):
        odds = middle / (1 - middle) * math.exp(0.5 * z)
        assert abs(t[round(1000 * share)].item() - 1000 * odds / (1 + odds)) < 3
    low, high = (310, 770) if middle == 0.55 else (830, 975)
    assert 0.94 < ((t >= low) & (t < high)).float().mean() < 0.98


@pytest.mark.parametrize("warm", [False, True])
def test_the_recipe_meets_every_scene_at_every_t(monkeypatch, warm):
    """Its loss on a stand-in whose error is 1: t of both halves of the batch, the weights, and what is told."""
    met = []

    def error_of_one(unet, z_0, context, t, eps, schedule):
        met.append((t, context))
        return torch.ones(len(t))

    monkeypatch.setattr(second_stage, "cached_latents", lambda images, *_: torch.zeros(len(images), 4, 8, 8))
    monkeypatch.setattr(second_stage, "latent_loss", error_of_one)
    profile = Profile(TrainConfig(10), batch=32, scenes=60)
    _, loss_fn, _ = second_stage.unet_recipe(profile, DATA / "tiny-worlds", torch.device("cpu"), warm)
    told = SimpleNamespace(text=lambda texts: texts, image=lambda images: "image", map=lambda maps: "map", unet=None)
    weight = loss_weights(scaled_linear_schedule(), 6.0 if warm else 30.0)
    for seed in range(120):
        loss = loss_fn(told, torch.Generator().manual_seed(seed))["loss"]
        torch.testing.assert_close(loss, weight[met[-1][0]].mean())
    times = torch.stack([t for t, _ in met]).float()
    inside, late = (((times >= low) & (times < low + 500)).float().mean(0) for low in (250, 830))
    for part in (slice(16), slice(16, 32), slice(0, 24, 3)):    # every third place is where captions name two things
        assert abs(inside[part].mean() - (0.67 if warm else 0.5)) < 0.05
        assert abs(late[part].mean() - (0.19 if warm else 0.17)) < 0.05
    assert all(half.min() < 30 and half.max() > 970 for half in (times[:, :16], times[:, 16:]))
    contexts = [context for _, context in met]
    assert 0.7 < sum(isinstance(context, list) for context in contexts) / 120 < 0.9
    assert {"image", "map"} < {context if isinstance(context, str) else "text" for context in contexts}


def test_stratified_is_uniform_with_less_variance_than_draws():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([stratified(8, 40, generator) for _ in range(4000)])
    shares = torch.bincount(drawn.flatten(), minlength=40) / drawn.numel()
    assert (shares * 40 - 1).abs().max() < 0.12
    free = torch.randint(40, drawn.shape, generator=generator)
    assert drawn.float().mean(1).var() < 0.05 * free.float().mean(1).var()


# ---- Guidance ----

def small_unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(channels=(16, 32), attention=(True, True), layers=1, heads=2, context_dim=12, groups=8))
    for p in unet.parameters():
        if not p.any():    # what starts at zero would hide everything
            nn.init.normal_(p, std=0.1)
    return unet.eval()


@pytest.mark.parametrize("tokens", [7, 3], ids=["as long", "shorter"])
@pytest.mark.parametrize("batch", [1, 2])
def test_guidance_equals_two_calls(tokens, batch):
    """Of contexts as long as each other, and of a map's many states against the empty prompt's few."""
    unet, x, t = small_unet(), randn(2, 4, 8, 8), torch.tensor(500)
    cond, uncond = randn(2, 7, 12, seed=1), randn(batch, tokens, 12, seed=2)
    with torch.no_grad():
        e_c, e_u = unet(x, t, cond), unet(x, t, uncond.expand(2, -1, -1))
        assert (e_c - e_u).abs().max() > 0.01
        for scale in (1.5, 4.0):
            found = guided(unet, cond, uncond, scale)(x, t)
            torch.testing.assert_close(found, (1 - scale) * e_u + scale * e_c, rtol=0, atol=5e-5)


# ---- The three conditions ----

@pytest.mark.parametrize("maps, message", [
    (torch.full((1, 64, 64), len(CLASSES)), f"integers from 0 to {len(CLASSES) - 1}"),
    (torch.full((1, 64, 64), -1), "from -1 to -1"),
    (torch.zeros(1, 64, 64), "got torch.float32"),
    (torch.zeros(1, 32, 32, dtype=torch.long), r"got shape \(1, 32, 32\), expected \(batch, 64, 64\)"),
    (torch.zeros(64, 64, dtype=torch.long), r"got shape \(64, 64\)"),
    (torch.zeros(1, 1, 64, 64, dtype=torch.long), r"got shape \(1, 1, 64, 64\)"),
])
def test_bad_maps_are_named(stage, maps, message):
    with pytest.raises(ValueError, match=f"semantic_map: .*{message}"):
        stage.map(maps)


def test_a_map_encoder_needs_a_channel_for_each_class():
    with pytest.raises(ValueError, match=f"transformer: got 3 channels, expected {len(CLASSES)}"):
        MapEncoder(ImageTransformer(ImageConfig(image_size=16, patch_size=8, dim=8, layers=1, heads=1, mlp_dim=8)))


def test_a_map_is_read_patch_by_patch(stage):
    """Without blocks a state knows its patch: change one pixel, and one state changes; uint8 and int64 are the same."""
    maps = torch.zeros(2, 64, 64, dtype=torch.uint8)
    maps[1, 9, 20] = 5    # row 1 of patches, column 2
    blocks, stage.map.transformer.blocks = stage.map.transformer.blocks, nn.ModuleList()
    with torch.no_grad():
        states, same = stage.map(maps), stage.map(maps.long())
    stage.map.transformer.blocks = blocks
    assert states.shape == (2, 65, 128) and torch.equal(states, same)
    assert ((states[0] - states[1]).abs().amax(1) > 1e-6).nonzero().flatten().tolist() == [1 + 8 + 2]


def contexts(stage: SecondStage, worlds: dict) -> dict[str, Tensor]:
    return {"text": stage.text(worlds["text"]), "image": stage.image(worlds["image"]), "map": stage.map(worlds["map"])}


def test_each_condition_tells_scenes_apart_that_the_latent_does_not(stage, worlds):
    """One noisy latent, two scenes behind it: who is told which can find the noise, who is not can only average."""
    schedule, t = scaled_linear_schedule(), torch.tensor([300, 300])
    a = schedule.alpha_bar[300]
    z_0, z_t = randn(2, 4, 8, 8), randn(1, 4, 8, 8, seed=1).expand(2, -1, -1, -1)
    eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
    average = (eps - eps.mean(0)).square().mean()
    trained = [p for p in stage.parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    optimizer = torch.optim.Adam(trained, 1e-3)
    for _ in range(STEPS):
        for context in contexts(stage, worlds).values():
            loss = latent_loss(stage.unet, z_0, context, t, eps, schedule).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        told = {name: latent_loss(stage.unet, z_0, context, t, eps, schedule).mean()
                for name, context in contexts(stage, worlds).items()}
        swapped = {name: latent_loss(stage.unet, z_0, context.flip(0), t, eps, schedule).mean()
                   for name, context in contexts(stage, worlds).items()}
    assert set(told) == set(CONDITIONS)
    assert all(loss < 0.4 * average for loss in told.values()), (told, average)
    assert all(loss > average for loss in swapped.values()), (swapped, average)
    changed = {name.split(".")[0] for name, value in stage.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"unet", "map", "text", "image"}


STEPS = 22    # under each condition


@pytest.fixture(scope="module")
def ldm(stage) -> LatentDiffusion:
    config = autoencoder.AutoencoderConfig(channels=(8, 8, 8, 8), layers=1, groups=8)
    return LatentDiffusion(stage.unet, autoencoder.Autoencoder(config), stage.text, scaled_linear_schedule(),
                           stage.image, stage.map)


def test_each_condition_arrives_through_its_own_encoder(ldm, stage, worlds):
    with torch.no_grad():
        found = [ldm.context(worlds["text"]), ldm.context(image=worlds["image"]),
                 ldm.context(semantic_map=worlds["map"])]
        assert all(torch.equal(a, b) for a, b in zip(found, contexts(stage, worlds).values()))
    assert [tuple(states.shape) for states in found] == [(2, 32, 128), (2, 65, 128), (2, 65, 128)]


@pytest.mark.parametrize("names, message", [
    ("", "got .*expected one of prompt, image, semantic_map"),
    ("prompt image", "got prompt and image, expected one of"),
    ("image semantic_map", "got image and semantic_map"),
    ("prompt image semantic_map", "got prompt and image and semantic_map"),
])
def test_exactly_one_condition(ldm, worlds, names, message):
    given = {"prompt": worlds["text"], "image": worlds["image"], "semantic_map": worlds["map"]}
    with pytest.raises(ValueError, match=message):
        ldm.context(**{name: given[name] for name in names.split()})


@pytest.mark.parametrize("condition, message", [
    (dict(image=torch.zeros(1, 3, 32, 32)), "image: got 32 x 32 pixels, expected 64 x 64"),
    (dict(image=torch.full((1, 3, 64, 64), 200.0)), "image: got values from 200 to 200"),
    (dict(semantic_map=[[1]]), "semantic_map: got list, expected a tensor of integers"),
    (dict(semantic_map=torch.zeros(1, 32, 64, dtype=torch.long)), "semantic_map: got shape"),
    (dict(semantic_map=torch.full((1, 64, 64), 99)), "semantic_map: got torch.int64 from 99 to 99"),
])
def test_a_condition_of_the_wrong_kind_is_named(ldm, condition, message):
    with pytest.raises(ValueError, match=message):
        ldm.context(**condition)


def test_a_condition_that_the_model_lacks_is_named(ldm, worlds):
    alone = LatentDiffusion(ldm.unet, ldm.autoencoder, ldm.text, ldm.schedule)
    for name, given in (("image", worlds["image"]), ("semantic_map", worlds["map"])):
        with pytest.raises(ValueError, match=f"{name}: this model has no encoder"):
            alone.context(**{name: given})


def test_states_of_the_wrong_width_are_named(ldm):
    with pytest.raises(ValueError, match=r"context has shape \(1, 65, 64\), expected \(1, tokens, 128\)"):
        ldm.unet(torch.zeros(1, 4, 8, 8), torch.tensor(5), torch.zeros(1, 65, 64))


# ---- How well maps agree ----

def iou_by_loops(found: Tensor, given: Tensor) -> float:
    ious = []
    for c in range(len(CLASSES)):
        pairs = [(f == c, g == c) for f, g in zip(found.flatten().tolist(), given.flatten().tolist())]
        either = sum(f or g for f, g in pairs)
        if either:
            ious.append(sum(f and g for f, g in pairs) / either)
    return sum(ious) / len(ious)


@pytest.mark.parametrize("classes", [2, 7, len(CLASSES)])
def test_mean_iou_equals_loops(classes):
    generator = torch.Generator().manual_seed(classes)
    given = torch.randint(classes, (3, 9, 7), generator=generator)
    found = torch.where(torch.rand(given.shape, generator=generator) < 0.7, given,
                        torch.randint(len(CLASSES), given.shape, generator=generator))
    assert mean_iou(found, given) == pytest.approx(iou_by_loops(found, given))
    assert mean_iou(given, given) == 1 and mean_iou(given.byte().long(), given) == 1


def test_a_shifted_map_agrees_less_the_further_it_is_shifted():
    given = render("validation", 4)[1].long()
    scores = [mean_iou(given.roll(shift, 2), given) for shift in (0, 1, 4, 16)]
    assert scores[0] == 1 and scores == sorted(scores, reverse=True) and scores[3] < 0.6


def test_maps_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"found: got shape \(1, 4, 4\), expected that of given, \(2, 4, 4\)"):
        mean_iou(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long))


def test_a_picture_of_bytes_is_refused(ldm):
    with pytest.raises(ValueError, match=r"image: got values from 255 to 255, expected \[-1, 1\]"):
        ldm.variations(torch.full((1, 3, 64, 64), 255.0))
