"""The figures of the README: `python -m ldm_edu.course.readme_figures data/tiny-worlds`."""
from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..pipeline import LatentDiffusion
from ..studies.autoencoder_losses import load_study, rebuild
from ..tiny_worlds.datasets import Example, TinyWorlds
from .viz import grid, show_map, to_pil

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
