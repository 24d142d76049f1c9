"""Facts against readings made by hand, scores against true scenes, oracle and segmenter against fresh renders."""
import random

import pytest
import torch

from ldm_edu.metrics.__main__ import main
from ldm_edu.metrics.caption_accuracy import facts, full_caption, score, surplus
from ldm_edu.metrics.distances import psnr
from ldm_edu.metrics.evaluation import _captions, captions_of
from ldm_edu.metrics.oracle import HEADS, NOTHING, Oracle, Reading, Seen, labels, reading
from ldm_edu.metrics.segmenter import Segmenter, mean_iou
from ldm_edu.tiny_worlds.captions import Caption, Mention
from ldm_edu.tiny_worlds.datasets import TinyWorlds, render, seeds_of, to_float
from ldm_edu.tiny_worlds.scenes import KINDS, make_scene, sibling

RED_BOAT = Seen("boat", "red", "big", "left", False)
BLUE_CAT = Seen("cat", "blue", "small", "left", True)
NIGHT = Reading("night", "water", "clear", (RED_BOAT, BLUE_CAT))


def test_labels_and_reading_are_inverse():
    for seed in range(300):
        scene = make_scene(seed)
        answer = labels(scene)
        assert len(answer) == len(HEADS)
        assert all(a == NOTHING or 0 <= a < n for a, n in zip(answer.tolist(), HEADS))
        seen = reading(answer.tolist())
        assert (seen.sky, seen.ground, seen.weather) == (scene.sky, scene.ground, scene.weather)
        things = {(t.kind, t.colour, t.size, t.place, t.front) for t in scene.things}
        assert set(map(tuple, seen.things)) == things


def test_true_captions_of_true_readings_are_all_right():
    dataset = TinyWorlds("validation", 400)
    result = score([dataset.caption(i) for i in range(400)],
                   [reading(labels(make_scene(seed)).tolist()) for seed in dataset.seeds])
    assert result.accuracy == result.all_right == 1


def test_a_full_caption_is_true_of_its_scene_and_not_of_a_sibling():
    """A scene serves as its own perfect reading. A sibling differs in one attribute, so not all is true of it,
    unless it has all of the scene's things and one more."""
    for seed in range(500):
        scene = make_scene(seed)
        other = sibling(scene, random.Random(seed))
        stated = facts(full_caption(scene), scene)
        assert len(stated) == 3 + 4 * len(scene.things) and all(ok for _, ok in stated)
        told = [ok for _, ok in facts(full_caption(scene), other)]
        assert not all(told) or len(other.things) > len(scene.things)


@pytest.mark.parametrize("caption, right, stated", [
    (Caption("", "night", "water", None, (Mention("boat", "red", "big", "left"),)), 6, 6),
    (Caption("", "day", None, "rain", (Mention("boat", "red"),)), 2, 4),
    (Caption("", mentions=(Mention("boat", "blue"),)), 1, 2),                                # a boat, but not blue
    (Caption("", mentions=(Mention("cat", "blue"), Mention("boat", "red")), relation="in front of"), 5, 5),
    (Caption("", mentions=(Mention("boat", "red"), Mention("cat", "blue")), relation="in front of"), 4, 5),
    (Caption("", mentions=(Mention("boat", "red"), Mention("boat", "red"))), 2, 4),          # one boat is not two
    (Caption("", mentions=(Mention("boat", "red", count=2),)), 2, 5),
    (Caption("", mentions=(Mention("boat", "red"), Mention("cat", "blue")), relation="to the left of"), 4, 5),
])
def test_facts_by_hand(caption, right, stated):
    found = facts(caption, NIGHT)
    assert (sum(ok for _, ok in found), len(found)) == (right, stated)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_equally_good_matches_the_first_counts(kind):
    """The model card's table must not differ between two runs of the command, as the order of a set would."""
    other = next(k for k in KINDS if k != kind)
    same_kind, same_colour = Seen(kind, "red", "big", "left", False), Seen(other, "green", "big", "right", False)
    caption = Caption("", mentions=(Mention(kind, "green"),))
    for things, right in (((same_kind, same_colour), "kind"), ((same_colour, same_kind), "colour")):
        assert [name for name, ok in facts(caption, Reading("day", "sand", "clear", things)) if ok] == [right]


