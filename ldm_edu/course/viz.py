"""Every picture of the series: grids, strips, animations, and the map of the chapters."""
from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from IPython.display import Image as InlineImage
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from torch import Tensor

from ..tiny_worlds.things import CLASSES

# Okabe & Ito 2008: colours that the colour-blind can tell apart.
ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
CLASS_COLOURS = ListedColormap([SKY_BLUE, "#B8B08D", YELLOW, VERMILION, GREEN, BLUE, "#8C1C13", PINK, "#666666",
                                ORANGE, "#1B5E20", "#5D4037", "#F5F5F5"])


def to_pil(image: Tensor, scale: int = 1) -> Image.Image:
    """Convert an image (3, H, W) in [-1, 1] to Pillow, each pixel enlarged to scale x scale."""
    pixels = (image.detach().cpu().clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def contact_sheet(images: Tensor | Sequence[Tensor], columns: int = 8, scale: int = 2, gap: int = 2) -> Image.Image:
    """Put images (3, H, W) side by side on white, `gap` pixels apart, without text."""
    tiles = [to_pil(image, scale) for image in images]
    (width, height), columns = tiles[0].size, min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def grid(images: Tensor | Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 8,
         title: str = "", size: float = 1.5) -> Figure:
    """Draw images (3, H, W) in [-1, 1] in rows, `size` inches each."""
    texts = [wrapped(text, round(size * 13)) for text in titles or [""] * len(images)]
    columns, line = min(columns, len(images)), 0.125                                      # inches, of a line of a title
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    above = [line * max(texts[i].count("\n") + bool(texts[i]) for i in row) for row in rows]
    head = 0.17 * len(title.splitlines()) + 0.08 * bool(title)                            # inches, of the title
    wide, high = size * columns, head + sum(above) + size * len(rows)
    figure = plt.figure(figsize=(wide, high), dpi=80)    # placed by hand: a layout engine takes seconds
    figure.text(0.5, 1 - 0.04 / high, title, fontsize=10, ha="center", va="top")
    y = head
    for row, room in zip(rows, above):
        y += room + size
        for column, i in enumerate(row):
            axis = figure.add_axes(((column + 0.02) * size / wide, 1 - (y - 0.02 * size) / high,
                                    0.96 * size / wide, 0.96 * size / high))
            axis.imshow(to_pil(images[i]))
            axis.set_title(texts[i], fontsize=7, pad=2)
            axis.axis("off")
    return figure


def picture_table(rows: dict[str, Sequence[Tensor]], titles: Sequence[str]) -> Figure:
    """Draw named rows of images (3, H, W) or semantic maps (H, W), with a title above each column."""
    figure, axes = plt.subplots(len(rows), len(titles), figsize=(1.75 * len(titles), 1.75 * len(rows)), dpi=80,
                                layout="constrained", squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items()):
        for axis, picture in zip(line, pictures):
            show_map(picture, axis) if picture.ndim == 2 else axis.imshow(to_pil(picture, 3))
            axis.set(xticks=[], yticks=[])
        line[0].axis("on")
        line[0].set_ylabel(name, fontsize=10)
    for axis, title in zip(axes[0], titles):
        axis.set_title(wrapped(title, 27), fontsize=7)
    return figure


def show(images: Tensor | Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 8,
         title: str = "", size: float = 1.5, quality: int = 88) -> InlineImage:
    """Show `grid` in a notebook, as JPEG of `quality` 1 to 95."""
    figure, buffer = grid(images, titles, columns, title, size), io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": quality})    # in PNG a notebook would weigh megabytes
    plt.close(figure)
    return InlineImage(buffer.getvalue(), format="jpeg")


def plot(figure: Figure) -> InlineImage:
    """Show a figure in a notebook, as PNG of 256 colours: a quarter of the size that `plt.show()` stores."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    # kmeans moves the colours to where the figure has most of its pixels; without it skies show bands of other hues
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(small, "PNG", optimize=True)
    return InlineImage(small.getvalue(), format="png")


def label_values(axis: plt.Axes, values: Sequence[float]) -> None:
    """Put the x axis's ticks at `values` and nowhere else, written out; for logarithmic axes above all."""
    axis.set_xticks(list(values), [f"{value:,g}" for value in values])
    axis.minorticks_off()


def wrapped(text: str, width: int) -> str:
    """Break `text` into lines of at most `width` characters, between words where possible."""
    return textwrap.fill(text, width)


def latent_picture(z: Tensor) -> Tensor:
    """Make an image (3, h, w) in [-1, 1] of the first three channels of a latent (4, h, w), without decoding it."""
    return (z[:3] / 3).clamp(-1, 1)


def show_map(semantic_map: Tensor, axis: plt.Axes) -> None:
    """Draw a semantic map (H, W) into an axis, one colour per class."""
    axis.imshow(semantic_map, cmap=CLASS_COLOURS, vmin=-0.5, vmax=len(CLASSES) - 0.5, interpolation="nearest")
    axis.axis("off")


def animate(images: Iterable[Tensor], scale: int = 3, milliseconds: int = 150) -> InlineImage:
    """Show images (3, H, W) as a looping GIF that rests for a second at the end; its bytes are deterministic."""
    frames = [to_pil(image, scale).quantize(64) for image in images]    # fewer colours, a smaller file
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0,
                   duration=[milliseconds] * (len(frames) - 1) + [1000])
    return InlineImage(buffer.getvalue(), format="gif")


