"""Tiny Worlds: everything from one seed, disjoint splits, maps that match their pictures, and a user's own pictures."""
import csv
import hashlib
import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.tiny_worlds.captions import MAX_WORDS, make_caption, vocabulary
from ldm_edu.tiny_worlds.datasets import CaptionedImages, TinyWorlds, read_folder, render, seeds_of, to_tensor
from ldm_edu.tiny_worlds.landscapes import paint
from ldm_edu.tiny_worlds.scenes import (
    GROUNDS,
    HELD_OUT,
    KINDS,
    PLACES,
    SIZES,
    SKIES,
    SPLITS,
    WEATHERS,
    make_scene,
    sibling,
)
from ldm_edu.tiny_worlds.things import CLASSES, COLOURS


def test_one_seed_gives_one_example():
    a, b = TinyWorlds("train", 5)[3], TinyWorlds("train", 9)[3]
    assert torch.equal(a.image, b.image) and a.text == b.text and torch.equal(a.semantic_map, b.semantic_map)
    assert a.image.shape == (3, 64, 64) and a.image.min() >= -1 and a.image.max() <= 1
    assert not torch.equal(a.image, TinyWorlds("train", 5)[4].image)


def test_floor_of_the_design():
    scenes = [make_scene(seed) for seed in range(600)]
    assert len(KINDS) >= 10 and len(COLOURS) >= 7 and len(SIZES) >= 2 and len(PLACES) == 3
    assert {s.sky for s in scenes} == set(SKIES) and {s.ground for s in scenes} == set(GROUNDS)
    assert {s.weather for s in scenes} == set(WEATHERS)
    assert {len(s.things) for s in scenes} == {1, 2, 3} and any(t.front for s in scenes for t in s.things)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_held_out_pairs_never_occur_in(split):
    pairs = {(t.kind, t.colour) for seed in seeds_of(split, 4000) for t in make_scene(seed).things}
    assert not pairs & HELD_OUT
    assert len(pairs) == len(KINDS) * len(COLOURS) - len(HELD_OUT)    # every other pair occurs


def test_composition_scenes_hold_a_held_out_pair():
    for seed in seeds_of("composition", 500):
        assert {(t.kind, t.colour) for t in make_scene(seed).things} & HELD_OUT


def test_a_sibling_differs_in_exactly_one_attribute():
    around, kinds_of_change = ("sky", "ground", "weather"), Counter()
    for seed in seeds_of("train", 1500):
        scene = make_scene(seed)
        other = sibling(scene, random.Random(seed))
        told = [[(t.kind, t.colour, t.size, t.place, t.front) for t in s.things] for s in (scene, other)]
        changed = [name for name in around if getattr(scene, name) != getattr(other, name)]
        if Counter(told[0]) != Counter(told[1]):
            few, many = sorted(told, key=len)
            if len(few) < len(many):
                assert len(many) == len(few) + 1 and not Counter(few) - Counter(many)
                changed.append("number")
            else:    # equal except for one column
                rest = [[Counter(t[:i] + t[i + 1:] for t in things) for things in told] for i in range(4)]
                same = [name for name, (a, b) in zip(("kind", "colour", "size", "place"), rest) if a == b]
                changed += same[:1]    # among equal things, one change can be described in two ways
        assert len(changed) == 1, (seed, changed)
        kinds_of_change[changed[0]] += 1
        assert (scene.horizon, scene.light_x, scene.variant) == (other.horizon, other.light_x, other.variant)
        assert not {(t.kind, t.colour) for t in other.things} & HELD_OUT
        assert (other.sky, other.weather) != ("night", "rainbow")
    assert len(kinds_of_change) == 8 and min(kinds_of_change.values()) > 20, kinds_of_change


def test_a_sibling_changes_only_what_it_may():
    """Only places, if asked for places; but three equal things, which cannot be seen to move, get another change."""
    moved, alike = 0, 0
    for seed in range(1500):
        scene = make_scene(seed)
        other = sibling(scene, random.Random(seed), ("places",))
        fixed, fixed_other = (sorted((t.kind, t.colour, t.size, t.front) for t in s.things) for s in (scene, other))
        if len(scene.things) == 3 and len({t[:3] for t in fixed}) == 1:
            alike += 1
            assert fixed != fixed_other or (scene.sky, scene.ground, scene.weather) != (
                other.sky, other.ground, other.weather)
        else:
            moved += 1
            assert fixed == fixed_other and scene.weather == other.weather and scene.sky == other.sky
            assert {t.place for t in scene.things} != {t.place for t in other.things} or len(scene.things) > 1
    assert moved > 1300 and alike > 3


def test_splits_do_not_overlap():
    starts = sorted(SPLITS.values())
    assert min(b - a for a, b in zip(starts, starts[1:])) >= 10**9