def test_count_must_be_exact():
    trees = tuple(Seen("tree", "red", "big", place, False) for place in ("left", "middle", "right"))
    three = Reading("day", "sand", "clear", trees)
    assert dict(facts(Caption("", mentions=(Mention("tree", "red", count=2),)), three))["count"] is False
    assert dict(facts(Caption("", mentions=(Mention("tree", "red", count=3),)), three))["count"] is True


def test_surplus_by_hand():
    boat, cat = Mention("boat", "red"), Mention("cat", "blue")
    captions = [Caption("", mentions=(boat, cat)), Caption("", mentions=(boat,)), Caption("", "night"),
                Caption("", mentions=(boat._replace(count=2),)), Caption("", mentions=(cat._replace(count=3),))]
    assert surplus(captions[:1], [NIGHT]) == 0 and surplus(captions[1:2], [NIGHT]) == 1
    assert surplus(captions, [NIGHT] * 5) == 1 / 4    # the caption without things does not count
    assert surplus(captions[2:3], [NIGHT]) == 0
    with pytest.raises(ValueError):
        surplus(captions, [NIGHT])


def test_psnr_against_its_definition():
    a, b = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0]))    # peak 2, error 0.2: 20 log10(10)


def test_the_command_names_an_unknown_sampler(capsys):
    with pytest.raises(SystemExit) as end:
        main(["data/tiny-worlds", "--samplers", "ddim", "dddm"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "samplers: got ddim dddm, expected some of ddpm, ddim, euler, dpm_solver\n"


@pytest.fixture(scope="module")
def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and maps of scenes that nothing was trained on."""
    images, maps = render("validation", 600, start=50_000)
    return to_float(images), maps.long()


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.load()


def test_oracle_reads_fresh_renders(oracle, fresh):
    """At least 99 % per attribute on scenes that it was not trained on."""
    truth = torch.stack([labels(make_scene(seed)) for seed in seeds_of("validation", 600, 50_000)])
    with torch.no_grad():
        answer = torch.stack([logits.argmax(1) for logits in oracle(fresh[0])], 1)
    right = (answer == truth)
    groups = {"sky": [0], "ground": [1], "weather": [2], "kind": range(3, 21, 3), "colour": range(4, 21, 3),
              "size": range(5, 21, 3)}
    for name, columns in groups.items():
        asked = truth[:, list(columns)] != NOTHING
        accuracy = right[:, list(columns)][asked].float().mean().item()
        print(f"oracle, {name}: {accuracy:.2%} of {asked.sum()}")
        assert accuracy >= 0.99, f"{name}: {accuracy:.4f}"


def test_oracle_is_at_chance_on_shuffled_captions(oracle):
    """Chance is what the true scenes score against the same shuffled captions."""
    count = 400
    dataset = TinyWorlds("validation", count)
    captions = [dataset.caption(i) for i in range(count)]
    shuffled = captions[1:] + captions[:1]
    truth = [reading(labels(make_scene(seed)).tolist()) for seed in dataset.seeds]
    seen = oracle.read(to_float(render("validation", count)[0]))
    chance, judged = score(shuffled, truth), score(shuffled, seen)
    print(f"shuffled captions: oracle {judged.accuracy:.1%}, chance {chance.accuracy:.1%}")
    assert abs(judged.accuracy - chance.accuracy) < 0.02 and judged.all_right <= chance.all_right + 0.01
    sky = judged.by_name["sky"]
    assert abs(sky[0] / sky[1] - 1 / 3) < 0.1
    assert score(captions, seen).accuracy > 0.98


def test_segmenter_reads_fresh_renders(fresh):
    """Scenes that it was not trained on agree with their own maps, and far less with other scenes' maps."""
    images, maps = (part[:200] for part in fresh)
    found = Segmenter.load().read(images)
    right, shuffled = mean_iou(found, maps), mean_iou(found, maps.roll(1, 0))
    print(f"segmenter: mean IoU {right:.3f} with its own maps, {shuffled:.3f} with others'")
    assert right > 0.9 and shuffled < 0.35


def test_the_true_pictures_of_pairs_never_seen_are_those_of_their_captions():
    """Number and caption belong together: everything that a caption says holds for the scene of its number."""
    for split in ("validation", "composition"):
        found = list(_captions(split, 6))
        assert [caption for _, caption in found] == captions_of(split, 6)
        for number, caption in found:
            scene = make_scene(seeds_of(split, number + 1)[number])
            assert all(holds for _, holds in facts(caption, scene)) and caption.mentions is not None
