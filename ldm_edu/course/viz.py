"""Every picture of the series: grids, strips, animations, and the map of the chapters."""
from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from textwrap import fill as wrapped

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


def picture_table(rows: dict[str, Sequence[Tensor]], titles: Sequence[str], title: str = "", side: int = 128) -> Figure:
    """Draw named rows of images (3, H, W) or semantic maps (H, W), each pixel enlarged by a whole number, to `side`."""
    names, texts = [wrapped(name, 14) for name in rows], [wrapped(text, side // 5) for text in titles]
    left, step = 8 + 7 * max(len(line) for name in names for line in name.split("\n")), side + 4    # pixels
    top = 33 + 12 * max(bool(text) + text.count("\n") for text in texts)
    wide, high = left + step * len(titles), top + step * len(rows)
    figure = plt.figure(figsize=(wide / 80, high / 80), dpi=80)
    figure.suptitle(title, fontsize=11, y=1 - 4 / high, va="top")
    for i, pictures in enumerate(rows.values()):
        for j, picture in enumerate(pictures):
            h, w = (length * max(1, side // max(picture.shape[-2:])) for length in picture.shape[-2:])
            axis = figure.add_axes(((left + j * step) / wide, 1 - (top + i * step + h) / high, w / wide, h / high))
            axis.imshow(picture if picture.ndim == 2 else to_pil(picture), interpolation="nearest",
                        cmap=CLASS_COLOURS, vmin=-0.5, vmax=len(CLASSES) - 0.5)    # a map's, one colour per class
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.set_title("" if i else texts[j], fontsize=9 if max(map(len, texts)) < 20 else 7.5, pad=3)
            axis.set_ylabel("" if j else names[i], fontsize=9, rotation=0, ha="right", va="center")
    return figure


def show(images: Tensor | Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 8,
         title: str = "", size: float = 1.5, quality: int = 88) -> InlineImage:
    """Show `grid` in a notebook, as JPEG of `quality` 1 to 95."""
    figure, buffer = grid(images, titles, columns, title, size), io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": quality})    # in PNG a notebook would weigh megabytes
    return _inline(figure, buffer, "jpeg")


def plot(figure: Figure, lossless: bool = False) -> InlineImage:
    """Show a figure in a notebook as PNG: of 256 colours, a quarter of what `plt.show()` stores, or `lossless`."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches=None if lossless else "tight")
    picture = Image.open(buffer).convert("RGB")
    if not lossless:    # kmeans moves colours to where the figure has most pixels, or skies show bands of other hues
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    picture.save(small, "PNG", optimize=True)
    return _inline(figure, small, "png")


def _inline(figure: Figure, file: io.BytesIO, format: str) -> InlineImage:
    """Close a figure and show its file. Screen readers hear its title, else its panels' titles, else its words."""
    plt.close(figure)
    titles, words = [axis.title for axis in figure.axes], [text for axis in figure.axes for text in axis.texts]
    lines = [[" ".join(text.get_text().replace("$", "").split()) for text in texts]    # $ marks a formula
             for texts in (figure.texts, titles, words)]
    alt = figure.get_label() or "; ".join(dict.fromkeys(filter(None, next(filter(any, lines), []))))
    return InlineImage(file.getvalue(), format=format, metadata={"alt": alt})


def label_values(axis: plt.Axes, values: Sequence[float]) -> None:
    """Put the x axis's ticks at `values` and nowhere else, written out; for logarithmic axes above all."""
    axis.set_xticks(list(values), [f"{value:,g}" for value in values])
    axis.minorticks_off()


def latent_picture(z: Tensor) -> Tensor:
    """Make an image (3, h, w) in [-1, 1] of the first three channels of a latent (4, h, w), without decoding it."""
    return (z[:3] / 3).clamp(-1, 1)


def animate(images: Iterable[Tensor], scale: int = 3, milliseconds: int = 150) -> InlineImage:
    """Show images (3, H, W) as a looping GIF that rests for a second at the end; its bytes are deterministic."""
    frames, buffer = [to_pil(image, scale).quantize(64) for image in images], io.BytesIO()    # small files
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0,
                   duration=[milliseconds] * (len(frames) - 1) + [1000])
    return InlineImage(buffer.getvalue(), format="gif", metadata={"alt": f"Animation of {len(frames)} pictures"})


def series_map(chapter: str = "") -> Figure:
    """Draw how the whole system is trained and how it samples. chapter: "03" lights up what chapter 03 builds."""
    figure, axis = plt.subplots(figsize=(10.5, 4.2), dpi=80, layout="constrained")
    figure.set_label("How the whole system is trained and samples" + f"; chapter {chapter} is lit up" * bool(chapter))
    axis.set(xlim=(-1, 105), ylim=(0, 44))
    axis.axis("off")
    training, sampling = "#444444", BLUE
    boxes = [    # left, bottom, width, height, text, chapters, colour
        (0, 20, 12, 8, "picture", "01", SKY_BLUE), (18, 20, 13, 8, "autoencoder,\nencoder", "03", GREEN),
        (37, 20, 13, 8, "add noise ε", "01", BLUE), (84, 20, 20, 8, "loss: how far is\nthis from ε?", "02 06 12", PINK),
        (0, 2, 12, 8, "pure noise", "01", SKY_BLUE),
        (37, 2, 15, 8, "sampler: remove\na little noise", "02 07 11", BLUE),
        (67, 2, 13, 8, "autoencoder,\ndecoder", "03", GREEN), (90, 2, 14, 8, "new picture", "07 08", SKY_BLUE),
        (57, 18, 21, 12, "U-Net: predicts ε;\ncross-attention reads\nthe condition", "02 05 06 12", VERMILION),
        (18, 36, 24, 7, "condition: words,\na picture or a map", "06 08", YELLOW),
        (57, 36, 21, 7, "encoder τ", "04 06", ORANGE), (84, 36, 20, 7, "Stable Diffusion · claims", "09 10", PINK)]
    arrows = [    # from, to, path
        (12, 24, 18, 24, training), (31, 24, 37, 24, training), (50, 24, 57, 24, training), (78, 24, 84, 24, training),
        (12, 6, 37, 6, sampling), (46, 10, 58, 18, sampling), (67, 18, 52, 8.5, sampling), (52, 5, 67, 5, sampling),
        (80, 6, 90, 6, sampling), (42, 39.5, 57, 39.5, training), (67.5, 36, 67.5, 30, training)]
    for x, y, w, h, text, chapters, colour in boxes:
        lit = not chapter or chapter in chapters.split()
        axis.add_patch(FancyBboxPatch((x + 0.4, y + 0.4), w - 0.8, h - 0.8, boxstyle="round,pad=0.4", lw=1.8,
                                      fc=colour + ("50" if lit else "08"), ec=colour if lit else "#C8C8C8"))
        axis.text(x + w / 2, y + h / 2, f"{text}\n{chapters.replace(' ', ' · ')}", ha="center", va="center",
                  fontsize=9, color="black" if lit else "#707070")
    for *start, x, y, colour in arrows:
        axis.add_patch(FancyArrowPatch(start, (x, y), arrowstyle="-|>", mutation_scale=13, color=colour, lw=1.5,
                                       ls="--" if colour == sampling else "-", shrinkA=2, shrinkB=2))
    for x, y, text, colour in ((0, 31, "training", training), (0, 13, "sampling", sampling)):
        axis.text(x, y, text, fontsize=11, weight="bold", color=colour)
    for x, y, text in ((34, 25, "latent"), (53.5, 25, "noisy"), (49, 14.5, "noisy"), (63, 12.5, "ε"),
                       (59.5, 2.5, "clean")):
        axis.text(x, y, text, fontsize=8, ha="center", color="#444444")
    return figure
