"""Widgets: sliders redraw and complain, stamps land where they should, and every button does what it says."""
import io

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.course import viz
from ldm_edu.course.widgets import MapEditor, explore, stamp
from ldm_edu.tiny_worlds.landscapes import paint
from ldm_edu.tiny_worlds.scenes import Scene, Thing
from ldm_edu.tiny_worlds.things import CLASSES, PAINTERS

COLOURS = viz.CLASS_COLOURS.colors
TREE = CLASSES.index("tree")


def test_explore_redraws_and_complains():
    calls = []

    def draw(prompt, steps, guidance_scale, sampler):
        calls.append((prompt, steps, guidance_scale, sampler))
        if not prompt:
            raise ValueError("prompt: got ''")
        return Image.new("RGB", (4, 4), (steps, 0, 0))

    box = explore(draw, prompt="a cat", steps=(1, 50, 20), guidance_scale=(1.0, 9.0, 4.0), sampler=["ddim", "ddpm"])
    prompt, steps, guidance_scale, sampler, picture, complaint = box.children
    assert isinstance(steps, ipywidgets.IntSlider) and isinstance(guidance_scale, ipywidgets.FloatSlider)
    assert guidance_scale.description == "guidance scale"
    assert calls == [("a cat", 20, 4.0, "ddim")]
    steps.value = 30
    assert calls[-1] == ("a cat", 30, 4.0, "ddim")
    assert Image.open(io.BytesIO(picture.value)).getpixel((0, 0)) == (30, 0, 0)
    before = picture.value
    prompt.value = ""
    assert "prompt: got" in complaint.value and picture.value == before
    prompt.value = "a dog"
    assert complaint.value == "" and calls[-1][0] == "a dog"


def map_of(*things: Thing) -> torch.Tensor:
    """The semantic map that `landscapes.paint` makes of things on grass."""
    scene = Scene("day", "grass", "clear", things, 0.4, 0.5, 0.8, 0)
    return torch.from_numpy(paint(scene)[1].astype(np.int64))


@pytest.mark.parametrize("kind", PAINTERS)
@pytest.mark.parametrize("x, y, scale", [(0.5, 0.2, 0.375), (0.05, 0.1, 0.25)])    # the second is cut off
def test_a_thing_has_the_outline_of_a_painted_one(kind, x, y, scale):
    before, after = map_of(), map_of(Thing(kind, "red", "big", "middle", False, x, y, scale))
    untouched = before.clone()
    found = stamp(before, kind, 64 * x, 64 * (1 - y), 64 * scale)
    assert torch.equal(found, after) and found.dtype == torch.int64
    assert torch.equal(before, untouched) and not torch.equal(before, after)


def test_other_shapes_cover_what_geometry_says():
    row, column = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    disc = (row - 20) ** 2 + (column - 40) ** 2 < 8**2
    square = ((row - 20).abs() < 8) & ((column - 40).abs() < 8)
    blank = torch.full((64, 64), TREE)
    for what, shape in (("sun or moon", disc), ("sky", square), ("ground", square)):
        found = stamp(blank, what, 40, 20, 16) == CLASSES.index(what)
        assert (found ^ shape).sum() <= 0.15 * shape.sum()    # its edge, one pixel wide
        assert found.sum() == pytest.approx(int(shape.sum()), rel=0.1)


@pytest.mark.parametrize("change, message", [
    (dict(what="dragon"), "what: got 'dragon', expected one of sky, ground"),
    (dict(size=0), "size: got 0, expected a number of pixels above 0"),
])
def test_a_wrong_stamp_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        stamp(**dict(semantic_map=map_of(), what="tree", x=5, y=5, size=9) | change)


class Painted:
    """A `draw` that records the maps it gets, and complains of one without ground."""

    def __init__(self):
        self.maps = []

    def __call__(self, semantic_map):
        self.maps.append(semantic_map)
        if not (semantic_map == 1).any():
            raise ValueError("semantic_map: no ground")
        return Image.new("RGB", (8, 8), (len(self.maps), 0, 0))


