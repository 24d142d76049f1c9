"""CLIP's recipe: which captions meet which pictures."""
import torch

from ldm_edu.recipes import train_clip
from ldm_edu.recipes.profiles import Profile
from ldm_edu.recipes.train_clip import CAPTIONS, ClipLearner, clip_recipe, scene_and_sibling
from ldm_edu.tiny_worlds.datasets import paint_all, to_float
from ldm_edu.tokenizer import tokenize
from ldm_edu.training import TrainConfig


def test_a_batch_is_of_scenes_and_their_siblings_each_with_a_caption_of_its_own(tmp_path):
    """Caught on the way into the learner: pictures by their pixels, captions by their tokens."""
    learner, loss_fn, _ = clip_recipe(Profile(TrainConfig(1), batch=8, scenes=10), tmp_path, torch.device("cpu"))
    pairs = [scene_and_sibling(seed) for seed in range(10)]
    pictures = to_float(paint_all([scene for scenes, _ in pairs for scene in scenes])[0])
    texts = [texts[side * CAPTIONS:(side + 1) * CAPTIONS] for _, texts in pairs for side in (0, 1)]
    seen = set()
    for step in range(40):
        met, found = loss_fn(lambda *batch: batch, torch.Generator().manual_seed(step))["contrastive"], []
        for image, ids in zip(*met, strict=True):
            which, = (pictures == image).flatten(1).all(1).nonzero().flatten().tolist()
            text = learner.tokenizer.decode(ids.tolist()).strip().replace(" ,", ",")
            assert text in texts[which]
            found.append(which)
            seen.add((which, text))
        assert len(found) == 8 and all(b == a + 1 and a % 2 == 0 for a, b in zip(found[::2], found[1::2]))
    assert {which for which, _ in seen} == set(range(20)) and len(seen) > 40


def test_captions_tell_a_scene_from_its_sibling():
    """Nearly all: some differences cannot be said."""
    told = []
    for seed in range(60):
        (scene, other), texts = scene_and_sibling(seed)
        assert scene != other and len(texts) == 2 * CAPTIONS
        told += [texts[k] != texts[CAPTIONS + k] for k in range(CAPTIONS)]
    assert sum(told) > 0.95 * len(told)


def test_the_loss_is_float32_in_bfloat16_training(monkeypatch):
    """In bfloat16 neighbours near the largest logit, 100, are 0.5 apart."""
    seen = []
    monkeypatch.setattr(train_clip, "contrastive_loss", lambda images, texts, scale: seen.append(
        (images.dtype, texts.dtype, torch.is_autocast_enabled("cpu"))) or images.sum())
    learner = ClipLearner()
    with torch.autocast("cpu", torch.bfloat16):
        learner(torch.zeros(2, 3, 64, 64), tokenize(learner.tokenizer, ["a cat", "a boat"]))
    assert seen == [(torch.float32, torch.float32, False)]
