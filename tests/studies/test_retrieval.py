"""Training CLIP on pairs, and what retrieval and zero-shot questions measure."""
from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from ldm_edu import clip
from ldm_edu.clip import ImageConfig
from ldm_edu.metrics.caption_accuracy import facts
from ldm_edu.recipes import train_clip as contrastive
from ldm_edu.recipes.clip_folder import save_clip
from ldm_edu.recipes.train_clip import ClipLearner, distinguishing_caption
from ldm_edu.studies import retrieval
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.retrieval import (
    BATCH,
    DIFFERENCES,
    Retrieval,
    embed,
    pairs_of,
    questions,
    recall,
    sibling_accuracy,
    sibling_captions,
    sibling_pairs,
    train_on_pairs,
    zero_shot,
)
from ldm_edu.support.files import read_json
from ldm_edu.support.tables import read_table
from ldm_edu.tiny_worlds.captions import Caption, make_caption
from ldm_edu.tiny_worlds.datasets import seeds_of
from ldm_edu.tiny_worlds.scenes import HELD_OUT, make_scene, sibling
from ldm_edu.training import TrainConfig, train

TINY = (clip.TextConfig(dim=32, layers=1, heads=2, mlp_dim=64, length=32),
        ImageConfig(image_size=64, patch_size=16, dim=32, layers=1, heads=2, mlp_dim=64), 16)


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    images, captions = pairs_of("train", 8)
    config = TrainConfig(25, lr=5e-3, warmup=2, ema=0.5)
    losses = [p.losses["contrastive"] for p in train_on_pairs(ClipLearner(*TINY), images, captions, config)]
    guess = torch.tensor(float(BATCH)).log().item()
    floor = torch.tensor(BATCH / 8).log().item()    # of 64 draws from 8 pairs, 8 are the same
    assert abs(losses[0] - guess) < 1.5 and floor - 0.3 < losses[-1] < losses[0] - 1


def test_a_saved_learner_is_the_same(tmp_path):
    learner = ClipLearner().eval()
    save_clip(learner.clip, tmp_path)
    texts = ["a red house", "two boats at night"]
    assert torch.equal(embed(ClipLearner.load(tmp_path), texts), embed(learner, texts))


def test_recall_against_a_sorted_list():
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(30, 4, generator=generator), dim=1) for _ in range(2))
    for k in (1, 3, 30):
        expected = []
        for a, b in ((images, texts), (texts, images)):
            nearest = [sorted(range(30), key=lambda j: -float(x @ b[j]))[:k] for x in a]
            expected.append(sum(i in row for i, row in enumerate(nearest)) / 30)
        assert recall(images, texts, k) == pytest.approx(tuple(expected))
    same = torch.ones(30, 4) / 2
    assert recall(same, same) == (0, 0)    # a model that answers the same to everything finds nothing


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_of_siblings_one_is_true(difference):
    """`facts` agrees, and the two use the same words but for what differs."""
    scenes, true, false = sibling_pairs(difference, 30)
    assert len(scenes) == 30 and all(a != b for a, b in zip(true, false))
    if difference in ("whose colour", "relation"):
        for a, b in zip(true, false):
            changed = Counter(a.replace("an ", "a ").split()) - Counter(b.replace("an ", "a ").split())
            assert set(changed) <= {"left", "right"}
    if difference == "number":
        assert Counter(a.split()[0] for a in true) == {"two": 15, "three": 15}


def test_sibling_captions_are_judged_by_the_facts(monkeypatch):
    judged = []
    monkeypatch.setattr(retrieval, "facts", lambda caption, scene: judged.append(caption) or facts(caption, scene))
    rng = random.Random(0)
    for seed in seeds_of("validation", 200):
        for difference in DIFFERENCES:
            judged.clear()
            if found := sibling_captions(make_scene(seed), difference, rng):
                true, false = judged
                assert (true.text, false.text) == found
                assert all(ok for _, ok in facts(true, make_scene(seed)))
                assert not all(ok for _, ok in facts(false, make_scene(seed)))
                assert not {(m.kind, m.colour) for m in false.mentions} & HELD_OUT


