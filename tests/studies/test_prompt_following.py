"""The study of prompt following: its measure, its variants, and that a killed study goes on."""
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes.train_unet import CAPTIONS, write_captions
from ldm_edu.studies import prompt_following
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.prompt_following import (
    NO_AVERAGE,
    VARIANTS,
    Learned,
    Lessons,
    captions_with_counts,
    preferences,
    train_variant,
)
from ldm_edu.studies.retrieval import DIFFERENCES
from ldm_edu.support.tables import read_table
from ldm_edu.tiny_worlds.scenes import KINDS
from ldm_edu.tokenizer import load_tokenizer
from ldm_edu.training import Progress, train


@pytest.fixture(scope="module")
def lessons():
    return Lessons(scenes=12, asked=16)


def named(text: str) -> int:
    """How many things a text names, by its words alone."""
    singular = re.findall(rf"\b(?:a|an)(?: \w+)*? (?:{'|'.join(KINDS)})\b", text)
    return len(singular) + sum(n * len(re.findall(rf"\b{word}\b", text)) for n, word in ((2, "two"), (3, "three")))


def test_the_captions_are_the_recipes_and_counted():
    tokenizer = load_tokenizer(DATA / "clip")
    for seed in range(40):
        ids, counts = captions_with_counts(seed, tokenizer)
        assert (ids == write_captions(seed, tokenizer)).all()
        assert counts == [named(tokenizer.decode(row)) for row in ids]


@pytest.mark.slow
def test_the_shipped_model_prefers_what_is_true_and_a_deaf_one_guesses(lessons, monkeypatch):
    """A model that never hears the caption has the same loss under both: no true caption is ever preferred."""
    monkeypatch.setattr(prompt_following, "LEVELS", (350, 800))
    shipped = LatentDiffusion.from_pretrained(DATA / "tiny-worlds")
    model = nn.ModuleDict({"unet": shipped.unet, "text": shipped.text})
    found = preferences(model, lessons.pairs)
    assert found.keys() == set(DIFFERENCES) and min(found.values()) > 0.65, found
    z, true, false = lessons.pairs["place"]
    assert preferences(model, {"place": (z, false, true)}) == pytest.approx({"place": 1 - found["place"]})
    for parameter in model.text.parameters():
        parameter.data.zero_()
    assert preferences(model, {"place": (z, true, false)}) == {"place": 0.0}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_differs_in_what_it_says(name, lessons, monkeypatch):
    """What a step minimises and what learns, caught on the way into `train`."""
    caught = {}

    def catch(model, loss_fn, config):
        caught.update(model=model, config=config, calls=[])
        monkeypatch.setattr(prompt_following, "noise_loss", lambda unet, z, ids, schedule, weight, generator:
                            caught["calls"].append((len(z), ids, weight)))
        model.text.transformer.forward = lambda ids: ids    # so that the loss is shown tokens
        for step in range(12):
            loss_fn(model, torch.Generator().manual_seed(step))
        return iter(())

    monkeypatch.setattr(prompt_following, "train", catch)
    monkeypatch.setattr(prompt_following, "tqdm", lambda steps, *_, **__: steps)
    train_variant(name, 0, lessons, 640, 1, 4)
    variant, calls = VARIANTS[name], caught["calls"]
    assert {size for size, _, _ in calls} == {variant.batch} and caught["config"].steps == 640 // variant.batch
    assert (caught["config"].muon, caught["config"].lr) == (variant.muon, variant.lr)
    assert (calls[0][2].std() > 0.1) == variant.weighted
    assert all(p.requires_grad == (variant.text != "frozen") for p in caught["model"].text.parameters())
    shipped = torch.nn.utils.parameters_to_vector(prompt_following.load_clip(DATA / "clip").text.parameters())
    begun = torch.nn.utils.parameters_to_vector(caught["model"].text.transformer.parameters())
    assert torch.equal(shipped, begun) == (variant.text != "random")
    silent = sum((ids == lessons.ids[0]).all(1).sum().item() for _, ids, _ in calls)
    assert abs(silent / (12 * variant.batch) - variant.dropped) < 0.05


