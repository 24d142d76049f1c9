"""Pictures: the right pixels, and the same bytes each time."""
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ldm_edu import DATA
from ldm_edu.course import viz
from ldm_edu.course.readme_figures import GALLERY
from ldm_edu.tiny_worlds.captions import vocabulary
from ldm_edu.tiny_worlds.datasets import TinyWorlds, render, to_float
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
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d", "e"]
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


@pytest.mark.parametrize("draw, alt", [
    (lambda: viz.show(torch.zeros(2, 3, 8, 8), ["a cat", "a dog"], title="Two\n pictures\n"), "Two pictures"),
    (lambda: viz.show(torch.zeros(4, 3, 8, 8), ["a cat", "a\ndog", "a cat", ""]), "a cat; a dog"),
    (lambda: viz.plot(viz.picture_table({"a": torch.zeros(2, 3, 8, 8)}, ["x", "y"], "Rows of $x_0$"), lossless=True),
     "Rows of x_0"),
    (lambda: viz.plot(viz.series_map("03")), "How the whole system is trained and samples; chapter 03 is lit up"),
    (lambda: viz.plot(viz.series_map()), "How the whole system is trained and samples"),
    (lambda: viz.plot(_drawing()), "encoder; z"),
    (lambda: viz.animate(torch.zeros(4, 3, 8, 8)), "Animation of 4 pictures"),
])
def test_screen_readers_hear_the_titles(draw, alt):
    """In the metadata of the output, by the type of the picture: there nbconvert and the book look for it."""
    data, metadata = InteractiveShell.instance().display_formatter.format(draw())
    mime, = {*data} - {"text/plain"}
    assert mime.startswith("image/") and metadata == {mime: {"alt": alt}}
    assert data["text/plain"] == "<IPython.core.display.Image object>"


def _drawing():
    figure, axis = plt.subplots()
    axis.text(0, 0, "encoder")
    axis.text(1, 0, "$z$")
    return figure


def test_contact_sheet_puts_tiles_in_rows():
    sheet = viz.contact_sheet([torch.full((3, 4, 4), -1.0)] * 3, columns=2, scale=1, gap=2)
    assert sheet.size == (10, 10) and sheet.getpixel((0, 0)) == (0, 0, 0) and sheet.getpixel((7, 7)) == (255, 255, 255)
    assert viz.contact_sheet(torch.zeros(1, 3, 4, 4), scale=3).size == (12, 12)


def test_contact_sheet_enlarges_pixels_and_keeps_white_gaps():
    images = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sheet = np.array(viz.contact_sheet(images, columns=3, scale=2, gap=3))
    assert sheet.shape == (2 * 10 + 3, 3 * 8 + 2 * 3, 3)
    white = np.ones(sheet.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = i // 3 * 13, i % 3 * 11
        assert np.array_equal(sheet[y:y + 10, x:x + 8], np.array(viz.to_pil(image, 2)))
        white[y:y + 10, x:x + 8] = False
    assert (sheet[white] == 255).all()


def test_the_shipped_sheet_of_scenes_is_drawn_again():
    world = TinyWorlds("validation", 48)
    sheet = viz.contact_sheet([world[i].image for i in range(48)], columns=12)
    assert np.array_equal(np.array(sheet), np.array(Image.open(DATA / "samples/world.png").convert("RGB")))


def test_every_class_has_a_colour_and_every_gallery_prompt_is_in_the_vocabulary():
    assert viz.CLASS_COLOURS.N == len(CLASSES)
    words = set(vocabulary())
    for prompt in GALLERY:
        assert set(prompt.replace(",", " ,").split()) <= words, prompt
    assert len(GALLERY) == 16


def test_a_logarithmic_axis_is_labelled_where_it_should_be():
    axis = plt.figure().add_subplot(xscale="log", xlim=(1, 4000))
    viz.label_values(axis, [1, 7.5, 4000])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "7.5", "4,000"]
    assert len(axis.get_xticks(minor=True)) == 0


def test_series_map_names_every_chapter():
    text = " ".join(t.get_text() for t in viz.series_map().axes[0].texts)
    for chapter in range(1, 11):
        assert f"{chapter:02d}" in text


def test_series_map_lights_up_one_chapter():
    def edges(figure):
        return [patch.get_edgecolor() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    everything, third = edges(viz.series_map()), edges(viz.series_map("03"))
    assert sum(a == b for a, b in zip(everything, third)) == 2, "encoder and decoder"


def test_a_picture_table_has_named_rows_and_titled_columns():
    figure = viz.picture_table({"scenes": torch.zeros(2, 3, 8, 8), "maps": torch.zeros(2, 8, 8, dtype=torch.long)},
                               ["one", "two"])
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["scenes", "maps"]
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", "", ""]
    assert all(axis.images for axis in figure.axes)


@pytest.mark.parametrize("side, scale", [(64, 2), (32, 4), (128, 1)])
def test_a_lossless_picture_table_keeps_every_pixel(side, scale):
    noise = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    table = viz.picture_table({"a": noise[:2], "a long name": noise[2:]}, ["x", "y"], "Noise")
    picture = Image.open(io.BytesIO(viz.plot(table, lossless=True).data))
    found = np.array(picture)
    assert picture.format == "PNG" and found.shape == (45 + 2 * 132, 85 + 2 * 132, 3)
    for i, image in enumerate(noise):
        y, x = 45 + i // 2 * 132, 85 + i % 2 * 132
        assert np.array_equal(found[y:y + 128, x:x + 128], np.array(viz.to_pil(image, scale)))