def commonest(semantic_map: torch.Tensor) -> list[str]:
    """The colour of the commonest class of each 8 x 8 cell."""
    cells = [semantic_map[y:y + 8, x:x + 8].flatten() for y in range(0, 64, 8) for x in range(0, 64, 8)]
    return [COLOURS[int(np.bincount(cell).argmax())] for cell in cells]


def shown(image: ipywidgets.Image) -> Image.Image:
    return Image.open(io.BytesIO(image.value)).convert("RGB")


@pytest.fixture
def editor():
    return MapEditor(map_of(), Painted(), COLOURS)


def test_it_starts_with_the_map_and_its_picture(editor):
    assert torch.equal(editor.semantic_map, map_of()) and len(editor.draw.maps) == 1
    assert shown(editor.picture).getpixel((0, 0)) == (1, 0, 0)
    assert shown(editor.map_image).getpixel((0, 255)) == tuple(bytes.fromhex(COLOURS[1][1:]))    # ground
    assert [button.style.button_color for button in editor.buttons] == commonest(map_of())
    assert len(set(commonest(map_of()))) == 3    # the sun fills most of a cell
    assert editor.buttons[0].tooltip == "sky" and editor.buttons[63].tooltip == "ground"


@pytest.mark.parametrize("what, x, y", [("tree", 20, 48), ("sun or moon", 20, 44)])    # a foot; a centre
def test_a_click_stamps_what_the_menu_says(editor, what, x, y):
    editor.what.value, editor.size.value = what, 24
    editor.buttons[5 * 8 + 2].click()
    assert torch.equal(editor.semantic_map, stamp(map_of(), what, x, y, 24))
    assert len(editor.draw.maps) == 1, "nothing is drawn before it is asked for"
    colour = tuple(bytes.fromhex(COLOURS[CLASSES.index(what)][1:]))
    assert colour in {pixel for _, pixel in shown(editor.map_image).getcolors()}
    assert COLOURS[CLASSES.index(what)] in [button.style.button_color for button in editor.buttons]


def test_draw_undo_and_start_over(editor):
    editor.buttons[42].click()
    first = editor.semantic_map
    editor.buttons[47].click()
    editor.actions["draw"].click()
    assert torch.equal(editor.draw.maps[-1], editor.semantic_map) and len(editor.draw.maps) == 2
    assert shown(editor.picture).getpixel((0, 0)) == (2, 0, 0)
    editor.actions["undo"].click()
    assert torch.equal(editor.semantic_map, first) and not torch.equal(first, map_of())
    editor.buttons[47].click()
    editor.actions["start over"].click()
    assert torch.equal(editor.semantic_map, map_of())
    assert torch.equal(editor.draw.maps[-1], map_of()), "the picture beside it is that of the first map again"
    assert shown(editor.picture).getpixel((0, 0)) == (3, 0, 0)
    editor.actions["undo"].click()    # nothing to take back
    assert torch.equal(editor.semantic_map, map_of())
    assert [button.style.button_color for button in editor.buttons] == commonest(map_of())


def test_complaints_are_shown_instead_of_raised(editor):
    before = editor.picture.value
    editor.what.value, editor.size.value = "sky", 32
    for cell in (*range(32, 40), *range(56, 64)):
        editor.buttons[cell].click()
    editor.actions["draw"].click()
    assert "no ground" in editor.complaint.value and editor.picture.value == before
    editor.actions["start over"].click()
    editor.actions["draw"].click()
    assert editor.complaint.value == "" and editor.picture.value != before


def test_another_grid_has_cells_of_another_size():
    editor = MapEditor(map_of(), Painted(), COLOURS, cells=4)
    editor.buttons[9].click()
    assert len(editor.buttons) == 16 and torch.equal(editor.semantic_map, stamp(map_of(), "tree", 24, 48, 20))


def test_only_widgets_that_ipywidgets_7_has(editor):
    """Built-ins, made with keyword arguments: what Colab has."""
    found, left = set(), [editor.widget]
    while left:
        widget = left.pop()
        found.add(type(widget).__name__)
        left += getattr(widget, "children", ())
    assert found == {"VBox", "HBox", "GridBox", "Dropdown", "IntSlider", "Button", "Image", "HTML"}