def test_captions_of_several_things_come_three_times_as_often(lessons, monkeypatch):
    def share(name):
        met = []
        monkeypatch.setattr(prompt_following, "drop_some", lambda ids, pick, *_: met.append(pick - 1) or ids[pick])

        def catch(model, loss_fn, config):
            model.text.transformer.forward = lambda ids: ids
            for step in range(20):
                loss_fn(model, torch.Generator().manual_seed(step))
            return iter(())

        monkeypatch.setattr(prompt_following, "train", catch)
        monkeypatch.setattr(prompt_following, "noise_loss", lambda *_: None)
        train_variant(name, 0, lessons, 640, 1, 4)
        return (lessons.named[torch.cat(met)] > 1).float().mean().item()

    plain = (lessons.named > 1).float().mean().item()
    assert share("recipe") == pytest.approx(plain, abs=0.04)
    assert share("several things") == pytest.approx(3 * plain / (1 + 2 * plain), abs=0.04)


def test_a_latent_goes_with_a_caption_of_its_scene(lessons, monkeypatch):
    met = []
    monkeypatch.setattr(prompt_following, "drop_some", lambda ids, pick, *_: met.append(pick - 1) or ids[pick])
    monkeypatch.setattr(prompt_following, "noise_loss", lambda unet, z, *_: met.append(z))

    def catch(model, loss_fn, config):
        loss_fn(model, torch.Generator().manual_seed(0))
        return iter(())

    monkeypatch.setattr(prompt_following, "train", catch)
    train_variant("recipe", 0, lessons, 640, 1, 4)
    assert torch.equal(met[1], lessons.latents[met[0] // CAPTIONS])


@pytest.mark.slow
def test_the_command_does_not_train_twice(tmp_path, monkeypatch):
    path, begun = tmp_path / "table.csv", []
    monkeypatch.setattr(prompt_following, "LEVELS", (500,))
    monkeypatch.setattr(prompt_following, "VARIANTS",
                        {name: replace(VARIANTS[name], batch=8) for name in ("recipe", "CLIP frozen")})
    monkeypatch.setattr(prompt_following, "train", lambda *arguments: begun.append(0) or train(*arguments))
    options = ["--captions", "16", "--scenes", "12", "--looks", "2", "--count", "4", "--prompts", "4",
               "--out", str(tmp_path)]
    main(["prompt_following", "--variants", "recipe", "--seeds", "0", *options])
    main(["prompt_following", "--variants", "recipe", "CLIP frozen", "--seeds", "0", *options])
    rows = read_table(path, Learned)
    assert len(begun) == 2 and {row.variant for row in rows} == {"recipe", "no average", "CLIP frozen"}
    assert {row.captions for row in rows} == {8, 16} and all(isinstance(row, Learned) for row in rows)
    assert {row.about for row in rows} >= {*DIFFERENCES, "drawn: all right"}


def test_the_averaged_weights_are_judged_and_the_last_ones_of_the_recipe(lessons, monkeypatch):
    judged, trained = [], []

    def catch(model, loss_fn, config):
        trained[:] = [model]
        yield Progress(1, {}, 0.0, "averaged")

    monkeypatch.setattr(prompt_following, "train", catch)
    monkeypatch.setattr(prompt_following, "preferences", lambda network, pairs: judged.append(network) or {})
    monkeypatch.setattr(prompt_following, "draw_and_read", lambda *_: {"all right": 0.5})
    assert train_variant("AdamW", 3, lessons, 64, 1, 4) == [Learned("AdamW", 3, 64, "drawn: all right", 0.5)]
    assert judged == ["averaged"]
    rows = train_variant("recipe", 3, lessons, 64, 1, 4)
    assert [row.variant for row in rows] == ["recipe", NO_AVERAGE] and judged[1:] == ["averaged", *trained]


def test_the_stored_table_is_whole():
    trainings = {}
    for row in read_table(prompt_following.TABLE, Learned):
        trainings.setdefault((row.variant, row.seed), []).append(row)
    assert {name for name, _ in trainings} <= {*VARIANTS, NO_AVERAGE} and ("recipe", 0) in trainings
    for rows in trainings.values():
        looks = sorted({row.captions for row in rows})
        assert [round(seen, -4) for seen in looks] == [10_000, 20_000, 30_000, 40_000]
        asked = {(row.captions, row.about) for row in rows if not row.about.startswith("drawn")}
        assert asked == {(seen, about) for seen in looks for about in DIFFERENCES}
        assert all(0 <= row.share <= 1 for row in rows)
