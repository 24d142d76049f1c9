"""Every picture of the series: grids, strips, animations, the map of the chapters, and widgets.

`python -m ldm_edu.viz data/tiny-worlds` draws the figures of the README into data/samples.
"""
from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image as InlineImage
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from torch import Tensor

from .loss_study import load_study, rebuild
from .painting import CLASSES
from .pipeline import LatentDiffusion
from .worlds import Example, TinyWorlds

# Okabe & Ito 2008: colours that the colour-blind tell apart.
ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
CLASS_COLOURS = ListedColormap([SKY_BLUE, "#B8B08D", YELLOW, VERMILION, GREEN, BLUE, "#8C1C13", PINK, "#666666",
                                ORANGE, "#1B5E20", "#5D4037", "#F5F5F5"])

GALLERY = (  # the README's prompts: every sky on every ground, and some weather
    "a big red house on the left and a small orange cat, by day, on the grass",
    "two yellow boats, by day, on the water, with a rainbow",
    "a big purple cactus in the middle, by day, in the desert",
    "a small red car in front of a big green tree, by day, on the snow",
    "a big pink mushroom, at sunset, on the grass, with clouds",
    "a white rocket and a small blue cat, at sunset, on a beach",
    "a large red boat in the middle, at sunset, on the sea",
    "a snowman on the right and an orange house, at sunset, on the snow",
    "a big yellow balloon and a tiny red mushroom, at night, in a green meadow",
    "a big green rocket, at night, in the desert, under a clear sky",
    "a big blue snowman, at night, on the snow, while it snows",
    "a white house on the right and a small red boat, at night, on the water",
    "three pink balloons, by day, on the sand, with clouds",
    "a tiny yellow car to the left of a big blue house, on the grass, in the rain",
    "a small purple cat in front of a large white house, at dusk, on a lawn, under a rainbow",
    "a big orange tree and a small red snowman, by night, in the rain, on the grass")


def to_pil(image: Tensor, scale: int = 1) -> Image.Image:
    """A picture (3, H, W) in [-1, 1] as a Pillow image, `scale` times as large, pixels kept square."""
    pixels = (image.detach().cpu().clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def grid(images: Tensor | Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 8,
         title: str = "", size: float = 1.5) -> Figure:
    """A figure with pictures (3, H, W) in [-1, 1] in rows, `size` inches each."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    height = size * (1.0 if titles is None else 1.3)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, height * rows + 0.3 * bool(title)),
                                dpi=80, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images)):
        axis.imshow(to_pil(image))
        if titles is not None:
            axis.set_title(wrapped(titles[i], round(size * 13)), fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def show(images: Tensor | Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 8,
         title: str = "", size: float = 1.5, quality: int = 88) -> InlineImage:
    """The `grid` as a notebook output, in JPEG: a stored notebook of PNGs would weigh megabytes.

    quality: of the JPEG, 1…95. Noise weighs most and hides what a lower one does to it.
    """
    figure, buffer = grid(images, titles, columns, title, size), io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": quality})
    plt.close(figure)
    return InlineImage(buffer.getvalue(), format="jpeg")


def plot(figure: Figure) -> InlineImage:
    """A diagram as a notebook output, in PNG of 256 colours: a quarter of what `plt.show()` would store."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    # kmeans moves the colours to where the figure has most, or skies come out in bands of other hues
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(small, "PNG", optimize=True)
    return InlineImage(small.getvalue(), format="png")


def wrapped(text: str, width: int) -> str:
    """`text` broken into lines of at most `width` characters where it can be."""
    return "\n".join(textwrap.wrap(text, width))


def latent_picture(z: Tensor) -> Tensor:
    """The first three channels of a latent (4, h, w) as a picture (3, h, w) in [-1, 1]: a look, not a decoding."""
    return (z[:3] / 3).clamp(-1, 1)


def show_map(semantic_map: Tensor, axis: plt.Axes) -> None:
    """Draw a semantic map (H, W) into an axis, one colour a class."""
    axis.imshow(semantic_map, cmap=CLASS_COLOURS, vmin=-0.5, vmax=len(CLASSES) - 0.5, interpolation="nearest")
    axis.axis("off")


def animate(images: Iterable[Tensor], scale: int = 3, milliseconds: int = 150) -> InlineImage:
    """Pictures (3, H, W) as a looping GIF that waits a second at the end; the same pictures give the same bytes."""
    frames = [to_pil(image, scale).quantize(64) for image in images]    # fewer colours, a smaller file
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0,
                   duration=[milliseconds] * (len(frames) - 1) + [1000])
    return InlineImage(buffer.getvalue(), format="gif")


