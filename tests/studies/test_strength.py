"""The study of strengths: which scenes it takes, from where each picture begins, what it counts and has stored."""
import math

import pytest
import torch

from ldm_edu.studies import strength as study
from ldm_edu.studies.strength import GUIDANCE_SCALES, STRENGTHS, crowded, load_strength, redrawn, strength_table
from ldm_edu.tiny_worlds.datasets import TinyWorlds


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


def test_copies_of_true_scenes_are_right_and_grey_is_not(monkeypatch):
    rows = strength_table(Copyist(), count=12, strengths=(0.5, 1.0), guidance_scales=(3.0,))
    assert [row[:2] for row in rows] == [(0.5, 3.0), (1.0, 3.0)]
    copied, grey = rows
    assert min(copied.kind, copied.colour, copied.place) > 0.95 and copied.all_right > 0.8 and copied.surplus == 0
    assert grey.all_right == 0 and max(grey.kind, grey.colour, grey.place) < 0.6

    none = [c._replace(mentions=tuple(m._replace(place=None) for m in c.mentions)) for c in crowded(2)[1]]
    monkeypatch.setattr(study, "crowded", lambda count: (crowded(2)[0], none))
    assert math.isnan(strength_table(Copyist(), count=2, strengths=(1.0,), guidance_scales=(3.0,))[0].place)


def test_the_stored_table_is_that_of_the_command():
    table = load_strength()
    found = {row[:2]: row for row in table}
    assert len(found) == len(table) and set(found) == {(s, g) for s in STRENGTHS for g in GUIDANCE_SCALES}
    assert all(0 <= share <= 1 for row in table for share in row[2:])
    assert found[0.0, 2.0][2:] == found[0.0, 4.0][2:]    # no step, no guidance
    for scale in GUIDANCE_SCALES:    # which side is up
        assert found[0.0, scale].all_right > 0.9 > found[1.0, scale].all_right
