"""The second stage: which captions and timesteps its recipe draws, and that all three conditions can be learned."""
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ldm_edu import DATA, autoencoder, clip
from ldm_edu.clip import CLIP, ImageTransformer, TextTransformer
from ldm_edu.losses import latent_loss, loss_weights
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import train_unet
from ldm_edu.recipes.profile import Profile
from ldm_edu.recipes.train_unet import CONDITIONS, SecondStage, captioned_batch
from ldm_edu.schedule import scaled_linear_schedule
from ldm_edu.tiny_worlds.captions import make_caption, vocabulary
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.tiny_worlds.scenes import KINDS, make_scene
from ldm_edu.tokenizer import build_tokenizer
from ldm_edu.training import TrainConfig

STEPS = 22    # under each condition


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stage() -> SecondStage:
    """The three conditions at their sizes, untrained; the text and image transformers have one block each."""
    tokenizer = build_tokenizer(vocabulary())
    torch.manual_seed(0)
    text = replace(clip.TINY, layers=1, vocab_size=(size := tokenizer.get_vocab_size()), end_id=size - 1)
    image = replace(clip.TINY_IMAGE, layers=1)
    return SecondStage(CLIP(TextTransformer(text), ImageTransformer(image)))


@pytest.fixture(scope="module")
def worlds() -> dict:
    """Two scenes, as each of the three conditions."""
    images, maps = render("validation", 2)
    return {"text": ["a big red boat, by day, on the water", "a cat, at night"], "image": to_float(images), "map": maps}


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


@pytest.mark.parametrize("warm", [False, True])
def test_the_recipe_meets_every_scene_at_every_t(monkeypatch, warm):
    """Its loss on a stand-in whose error is 1: t of both halves of the batch, the weights, and what is told."""
    met = []

    def error_of_one(unet, z_0, context, t, eps, schedule):
        met.append((t, context))
        return torch.ones(len(t))

    monkeypatch.setattr(train_unet, "cached_latents", lambda images, *_: torch.zeros(len(images), 4, 8, 8))
    monkeypatch.setattr(train_unet, "latent_loss", error_of_one)
    profile = Profile(TrainConfig(10), batch=32, scenes=60)
    _, loss_fn, _ = train_unet.unet_recipe(profile, DATA / "tiny-worlds", torch.device("cpu"), warm)
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


def test_each_condition_arrives_through_its_own_encoder(stage, worlds):
    config = autoencoder.AutoencoderConfig(channels=(8, 8, 8, 8), layers=1, groups=8)
    ldm = LatentDiffusion(stage.unet, autoencoder.Autoencoder(config), stage.text, scaled_linear_schedule(),
                          stage.image, stage.map)
    with torch.no_grad():
        found = [ldm.context(worlds["text"]), ldm.context(image=worlds["image"]),
                 ldm.context(semantic_map=worlds["map"])]
        assert all(torch.equal(a, b) for a, b in zip(found, contexts(stage, worlds).values()))
    assert [tuple(states.shape) for states in found] == [(2, 32, 128), (2, 65, 128), (2, 65, 128)]
