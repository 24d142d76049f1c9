"""Pictures and widgets: the right pixels, the same bytes, and complaints shown instead of raised."""
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.course import viz
from ldm_edu.tiny_worlds.captions import vocabulary
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.tiny_worlds.things import CLASSES


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_to_pil_rounds_as_diffusers_does():
    image = torch.linspace(-1.2, 1.2, 3 * 8 * 8).view(3, 8, 8)
    expected = ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    pixels = torch.from_numpy(np.array(viz.to_pil(image))).permute(2, 0, 1)
    assert torch.equal(pixels, expected)
    assert viz.to_pil(image, scale=3).size == (24, 24)


def test_grid_draws_every_picture_with_its_title():
    figure = viz.grid(torch.zeros(5, 3, 8, 8), list("abcde"), columns=3)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d", "e", ""]
    assert sum(len(axis.images) for axis in figure.axes) == 5


def test_show_is_a_jpeg_of_the_grid_and_leaves_no_figure_open():
    data = viz.show(torch.zeros(2, 3, 8, 8), columns=2, size=1.0).data
    assert Image.open(io.BytesIO(data)).size == (160, 80) and not plt.get_fignums()
    assert data == viz.show(torch.zeros(2, 3, 8, 8), columns=2, size=1.0).data


def test_show_in_a_lower_quality_weighs_less():
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert len(viz.show(noise, quality=50).data) < len(viz.show(noise).data)


def test_plot_keeps_the_hues_of_pictures():
    """28 scenes in one figure: with 128 colours, or 256 not moved to where the pixels are, skies get hues of others."""
    figure = viz.grid(to_float(render("validation", 28)[0]), columns=7)
    whole = io.BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight")
    found, expected = (np.asarray(Image.open(file).convert("RGB"), dtype=float)
                       for file in (io.BytesIO(viz.plot(figure).data), whole))
    error = np.sqrt(np.square(found - expected).mean())
    print(f"{error:.2f} grey levels off")
    assert error < 4.5


def test_plot_is_a_small_png_and_leaves_no_figure_open():
    def diagram():
        figure, axis = plt.subplots(figsize=(2, 1), dpi=80)
        axis.fill_between([0, 1], [1, 1], color=viz.VERMILION)
        axis.set_axis_off()
        return figure

    data = viz.plot(diagram()).data
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "P" and not plt.get_fignums() and data == viz.plot(diagram()).data
    assert picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2)) == (213, 94, 0)


def test_animation_is_a_gif_with_the_same_bytes_each_time():
    frames = [torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0)]
    data = viz.animate(frames).data
    assert data == viz.animate(frames).data
    assert Image.open(io.BytesIO(data)).n_frames == 3


def test_contact_sheet_puts_tiles_in_rows():
    sheet = viz.contact_sheet([torch.full((3, 4, 4), -1.0)] * 3, columns=2, scale=1, gap=2)
    assert sheet.size == (10, 10) and sheet.getpixel((0, 0)) == (0, 0, 0) and sheet.getpixel((7, 7)) == (255, 255, 255)


def test_every_class_has_a_colour_and_every_gallery_prompt_is_in_the_vocabulary():
    assert viz.CLASS_COLOURS.N == len(CLASSES)
    words = set(vocabulary())
    for prompt in viz.GALLERY:
        assert set(prompt.replace(",", " ,").split()) <= words, prompt
    assert len(viz.GALLERY) == 16


def test_explore_redraws_and_complains():
    calls = []

    def draw(prompt, steps, guidance, sampler):
        calls.append((prompt, steps, guidance, sampler))
        if not prompt:
            raise ValueError("prompt: got ''")
        return Image.new("RGB", (4, 4), (steps, 0, 0))

    box = viz.explore(draw, prompt="a cat", steps=(1, 50, 20), guidance=(1.0, 9.0, 4.0), sampler=["ddim", "ddpm"])
    prompt, steps, guidance, sampler, picture, complaint = box.children
    assert isinstance(steps, ipywidgets.IntSlider) and isinstance(guidance, ipywidgets.FloatSlider)
    assert calls == [("a cat", 20, 4.0, "ddim")]
    steps.value = 30
    assert calls[-1] == ("a cat", 30, 4.0, "ddim")
    assert Image.open(io.BytesIO(picture.value)).getpixel((0, 0)) == (30, 0, 0)
    before = picture.value
    prompt.value = ""
    assert "prompt: got" in complaint.value and picture.value == before
    prompt.value = "a dog"
    assert complaint.value == "" and calls[-1][0] == "a dog"


def test_series_map_names_every_chapter():
    text = " ".join(t.get_text() for t in viz.series_map().axes[0].texts)
    for chapter in range(1, 11):
        assert f"{chapter:02d}" in text


def test_a_picture_table_has_named_rows_and_titled_columns():
    """Pictures and maps in one table; what `draw_edits` and `draw_conditions` draw into."""
    figure = viz.picture_table({"scenes": torch.zeros(2, 3, 8, 8), "maps": torch.zeros(2, 8, 8, dtype=torch.long)},
                               ["one", "two"])
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["scenes", "maps"]
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", "", ""]
    assert all(axis.images for axis in figure.axes)
    plt.close(figure)