def explore(draw: Callable[..., Image.Image], **controls):
    """Widgets for the arguments of `draw`, whose Pillow image is shown and redrawn at every change.

    A control is a string (a text box), (low, high, start) (a slider: of floats if any is one) or a list (a menu).
    What `draw` raises as ValueError is shown under the picture. Works with ipywidgets 7 and 8.
    """
    import ipywidgets as widgets

    def widget(name: str, value):
        style = {"description": name.replace("_", " "), "continuous_update": False}
        if isinstance(value, str):
            return widgets.Text(value=value, layout=widgets.Layout(width="95%"), **style)
        if isinstance(value, list):
            return widgets.Dropdown(options=value, value=value[0], description=style["description"])
        low, high, start = value
        slider = widgets.FloatSlider if any(isinstance(v, float) for v in value) else widgets.IntSlider
        return slider(min=low, max=high, value=start, **style)

    boxes = {name: widget(name, value) for name, value in controls.items()}
    picture, complaint = widgets.Image(format="png"), widgets.HTML()

    def redraw(_=None):
        try:
            buffer = io.BytesIO()
            draw(**{name: box.value for name, box in boxes.items()}).save(buffer, "PNG")
            picture.value, complaint.value = buffer.getvalue(), ""
        except ValueError as error:
            complaint.value = f"<b>{error}</b>"

    for box in boxes.values():
        box.observe(redraw, names="value")
    redraw()
    return widgets.VBox(children=[*boxes.values(), picture, complaint])


def series_map() -> Figure:
    """The whole series in one figure: what happens to a prompt and a picture, each part with its chapter."""
    figure, axis = plt.subplots(figsize=(10.5, 4.6), dpi=80, layout="constrained")
    axis.set(xlim=(0, 100), ylim=(0, 46))
    axis.axis("off")

    def box(x, y, w, h, text, colour):
        axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.4", fc=colour + "40", ec=colour, lw=1.8))
        axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, text="", dy=1.2, curve=0.0):
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="#444444",
                                       connectionstyle=f"arc3,rad={curve}"))
        axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + dy, text, ha="center", fontsize=8)

    box(1, 16, 13, 10, "pixels\n3 × 64 × 64\n01 · 02", SKY_BLUE)
    box(22, 16, 13, 10, "autoencoder\nencode\n03", GREEN)
    box(44, 14, 20, 14, "U-Net predicts the noise\ncross-attention: pixels\nlook at words\n02 · 05 · 06", VERMILION)
    box(72, 16, 12, 10, "autoencoder\ndecode\n03", GREEN)
    box(90, 16, 9, 10, "picture\n07 · 08", SKY_BLUE)
    box(22, 36, 18, 8, "“a red boat at night”\n04", ORANGE)
    box(46, 36, 16, 8, "text encoder τ\n04", ORANGE)
    box(70, 36, 22, 8, "an image or a semantic map,\neach with its own τ   06 · 08", ORANGE)
    box(22, 1, 18, 8, "forward: add noise\n01", BLUE)
    box(46, 1, 16, 8, "reverse: sampler\n02 · 07", BLUE)
    box(72, 1, 27, 8, "09 · the same code, Stable Diffusion\n10 · every claim measured", PINK)
    arrow((15, 21), (21, 21))
    arrow((63, 8), (74, 15))
    axis.text(72.5, 11, "latent", fontsize=8)
    arrow((85, 21), (89, 21))
    arrow((41, 40), (45, 40))
    arrow((54, 35), (54, 29))
    arrow((69, 38), (62, 29))
    arrow((41, 5), (45, 5))
    arrow((31, 15), (31, 10))
    axis.text(29.5, 12, "latent, 4 × 8 × 8", fontsize=8, ha="right")
    arrow((51, 10), (51, 13))
    arrow((58, 13), (58, 10))
    axis.text(54.5, 11, "30 ×", fontsize=8, ha="center")
    figure.suptitle("From pixels to pixels: each part and the chapter that builds it", fontsize=11)
    return figure