def test_captions_use_the_vocabulary_and_fit():
    words, texts = set(vocabulary()), set()
    for seed in range(3000):
        caption = make_caption(make_scene(seed), random.Random(seed))
        split = caption.text.replace(",", " ,").split()
        assert split and len(split) <= MAX_WORDS and set(split) <= words
        texts.add(caption.text)
    assert len(texts) > 2900
    scene = make_scene(0)
    assert len({make_caption(scene, random.Random(i)).text for i in range(50)}) > 40    # varied English


@pytest.mark.parametrize("seed", range(40))
def test_caption_words_agree_with_its_facts(seed):
    """A second, naive reader finds in the text what the facts state, and nothing else."""
    caption = make_caption(make_scene(seed), random.Random(seed))
    text = caption.text.replace(",", " ").replace("green meadow", "meadow")
    singular = text.replace("cacti", "cactus").replace("snowmen", "snowman").split()
    named = [w.removesuffix("s") if w.removesuffix("s") in KINDS else w for w in singular]
    assert [w for w in named if w in KINDS] == [m.kind for m in caption.mentions]
    assert [w for w in named if w in COLOURS] == [m.colour for m in caption.mentions if m.colour]
    assert text.count("two") + text.count("three") == sum(m.count > 1 for m in caption.mentions)
    assert ("in front of" in text) == (caption.relation == "in front of")


def test_map_and_picture_agree():
    """A thing's colour fills most of its region: checked on plain things by day, with their own colours."""
    checked = 0
    for seed in range(4000):
        scene = make_scene(seed)
        if scene.sky != "day" or scene.weather != "clear" or len(scene.things) != 1:
            continue
        thing = scene.things[0]
        if thing.colour not in ("red", "purple") or thing.kind in ("cat", "snowman", "boat", "mushroom"):
            continue    # sails, snow and bellies are other colours
        image, classes = paint(scene)
        assert set(np.unique(classes)) <= {0, 1, 2, CLASSES.index(thing.kind)}
        inside = image[classes == CLASSES.index(thing.kind)].astype(float)
        outside = image[classes == 1].astype(float)
        shares = [(np.abs(pixels - COLOURS[thing.colour]).max(axis=1) < 60).mean() for pixels in (inside, outside)]
        assert shares[0] > 0.25 and shares[1] < 0.05
        checked += 1
    assert checked >= 10


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64), (128, 128)])
def test_any_size(size):
    example = TinyWorlds("validation", 2, size=size)[1]
    assert example.image.shape == (3, *size) and example.semantic_map.shape == size
    assert [r.shape for r in render("validation", 2, size=size)] == [(2, 3, *size), (2, *size)]


def test_render_is_the_data_set():
    (images, maps), dataset = render("validation", 3), TinyWorlds("validation", 3)
    for i in range(3):
        assert torch.equal(maps[i].long(), dataset[i].semantic_map)
        torch.testing.assert_close(images[i].float() / 127.5 - 1, dataset[i].image)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split: got 'test', expected one of train, validation, composition"):
        TinyWorlds("test", 3)


def test_scenes_and_captions_are_those_that_the_shipped_models_were_trained_on():
    """Their text, hashed: the seeds of a split must mean the same for ever."""
    texts = []
    for split in SPLITS:
        dataset = TinyWorlds(split, 40)
        scenes = [make_scene(seed) for seed in dataset.seeds]
        siblings = [sibling(scene, random.Random(seed)) for seed, scene in zip(dataset.seeds, scenes)]
        texts += [repr(scenes), repr(siblings), repr([dataset.caption(i) for i in range(40)])]
    assert hashlib.sha256("".join(texts).encode()).hexdigest() == (
        "c527b9ad8ad664c8ab12748d9699c9ff790b241dc4d1e0e0abfb0671e83d1212")


# --- A user's folder -------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.new("RGB", (50 + 30 * i, 70), (80 * i, 40, 40)).save(tmp_path / f"{i}.png")
    with open(tmp_path / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *([f"{i}.png", f"picture {i}, plain"] for i in range(3))])
    return tmp_path


