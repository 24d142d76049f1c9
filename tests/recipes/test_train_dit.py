"""The transformer's recipe: which captions, times and noises it draws, that it learns, and what it leaves alone."""
import shutil

import pytest
import torch
from torch import Tensor

from ldm_edu import DATA
from ldm_edu.dit import DiT, DiTConfig
from ldm_edu.recipes import train_dit
from ldm_edu.recipes.profiles import Profile
from ldm_edu.recipes.train_dit import dit_recipe, flow_step, frozen_text, latents_and_captions, pick_pairs
from ldm_edu.recipes.train_unet import CAPTIONS, DROPPED, write_captions
from ldm_edu.tiny_worlds.datasets import TinyWorlds
from ldm_edu.tokenizer import load_tokenizer
from ldm_edu.training import TrainConfig, train
from ldm_edu.weights import load_autoencoder, load_dit

CPU, SCENES = torch.device("cpu"), 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the recipe needs of the stages before it."""
    root = tmp_path_factory.mktemp("root")
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(DATA / "tiny-worlds" / part, root / "tiny-worlds" / part)
    return root


@pytest.fixture(scope="module")
def pairs(root):
    return latents_and_captions(root / "tiny-worlds", SCENES, CPU)


def test_latents_and_captions_belong_together(pairs):
    """Each scene painted by itself, its captions written by themselves; the empty prompt comes first."""
    latents, ids = pairs
    autoencoder = load_autoencoder(DATA / "tiny-worlds/vae")
    tokenizer, train_set = load_tokenizer(DATA / "clip"), TinyWorlds("train", SCENES)
    with torch.no_grad():
        expected = torch.cat([autoencoder.to_latent(train_set[i].image[None]) for i in range(SCENES)])
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert ids.shape == (1 + SCENES * CAPTIONS, 32) and not tokenizer.decode(ids[0].tolist())
    for i, seed in enumerate(train_set.seeds):
        assert ids[1 + CAPTIONS * i:][:CAPTIONS].tolist() == write_captions(seed, tokenizer).tolist()


def test_each_latent_hears_a_caption_of_its_own_or_none(pairs):
    latents, ids = pairs
    told = lambda rows: rows  # noqa: E731
    met, empty = set(), 0
    for step in range(200):
        z_0, heard = pick_pairs(latents, ids, told, 8, torch.Generator().manual_seed(step))
        for z, row in zip(z_0, heard):
            scene = next(i for i in range(SCENES) if torch.equal(latents[i], z))
            empty += torch.equal(row, ids[0])
            met |= set() if torch.equal(row, ids[0]) else {(scene, tuple(row.tolist()))}
    assert met == {(i, tuple(row)) for i in range(SCENES) for row in ids[1 + CAPTIONS * i:][:CAPTIONS].tolist()}
    assert abs(empty / 1600 - DROPPED) < 0.03


def test_a_step_draws_a_time_and_a_noise_for_each_latent():
    """All that it draws comes from the generator, on a stand-in that remembers what it saw."""
    seen = []

    def stand_in(z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen.append((z, t))
        return torch.zeros_like(z)

    z_0, context = torch.full((512, 4, 8, 8), 3.0), torch.zeros(512, 32, 128)
    loss = flow_step(stand_in, z_0, context, torch.Generator().manual_seed(1))
    assert torch.equal(loss, flow_step(stand_in, z_0, context, torch.Generator().manual_seed(1)))
    (z, t), _ = seen
    t = t[:, None, None, None]
    eps = ((z - (1 - t) * z_0) / t)[t.flatten() > 0.05]
    assert abs(eps.mean()) < 0.01 and abs(eps.std() - 1) < 0.01 and t.unique().numel() > 500
    assert loss.item() == pytest.approx(1 + 9, rel=0.02)    # E|eps - 3|²


def test_the_recipe_learns_velocity_and_saves_what_opens(root, monkeypatch):
    monkeypatch.setattr(train_dit, "DiT", lambda: DiT(DiTConfig(dim=32, layers=1, heads=2)))
    torch.manual_seed(0)
    model, loss_fn, save = dit_recipe(Profile(TrainConfig(10), 8, SCENES), root, CPU)
    config = TrainConfig(60, 1e-2, warmup=5, muon=True)
    losses = [progress.losses["velocity"] for progress in train(model, loss_fn, config)]
    assert losses[0] > 1.8 and sum(losses[-10:]) / 10 < 0.8 * losses[0]
    opened = load_dit(save(model.eval()))
    z, t, context = torch.randn(2, 4, 8, 8), torch.tensor(0.4), torch.randn(2, 32, 128)
    with torch.no_grad():
        torch.testing.assert_close(opened(z, t, context), model(z, t, context), rtol=0.05, atol=0.02)
    assert save(model) == root / "dit"


def test_the_text_encoder_learns_nothing(root, pairs):
    text = frozen_text(root / "tiny-worlds", CPU)
    assert not any(p.requires_grad for p in text.parameters()) and not text.training
    _, context = pick_pairs(*pairs, text, 4, torch.Generator().manual_seed(0))
    assert not context.requires_grad and context.shape == (4, 32, 128)
