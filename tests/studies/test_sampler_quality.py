"""The study of samplers: which pictures it draws, from which noise, how it scores them, and what is stored."""
import itertools
from collections import Counter

import pytest
import torch

from ldm_edu import DATA
from ldm_edu.metrics.evaluation import captions_of
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, dpm_solver, euler
from ldm_edu.schedule import scaled_linear_schedule, timesteps
from ldm_edu.studies import sampler_quality as study
from ldm_edu.studies.sampler_quality import (
    GUIDANCE_SCALE_STEPS,
    GUIDANCE_SCALES,
    STEPS,
    Setting,
    load_quality,
    partial_look_ahead,
    quality_table,
    score_pictures,
    settings_table,
)
from ldm_edu.support.tables import read_table
from ldm_edu.tiny_worlds.datasets import render, to_float

SCHEDULE = scaled_linear_schedule()
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


def toy_eps(x, t):
    """A predicted noise whose x_0 moves."""
    a = SCHEDULE.alpha_bar[t]
    return (x - a.sqrt() * torch.sin(3 * x)) / (1 - a).sqrt()


def test_no_look_ahead_is_euler_and_all_of_it_dpm_solver():
    x, levels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), timesteps(7, spacing="trailing")
    for share, sampler in ((0, euler), (1, dpm_solver), ([1, 1, 1, 1, 1, 1, 1], dpm_solver)):
        *_, last = sampler(toy_eps, x, SCHEDULE, levels)
        found = partial_look_ahead(toy_eps, x, SCHEDULE, levels, share)
        torch.testing.assert_close(found, last.x, rtol=1e-4, atol=1e-5)
    half = partial_look_ahead(toy_eps, x, SCHEDULE, levels, 0.5)
    late = partial_look_ahead(toy_eps, x, SCHEDULE, levels, [0, 0, 0, 0, 1, 1, 1])
    results = [partial_look_ahead(toy_eps, x, SCHEDULE, levels, share) for share in (0, 1)] + [half, late]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(results, 2))


def test_each_setting_is_drawn_as_its_name_says(monkeypatch):
    ldm, asked = LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), []
    wanted = ("not early", "negative prompt: by day")
    monkeypatch.setattr(study, "REAL", 20)
    monkeypatch.setattr(study, "tqdm", lambda runs, _: [run for run in runs if run[0] in wanted and run[2] == 4.0])
    drawn = ldm.text_to_image

    def draw(*given, **named):
        asked.append((given, named))
        return drawn(*given, **named)

    monkeypatch.setattr(ldm, "text_to_image", draw)
    rows = settings_table(ldm, count=3, batch=2)
    assert [row[:2] for row in rows] == [("negative prompt: by day", 12), ("not early", 15)]
    assert asked[0] == ((["a red house and a green tree"] * 2, 12, 4.0, 0), {"negative_prompt": "by day"})
    assert asked[1] == ((["a red house and a green tree"], 12, 4.0, 1), {"negative_prompt": "by day"})
    assert len(asked) == 2
    assert all(0 <= share <= 1 for row in rows for share in (row.all_right, row.colour, row.day, row.exact))
    assert rows[1].accuracy > 0.8


@pytest.mark.parametrize("name, spans", [("not early", (0, 600)), ("not late", (300, 999)), ("middle", (300, 600))])
def test_guidance_acts_at_the_levels_that_the_name_says(monkeypatch, name, spans):
    """A network that answers 0 and remembers: with guidance it is asked about every picture twice, otherwise once."""
    ldm, asked = LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), Counter()

    def unet(x, t, context):
        asked[int(t)] += len(context)
        return 0 * x

    monkeypatch.setattr(ldm, "unet", unet)
    monkeypatch.setattr(study, "REAL", 20)
    monkeypatch.setattr(study, "tqdm", lambda runs, _: [run for run in runs if run[0] == name and run[2] == 4.0])
    settings_table(ldm, count=4, batch=4)
    assert asked == {t: 8 if spans[0] <= t <= spans[1] else 4 for t in timesteps(15).tolist()}


def test_the_look_ahead_of_each_row(monkeypatch):
    taken = []
    monkeypatch.setattr(study, "REAL", 20)
    monkeypatch.setattr(study, "tqdm", lambda runs, _: [run for run in runs if run[0].startswith("look")])
    monkeypatch.setattr(study, "partial_look_ahead",
                        lambda eps, x, schedule, levels, share: taken.append((share, levels.tolist())) or x)
    rows = settings_table(LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), count=4, batch=4)
    half = (1, 1, 0, 0)
    names = {"look early": half, "look late": half[::-1], "look 0": 0, "look 0.5": 0.5, "look 1": 1}
    assert taken == [(names[row.setting], timesteps(row.steps, spacing="trailing").tolist()) for row in rows]


def test_the_stored_table_of_settings_is_that_of_the_command(monkeypatch):
    ran = []
    monkeypatch.setattr(study, "REAL", 20)
    monkeypatch.setattr(study, "tqdm", lambda runs, _: ran.extend(runs) or [])
    settings_table(LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), count=1)
    table = read_table(study.SETTINGS, Setting)
    assert [row[:3] for row in table] == [run[:3] for run in ran] and len(table) == len({row[:3] for row in table})
    found = {row[:3]: row for row in table}
    assert found["look 0", 4, 4.0].all_right > found["look 1", 4, 4.0].all_right + 0.1    # which side is up
    assert found["negative prompt: by day", 12, 4.0].day < 0.1 < found["sky left open", 12, 4.0].day
