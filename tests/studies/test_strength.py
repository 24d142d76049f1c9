"""The study of strengths and edits: its scenes, from where each picture begins, what it counts and has stored."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import last_x
from ldm_edu.schedule import Schedule, scaled_linear_schedule
from ldm_edu.studies import strength as study
from ldm_edu.studies.strength import (
    EDIT_SCALES,
    EDIT_STRENGTHS,
    EDITS,
    FILLINGS,
    GUIDANCE_SCALES,
    STRENGTHS,
    TABLE,
    Decided,
    Edit,
    crowded,
    described,
    edit_scenes,
    edit_table,
    redrawn,
    strength_table,
)
from ldm_edu.support.tables import read_table
from ldm_edu.tiny_worlds.datasets import TinyWorlds, paint_all, to_float
from ldm_edu.tiny_worlds.scenes import HELD_OUT


class Copyist:
    """Stands in for the model: a copy of what it begins with, grey where that is noise, and a list of the calls."""

    def __init__(self):
        self.calls = []

    def text_to_image(self, prompts, steps, guidance_scale, seed, sampler):
        self.calls.append((tuple(prompts), 1.0, steps, guidance_scale, seed))
        return torch.zeros(len(prompts), 3, 64, 64)

    def image_to_image(self, prompts, images, strength, steps, guidance_scale, seed):
        self.calls.append((tuple(prompts), strength, steps, guidance_scale, seed))
        return images


@pytest.mark.parametrize("count", [1, 9])
def test_the_scenes_are_the_first_whose_caption_names_three_things(count):
    images, captions = crowded(count)
    dataset = TinyWorlds("validation", 400)
    found = [i for i in range(400) if sum(m.count for m in dataset.caption(i).mentions) == 3][:count]
    assert len(found) == count and captions == [dataset.caption(i) for i in found]
    torch.testing.assert_close(images, torch.stack([dataset[i].image for i in found]), rtol=0, atol=1e-6)


def test_sampling_begins_at_its_own_scene_or_from_noise_alone():
    copyist, images = Copyist(), torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 64, 64)
    assert torch.equal(redrawn(copyist, images, list("abcde"), 0.3, 2.0, steps=7, batch=2), images)
    assert copyist.calls == [(("a", "b"), 0.3, 7, 2.0, 0), (("c", "d"), 0.3, 7, 2.0, 1), (("e",), 0.3, 7, 2.0, 2)]
    assert not redrawn(copyist, images, list("abcde"), 1.0, 2.0).any()
    assert copyist.calls[-1] == (tuple("abcde"), 1.0, 30, 2.0, 0)


def test_copies_of_true_scenes_are_right_and_grey_is_not():
    rows = strength_table(Copyist(), count=12, strengths=(0.5, 1.0), guidance_scales=(3.0,))
    assert [row[:2] for row in rows] == [(0.5, 3.0), (1.0, 3.0)]
    copied, grey = rows
    assert copied.all_right > 0.8 and grey.all_right == 0


# ---- Edits ----

def test_a_goal_changes_four_facts_and_a_target_one():
    for scene, goal, target in edit_scenes(48):
        old, new = scene.things[0], goal.things[0]
        assert len(scene.things) < 3 and goal.things[1:] == scene.things[1:] == target.things[1:]
        assert scene.sky != goal.sky and scene.ground != goal.ground and scene.weather == goal.weather
        assert old.kind != new.kind and old.colour != new.colour and old.place == new.place
        assert replace(target, things=scene.things) == scene and target.things[0].colour != old.colour
        assert not {(new.kind, new.colour), (old.kind, target.things[0].colour)} & HELD_OUT
        assert described(target).text.replace(target.things[0].colour, old.colour, 1) == described(scene).text


class Painter:
    """Stands in for the model: fills holes with the goal and repaints as the target, in pixels; its noise is 0."""

    schedule = Schedule(scaled_linear_schedule().betas)
    autoencoder = SimpleNamespace(to_latent=lambda images: images)
    decode = staticmethod(lambda z: z)

    def __init__(self, count):
        self.calls, (self.scenes, self.goals, self.targets) = [], zip(*edit_scenes(count))

    def inpaint(self, prompts, images, masks, **options):
        self.calls.append((prompts, masks, options))
        return to_float(paint_all(self.goals[:len(images)])[0])

    def image_to_image(self, prompts, images, strength, steps, guidance_scale):
        self.calls.append((prompts, strength, guidance_scale))
        return to_float(paint_all(self.targets)[0])

    def predictor(self, prompts, guidance_scale):
        self.calls.append((prompts, guidance_scale))
        return lambda x, t: torch.zeros_like(x), None

    def draw(self, steps):
        return last_x(steps)


def test_each_way_is_asked_for_its_edit_and_compared_with_the_true_one():
    painter = Painter(8)
    rows = edit_table(painter, 8, seeds=2)
    found, distance = ({way: [row[k] for row in rows if row.way.startswith(way)] for way in (
        "inpaint", "SDEdit", "inversion", "reference", "autoencoder")} for k in (4, 5))
    assert {way: len(values) for way, values in found.items()} == {
        "inpaint": 2 * 4 * len(FILLINGS), "SDEdit": 15 * 8, "inversion": 3 * 8, "reference": 8, "autoencoder": 8}
    assert sum(found["inpaint"]) >= 0.9 * len(found["inpaint"])          # the oracle reads true pictures
    assert sum(found["SDEdit"]) >= 0.9 * len(found["SDEdit"]) and max(distance["SDEdit"]) == 0
    assert distance["autoencoder"] == [0] * 8 and sum(found["reference"]) == 0 < min(distance["reference"])
    assert distance["inversion"] == pytest.approx(3 * distance["reference"], rel=1e-3)    # no noise: it comes back
    old, new = ([described(scene).text for scene in side] for side in (painter.scenes, painter.targets))
    assert painter.calls[:4] == [(old, 1.0), *((new, g) for g in EDIT_SCALES)]
    assert painter.calls[-15:] == [(new, s, g) for g in EDIT_SCALES for s in EDIT_STRENGTHS]

    names, masks, options = painter.calls[4]
    assert options == {"steps": 15, "seed": 0}
    assert all(goal.things[0].kind in name and goal.things[0].place not in name
               for goal, name in zip(painter.goals, names))
    scenes, targets = (paint_all(side[:4])[0] for side in (painter.scenes, painter.targets))
    thing = (scenes != targets).any(1)                                   # all that another colour changes
    assert ((thing & (masks == 0)).sum((1, 2)) <= 0.15 * thing.sum((1, 2))).all()


# ---- What is stored ----

def test_the_stored_tables_are_those_of_the_command():
    table = read_table(TABLE, Decided)
    found = {row[:2]: row.all_right for row in table}
    assert len(found) == len(table) and set(found) == {(s, g) for s in STRENGTHS for g in GUIDANCE_SCALES}
    assert found[0.0, 2.0] == found[0.0, 4.0]    # no step, no guidance
    for scale in GUIDANCE_SCALES:    # which side is up
        assert 1 >= found[0.0, scale] > 0.95 > found[1.0, scale] > 0.5

    edits = read_table(EDITS, Edit)
    keys = [row[:4] for row in edits]
    assert len(keys) == len({*keys}) and {*keys} == {
        *((way, 0.0, seed, i) for way in FILLINGS for seed in range(4) for i in range(24)),
        *((way, 0.0, 0, i) for way in ("reference", "autoencoder") for i in range(48)),
        *((f"SDEdit {g:g}", s, 0, i) for g in EDIT_SCALES for s in EDIT_STRENGTHS for i in range(48)),
        *(("inversion", g, 0, i) for g in EDIT_SCALES for i in range(48))}


@pytest.mark.slow
def test_the_smallest_edits_are_those_stored(monkeypatch):
    monkeypatch.setattr(study, "FILLINGS", {"inpaint 2 x 2": dict(steps=2, rounds=2)})
    monkeypatch.setattr(study, "EDIT_STRENGTHS", (0.1,))
    stored = {row[:4]: row for row in read_table(EDITS, Edit)}
    rows = edit_table(LatentDiffusion.from_pretrained(DATA / "tiny-worlds"), 2, seeds=1)
    drawn = [row for row in rows if row.way in ("reference", "autoencoder", "inversion")]    # they need no seed
    assert len(rows) == 1 + 4 + 6 + 6 and len(drawn) == 10
    for row in drawn:
        assert row.found == stored[row[:4]].found and row.distance == pytest.approx(stored[row[:4]].distance, abs=1e-3)
