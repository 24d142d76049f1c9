"""The second stage: which captions and timesteps its recipe draws, and that all three conditions can be learned."""
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ldm_edu import DATA, autoencoder, clip
from ldm_edu.clip import CLIP, ImageTransformer, TextTransformer
from ldm_edu.conditioning import TextEncoder
from ldm_edu.losses import latent_loss
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import train_unet
from ldm_edu.recipes.profiles import Profile
from ldm_edu.recipes.train_unet import CONDITIONS, DROPPED, SecondStage, write_captions
from ldm_edu.schedule import scaled_linear_schedule
from ldm_edu.tiny_worlds.captions import vocabulary
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.tokenizer import build_tokenizer, load_tokenizer
from ldm_edu.training import TrainConfig
from ldm_edu.weights import load_autoencoder

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
    learner = CLIP(TextTransformer(text), ImageTransformer(image))
    return SecondStage(learner, TextEncoder(tokenizer, learner.text))


@pytest.fixture(scope="module")
def worlds() -> dict:
    """Two scenes, as each of the three conditions."""
    images, maps = render("validation", 2)
    return {"text": ["a big red boat, by day, on the water", "a cat, at night"], "image": to_float(images), "map": maps}


def test_the_recipe_tells_each_latent_what_it_shows(monkeypatch, tmp_path):
    """Its loss on a stand-in for the network: which scenes meet which captions, pictures and maps, and how often."""
    scenes, met = 12, []
    for part in ("clip", "tiny-worlds/vae"):
        shutil.copytree(DATA / part, tmp_path / part)
    images, maps = render("train", scenes)
    monkeypatch.setattr(train_unet, "noise_loss", lambda unet, z_0, context, *_: met.append((z_0, context)))
    _, loss_fn, _ = train_unet.unet_recipe(Profile(TrainConfig(10), 8, scenes), tmp_path, torch.device("cpu"))
    latents = train_unet.encode_all(images, load_autoencoder(DATA / "tiny-worlds/vae"))
    tokenizer = load_tokenizer(DATA / "clip")
    told = SimpleNamespace(text=SimpleNamespace(transformer=lambda ids: ("text", ids)), unet=None,
                           image=lambda images: ("image", images), map=lambda maps: ("map", maps))
    for step in range(200):
        loss_fn(told, torch.Generator().manual_seed(step))
    kinds, captions, empty = [], set(), 0
    for z_0, (kind, shown) in met:
        which = torch.cdist(z_0.flatten(1), latents.flatten(1)).argmin(1)
        kinds.append(kind)
        if kind == "image":
            assert torch.equal(shown, to_float(images[which]))
        elif kind == "map":
            assert torch.equal(shown, maps[which])
        else:
            texts = [tokenizer.decode(ids.tolist()).strip().replace(" ,", ",") for ids in shown]
            empty += sum(not text for text in texts)
            captions |= {(i, text) for i, text in zip(which.tolist(), texts) if text}
    assert kinds.count("text") == 160 and kinds.count("image") == kinds.count("map") == 20
    told = [(i, tokenizer.decode(ids)) for i in range(scenes) for ids in write_captions(i, tokenizer)]
    assert captions == {(i, text.strip().replace(" ,", ",")) for i, text in told}
    assert abs(empty / (160 * 8) - DROPPED) < 0.03


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


@pytest.mark.slow
def test_each_condition_tells_scenes_apart_that_the_latent_does_not(stage, worlds):
    """One noisy latent, two scenes behind it: who is told which can find the noise, who is not can only average."""
    schedule, t = scaled_linear_schedule(), torch.tensor([300, 300])
    a = schedule.alpha_bar[300]
    z_0, z_t = randn(2, 4, 8, 8), randn(1, 4, 8, 8, seed=1).expand(2, -1, -1, -1)
    eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
    average = (eps - eps.mean(0)).square().mean()
    trained = [p for p in stage.parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    optimizer = torch.optim.Adam(trained, 1e-3, fused=True)
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