def series_map() -> Figure:
    """Draw the whole series: what happens to a prompt and a picture, each part with its chapter."""
    figure, axis = plt.subplots(figsize=(10.5, 4.6), dpi=80, layout="constrained")
    axis.set(xlim=(0, 100), ylim=(0, 46))
    axis.axis("off")
    boxes = [
        (1, 16, 13, 10, "pixels\n3 × 64 × 64\n01 · 02", SKY_BLUE),
        (22, 16, 13, 10, "autoencoder\nencode\n03", GREEN),
        (44, 14, 20, 14, "U-Net predicts the noise\ncross-attention: pixels\nlook at words\n02 · 05 · 06", VERMILION),
        (72, 16, 12, 10, "autoencoder\ndecode\n03", GREEN),
        (90, 16, 9, 10, "picture\n07 · 08", SKY_BLUE),
        (22, 36, 18, 8, "“a red boat at night”\n04", ORANGE),
        (46, 36, 16, 8, "text encoder τ\n04", ORANGE),
        (70, 36, 22, 8, "an image or a semantic map,\neach with its own τ   06 · 08", ORANGE),
        (22, 1, 18, 8, "forward: add noise\n01", BLUE),
        (46, 1, 16, 8, "reverse: sampler\n02 · 07", BLUE),
        (72, 1, 27, 8, "09 · the same code, Stable Diffusion\n10 · every claim measured", PINK)]
    arrows = [(15, 21, 21, 21), (63, 8, 74, 15), (85, 21, 89, 21), (41, 40, 45, 40), (54, 35, 54, 29),
              (69, 38, 62, 29), (41, 5, 45, 5), (31, 15, 31, 10), (51, 10, 51, 13), (58, 13, 58, 10)]
    for x, y, w, h, text, colour in boxes:
        axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.4", fc=colour + "40", ec=colour, lw=1.8))
        axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9)
    for *start, x, y in arrows:
        axis.add_patch(FancyArrowPatch(start, (x, y), arrowstyle="-|>", mutation_scale=13, color="#444444"))
    for x, y, text, align in ((72.5, 11, "latent", "left"), (29.5, 12, "latent, 4 × 8 × 8", "right"),
                              (54.5, 11, "30 ×", "center")):
        axis.text(x, y, text, fontsize=8, ha=align)
    figure.suptitle("From pixels to pixels: each part and the chapter that builds it", fontsize=11)
    return figure