def contact_sheet(images: Sequence[Tensor], columns: int = 8, scale: int = 2, gap: int = 2) -> Image.Image:
    """Pictures (3, H, W) side by side on white, without text."""
    tiles = [np.asarray(to_pil(image, scale)) for image in images]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y:y + height, x:x + width] = tile
    return Image.fromarray(sheet)


def picture_table(rows: dict[str, Sequence[Tensor]], titles: Sequence[str]) -> Figure:
    """Named rows of pictures (3, H, W) or semantic maps (H, W), with a title above each column."""
    figure, axes = plt.subplots(len(rows), len(titles), figsize=(1.75 * len(titles), 1.75 * len(rows)), dpi=80,
                                layout="constrained", squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items()):
        for axis, picture in zip(line, pictures):
            show_map(picture, axis) if picture.ndim == 2 else axis.imshow(to_pil(picture, 3))
            axis.set(xticks=[], yticks=[])
        line[0].axis("on")
        line[0].set_ylabel(name, fontsize=10)
    for axis, title in zip(axes[0], titles):
        axis.set_title(textwrap.fill(title, 27), fontsize=7)
    return figure


def draw_conditions(ldm: LatentDiffusion, examples: Sequence[Example]) -> Figure:
    """Three ways to ask for a scene, and what is drawn: one column an example, which must have a semantic map."""
    images, maps = (torch.stack([getattr(e, name) for e in examples]) for name in ("image", "semantic_map"))
    texts = [e.text for e in examples]
    return picture_table({"a scene": images, "told its caption": ldm.text_to_image(texts),
                          "shown its picture": ldm.variations(images), "its semantic map": maps,
                          "given that map": ldm.map_to_image(maps)}, texts)


def draw_edits(ldm: LatentDiffusion, examples: Sequence[Example], prompts: Sequence[str]) -> Figure:
    """Scenes repainted as a prompt each says; and with their middle cut out and a mushroom painted into it."""
    images, mask = torch.stack([e.image for e in examples]), torch.zeros(1, 1, 64, 64)
    mask[..., 16:56, 16:48] = 1
    mushroom = ["a big red mushroom in the middle"] * len(images)
    return picture_table({"a scene": images, "image to image": ldm.image_to_image(list(prompts), images, 0.7),
                          "cut out": images * (1 - mask) + 0.6 * mask,
                          "inpainted": ldm.inpaint(mushroom, images, mask, rounds=4)}, prompts)


def main(arguments: list[str] | None = None) -> None:
    """The command line: the README's figures."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.viz", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/samples"))
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    pictures = ldm.text_to_image(list(GALLERY), seed=0)
    grid(pictures, GALLERY, columns=4, size=2.2).savefig(args.out / "gallery.png")
    world = TinyWorlds("validation", 48)
    if ldm.image_encoder is not None and ldm.map_encoder is not None:
        draw_conditions(ldm, [world[i] for i in range(6)]).savefig(args.out / "conditions.png")
    draw_edits(ldm, [world[i] for i in range(6)], GALLERY[6:12]).savefig(args.out / "edits.png")
    contact_sheet([world[i].image for i in range(48)], columns=12).save(args.out / "world.png", optimize=True)
    with torch.no_grad():
        originals = torch.stack([world[i].image for i in range(12)])
        rebuilt = ldm.decode(ldm.autoencoder.to_latent(originals))
    contact_sheet([*originals, *rebuilt], columns=12).save(args.out / "reconstructions.png", optimize=True)
    rows = [originals, *(rebuild(autoencoder, originals) for autoencoder in load_study()[0].values())]
    crops = [image[:, 22:54, 4:60] for row in rows for image in row[:6]]
    contact_sheet(crops, columns=6, scale=3).save(args.out / "losses.png", optimize=True)


if __name__ == "__main__":
    main()
