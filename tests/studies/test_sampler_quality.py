"""The study of samplers: which pictures it draws, from which noise, how it scores them, and what is stored."""
import torch

from ldm_edu import DATA
from ldm_edu.metrics.evaluation import captions_of, generate
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS
from ldm_edu.studies import sampler_quality as study
from ldm_edu.studies.sampler_quality import (
    ETAS,
    GUIDANCE_SCALE_STEPS,
    GUIDANCE_SCALES,
    STEPS,
    draw_with_eta,
    load_quality,
    load_randomness,
    quality_table,
    randomness_table,
    score_pictures,
)
from ldm_edu.tiny_worlds.datasets import render, to_float

RUNS = {(sampler, n, 4.0) for sampler in SAMPLERS for n in STEPS} | {
    ("ddim", GUIDANCE_SCALE_STEPS, scale) for scale in GUIDANCE_SCALES}


class Painter:
    """Stands in for the model: a picture of the call's seed, and a list of the calls."""

    def __init__(self):
        self.calls = []
        self.autoencoder = self

    def text_to_image(self, prompts, steps, guidance_scale, seed, sampler):
        self.calls.append((sampler, steps, guidance_scale))
        return torch.full((len(prompts), 3, 64, 64), seed / 10)

    def to_latent(self, images):
        return images

    def decode(self, z):
        return z


def test_true_scenes_are_right_and_another_captions_scenes_wrong():
    captions, oracle = captions_of("validation", 24), Oracle.load()
    images = to_float(render("validation", 24)[0])
    accuracy, all_right, more = score_pictures(images, captions, oracle)
    assert accuracy > 0.95 and all_right > 0.8 and more < 0.15
    wrong, right, more_wrong = score_pictures(images.roll(1, 0), captions, oracle)
    assert wrong < 0.7 and right < 0.2 and more_wrong > more + 0.1


def test_the_table_has_every_run_once_after_the_true_scenes(monkeypatch):
    monkeypatch.setattr(study, "REAL", 20)
    painter = Painter()
    rows = quality_table(painter, count=4, steps=(2, GUIDANCE_SCALE_STEPS), guidance_scales=(1.0, 4.0))
    assert [row.sampler for row in rows[:2]] == ["renders", "rebuilt"] and rows[0][3:] == rows[1][3:]
    runs = [row[:3] for row in rows[2:]]
    assert runs == painter.calls and len(runs) == len(set(runs))
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
    """eta = 1 is `ddpm` except for its last step, which leads to alpha_bar_0 and not to 1: pixels hardly differ."""
    ldm = LatentDiffusion.from_pretrained(DATA / "tiny-worlds")
    prompts = [caption.text for caption in captions_of("validation", 3)]
    none, half, full = (draw_with_eta(ldm, prompts, eta, steps=6, batch=2) for eta in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, generate(ldm, prompts, 6, 4.0, sampler="ddim", batch=2))
    assert (full - generate(ldm, prompts, 6, 4.0, sampler="ddpm", batch=2)).abs().mean() < 0.02
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