def test_folder_csv_and_jsonl_agree(folder):
    from_csv = read_folder(folder)
    (folder / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture {i}, plain"}) for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert read_folder(folder) == from_csv and from_csv[2] == (folder / "2.png", "picture 2, plain")
    dataset = CaptionedImages(from_csv, size=(64, 48))
    assert len(dataset) == 3 and dataset[2].text == "picture 2, plain" and dataset[2].semantic_map is None
    assert dataset[2].image.shape == (3, 64, 48)
    torch.testing.assert_close(dataset[2].image[:, 0, 0], torch.tensor([160, 40, 40]) / 127.5 - 1)


def test_torchvision_data_set():
    from torchvision.datasets import FakeData

    dataset = CaptionedImages(FakeData(size=3, image_size=(3, 40, 40), num_classes=2), size=(32, 32), names=["a", "b"])
    assert dataset[0].image.shape == (3, 32, 32) and dataset[0].text in "ab"


def test_folder_errors_name_what_is_missing(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="metadata.csv or metadata.jsonl"):
        read_folder(tmp_path_factory.mktemp("empty"))
    (folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.csv, line 3: there is no picture .*1\.png"):
        read_folder(folder)
    (folder / "metadata.csv").write_text("file_name,text\n0.png,\n")
    with pytest.raises(ValueError, match="line 2: expected file_name and text"):
        read_folder(folder)
    (folder / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ValueError, match="names no pictures"):
        read_folder(folder)
    with pytest.raises(ValueError, match="pairs is empty"):
        CaptionedImages([])


@pytest.mark.parametrize("rows, caption", [
    ('0.png,"portrait of a woman, red hair"', "portrait of a woman, red hair"),
    ('0.png, "portrait of a woman, red hair"', "portrait of a woman, red hair"),
    ('0.png,"she said ""hello"", and left"', 'she said "hello", and left'),
    ('0.png,"two\nlines"\n', "two\nlines"),
    ("0.png,brûlée \u2028 and more", "brûlée \u2028 and more"),
])
def test_quoted_captions(folder, rows, caption):
    (folder / "metadata.csv").write_text("file_name,text\n" + rows, encoding="utf-8")
    assert read_folder(folder) == [(folder / "0.png", caption)]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(folder, name, encoding):
    """UTF-8, also with the mark that Excel writes; another one is named, with the line of its first such byte."""
    (folder / "metadata.csv").unlink()
    rows = "file_name,text\n0.png,a\n1.png,brûlée\n" if name.endswith("csv") else "\n".join(
        json.dumps({"file_name": f"{i}.png", "text": "brûlée"}, ensure_ascii=False) for i in range(2))
    (folder / name).write_text(rows, encoding=encoding)
    if encoding == "utf-8-sig":
        assert read_folder(folder)[1] == (folder / "1.png", "brûlée")
    else:
        line = 3 if name.endswith("csv") and encoding == "latin-1" else 1
        with pytest.raises(ValueError, match=f"{name}, line {line}: no UTF-8; save the table as UTF-8"):
            read_folder(folder)


@pytest.mark.parametrize("name, text, message", [
    ("metadata.csv", "file_name,text\n0.png,a\n1.png,portrait of a woman, red hair, garden\n",
     "line 3: got 4 fields, expected 2 as in the first line; a text with commas needs quotes"),
    ("metadata.csv", "file_name,text,more\n0.png,a\n", "line 2: got 2 fields, expected 3"),
    ("metadata.csv", 'file_name,text\n0.png,a\n1.png,"a boat\n2.png,a car\n', "line 3: unexpected end of data; is a q"),
    ("metadata.csv", 'file_name,text\n0.png,"a boat\n1.png,"a car"\n', "line 2: ',' expected after '\"'; is a quote"),
    ("metadata.csv", "image,caption\n0.png,a\n", "line 2: expected file_name and text, got"),
    ("metadata.jsonl", '{"file_name": "0.png", "text": "a"}\n{"file_name": ', "line 2: no JSON: "),
    ("metadata.jsonl", '[{"file_name": "0.png", "text": "a"}]', "line 1: got a list, expected one object a line"),
    ("metadata.jsonl", '{"file_name": ["0.png"], "text": "a"}', "line 1: expected file_name and text"),
])
def test_a_table_that_cannot_be_read_is_named_with_the_line(folder, name, text, message):
    (folder / "metadata.csv").unlink()
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}, {message}"):
        read_folder(folder)


def test_a_folder_of_classes_needs_no_table(tmp_path):
    for kind in ("red_cat", "dog"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / kind / "1.png")
        (tmp_path / kind / "notes.txt").write_text("no picture")
    assert read_folder(tmp_path) == [(tmp_path / "dog/1.png", "dog"), (tmp_path / "red_cat/1.png", "red cat")]


def test_to_tensor_range():
    black_white = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    torch.testing.assert_close(to_tensor(black_white)[:, 0, :], torch.tensor([[-1.0, 1.0]] * 3))


def test_many_scenes_are_painted_in_several_processes_alike(monkeypatch):
    from ldm_edu.support import parallel
    images, maps = render("validation", 12)
    monkeypatch.setattr(parallel, "WORTH_IT", 4)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 2)
    again, maps_again = render("validation", 12)
    assert torch.equal(images, again) and torch.equal(maps, maps_again)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)    # a single core: no second process is begun
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 1)
    assert torch.equal(render("validation", 12)[0], images)
