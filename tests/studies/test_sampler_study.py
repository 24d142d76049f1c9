"""The study of samplers: which pictures it draws, from which noise, how it judges them, and what it has stored."""
import pytest
import torch

from ldm_edu import DATA
from ldm_edu.metrics.distances import features
from ldm_edu.metrics.evaluation import captions_of
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS
from ldm_edu.studies import sampler_quality as sampler_study
from ldm_edu.studies.sampler_quality import (
    ETAS,
    GUIDANCE_SCALE_STEPS,
    GUIDANCE_SCALES,
    STEPS,
    draw_captions,
    draw_with_eta,
    load_quality,
    load_randomness,
    quality_table,
    randomness_table,
    score_pictures,
)
from ldm_edu.tiny_worlds.datasets import render, to_float

RUNS = {(sampler, n, 4.0) for sampler in SAMPLERS for n in STEPS} | {("ddim", GUIDANCE_SCALE_STEPS, s) for s in GUIDANCE_SCALES}


class Painter:
    """Stands in for the model: a picture of the call's seed, and a list of the calls."""

    def __init__(self):
        self.calls = []
        self.autoencoder = self

    def text_to_image(self, prompts, steps, guidance, seed, sampler):
        self.calls.append((tuple(prompts), steps, guidance, seed, sampler))
        return torch.full((len(prompts), 3, 64, 64), seed / 10)

    def to_latent(self, images):
        return images

    def decode(self, z):
        return z


def test_each_caption_is_drawn_once_each_batch_from_its_own_seed():
    captions, painter = captions_of("validation", 5), Painter()
    pictures = draw_captions(painter, captions, "euler", 7, 3.0, batch=2)
    texts = [caption.text for caption in captions]
    assert painter.calls == [(tuple(texts[:2]), 7, 3.0, 0, "euler"), (tuple(texts[2:4]), 7, 3.0, 1, "euler"),
                             (tuple(texts[4:]), 7, 3.0, 2, "euler")]
    assert [round(10 * picture.mean().item()) for picture in pictures] == [0, 0, 1, 1, 2]


def test_true_scenes_are_judged_right_and_another_captions_scenes_wrong():
    captions, oracle = captions_of("validation", 24), Oracle.load()
    images = to_float(render("validation", 24)[0])
    real = features(images)
    accuracy, all_right, more, distance = score_pictures(images, captions, real, oracle)
    assert accuracy > 0.95 and all_right > 0.8 and more < 0.15 and distance < 1e-3    # the clouds are the same
    wrong, right, more_wrong, same = score_pictures(images.roll(1, 0), captions, real, oracle)
    assert wrong < 0.7 and right < 0.2 and more_wrong > more + 0.1 and same < 1e-3    # in another order
    gray = score_pictures(images * 0.2, captions, real, oracle)
    assert gray[3] > 10 * distance + 0.01
    with pytest.raises(ValueError, match="captions and 24 readings"):
        score_pictures(images, captions[:3], real, oracle)


def test_the_table_has_every_run_once_after_the_true_scenes(monkeypatch):
    monkeypatch.setattr(sampler_study, "REAL", 20)
    painter = Painter()
    rows = quality_table(painter, count=4, steps=(2, GUIDANCE_SCALE_STEPS), guidances=(1.0, 4.0))
    assert [row.sampler for row in rows[:2]] == ["renders", "rebuilt"] and rows[0][3:] == rows[1][3:]
    runs = [row[:3] for row in rows[2:]]
    assert len(runs) == len(set(runs)) == len(painter.calls)
    assert set(runs) == {(name, n, 4.0) for name in SAMPLERS for n in (2, GUIDANCE_SCALE_STEPS)} | {
        ("ddim", GUIDANCE_SCALE_STEPS, 1.0)}


def test_the_stored_table_is_that_of_the_command():
    table = load_quality()
    found = {row[:3]: row for row in table}
    assert len(found) == len(table) and set(found) == RUNS | {("renders", 0, 0.0), ("rebuilt", 0, 0.0)}
    assert all(0 <= row.all_right <= row.accuracy <= 1 and row.distance > 0 for row in table)
    for sampler in SAMPLERS:    # which side is up
        assert found[sampler, 30, 4.0].accuracy > found[sampler, 2, 4.0].accuracy
        assert found[sampler, 30, 4.0].distance < found[sampler, 2, 4.0].distance
    assert found["renders", 0, 0.0].distance < min(row.distance for row in table if row.steps == 2)


def test_noise_on_the_way_none_of_it_is_ddim_and_all_of_it_follows_ddpm():
    """eta = 1 is `ddpm` but for its last step, which leads to alpha_bar_0 and not to 1: pixels differ by a breath."""
    ldm, captions = LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), captions_of("validation", 3)
    none, half, full = (draw_with_eta(ldm, captions, eta, steps=6, batch=2) for eta in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, draw_captions(ldm, captions, "ddim", 6, 4.0, batch=2))
    assert (full - draw_captions(ldm, captions, "ddpm", 6, 4.0, batch=2)).abs().mean() < 0.02
    assert (half - none).abs().mean() > 0.02 and (half - full).abs().mean() > 0.02
    rows = randomness_table(ldm, count=2, etas=(0.0, 1.0))
    assert [row.eta for row in rows] == [0.0, 1.0] and all(row.accuracy > 0.8 for row in rows)


def test_the_stored_table_of_randomness():
    """512 prompts: a share near 95 % has a standard deviation of 1 %, its differences from the same noise less."""
    table = load_randomness()
    assert tuple(row.eta for row in table) == ETAS
    still, noisy = table[0], table[-1]
    assert noisy.all_right > still.all_right + 0.015 and noisy.accuracy > still.accuracy
    assert noisy.surplus < still.surplus - 0.015