def test_a_question_has_one_right_answer():
    for seed in seeds_of("validation", 60):
        scene = make_scene(seed)
        if len(scene.things) == 1:
            thing, = scene.things
            asked = questions(scene)
            assert asked["colour"][0][asked["colour"][1]].split()[1:] == [thing.colour, thing.kind]
            assert asked["kind"][0][asked["kind"][1]] == f"a {thing.kind}"
            assert asked["size"][0][asked["size"][1]] == f"a {thing.size} {thing.kind}"
            assert thing.place[:4] in asked["place"][0][asked["place"][1]]
            assert all(len(set(prompts)) == len(prompts) for prompts, _ in asked.values())


def test_measures_of_a_reader_that_knows_nothing_are_near_chance():
    torch.manual_seed(0)
    learner = ClipLearner(*TINY).eval()
    assert all(0.15 < share < 0.85 for share in sibling_accuracy(learner, 40).values())
    shares = zero_shot(learner, 40)
    assert list(shares) == ["sky", "ground", "weather", "kind", "colour", "size", "place"]
    assert all(share < 0.8 for share in shares.values())


def test_telling_prefers_a_caption_that_is_false_of_the_other(monkeypatch):
    drawn: list[Caption] = []
    monkeypatch.setattr(contrastive, "make_caption",
                        lambda scene, rng: drawn.append(make_caption(scene, rng)) or drawn[-1])
    rng, tells = random.Random(0), 0
    for seed in range(200):
        scene = make_scene(seed)
        other = sibling(scene, rng)
        drawn.clear()
        text = distinguishing_caption(scene, other, rng)
        false = [not all(ok for _, ok in facts(caption, other)) for caption in drawn]
        assert text == drawn[-1].text and not any(false[:-1]) and (false[-1] or len(drawn) == 4)
        tells += false[-1]
    assert tells > 150


def test_the_stored_table_and_a_shorter_study(tmp_path, monkeypatch):
    assert [row.pairs for row in read_table(retrieval.TABLE, Retrieval)] == list(retrieval.PAIRS)
    monkeypatch.setattr(retrieval, "PAIRS", (4, 8))
    monkeypatch.setattr(retrieval, "SMALL", TINY)
    monkeypatch.setattr(retrieval, "train", lambda model, loss_fn, _: train(model, loss_fn, TrainConfig(2)))
    main(["retrieval", "--study", "--count", "6", "--out", str(tmp_path)])
    rows = read_table(tmp_path / "table.csv", Retrieval)
    assert [row.pairs for row in rows] == [4, 8] and all(0 <= share <= 1 for row in rows for share in row[1:])
    for path in (retrieval.SIBLINGS, tmp_path / "siblings.json"):
        found = read_json(path)
        assert list(found) == ["apart", "together"]
        assert all(len(runs) == 3 and list(run) == list(DIFFERENCES) for runs in found.values() for run in runs)


@pytest.mark.parametrize("together", [False, True])
def test_siblings_share_a_batch_always_or_by_chance(together):
    """Each picture is as bright as its number, so the batch tells which pictures are in it."""
    seen = []

    class Spy(ClipLearner):
        def forward(self, images, ids):
            seen.append((images[:, 0, 0, 0] * 127.5 + 127.5).round().long())
            return super().forward(images, ids)

    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    list(train_on_pairs(Spy(*TINY), images, ["a red house"] * 250, TrainConfig(2), together=together))
    shared = [{int(k) ^ 1 for k in batch} == {int(k) for k in batch} for batch in seen]
    assert shared == [together] * 2 and all(len(batch) == BATCH for batch in seen)
    assert not torch.equal(*seen)


def test_the_command_measures_a_clip(capsys):
    main(["retrieval", "--count", "16"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["R@1 of 16", "zero-shot", "siblings"]
    assert "picture to text 100.0%" in lines[0] or "picture to text 9" in lines[0]
