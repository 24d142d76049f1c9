"""Every picture of the series: grids, strips, animations, the map of the chapters, and widgets.

`python -m ldm_edu.viz data/tiny-worlds` draws the figures of the README into data/samples.
"""
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

# Okabe & Ito 2008: colours that the colour-blind tell apart.
ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
CLASS_COLOURS = ListedColormap([SKY_BLUE, "#B8B08D", YELLOW, VERMILION, GREEN, BLUE, "#8C1C13", PINK, "#666666",
                                ORANGE, "#1B5E20", "#5D4037", "#F5F5F5"])


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
