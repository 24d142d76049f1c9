"""The figures of the README: `python -m ldm_edu.course.readme_figures data/tiny-worlds` to data/samples."""
from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from .. import DATA
from ..pipeline import LatentDiffusion
from ..support.commands import CommandLine, new_folder, run_command
from ..tiny_worlds.datasets import Example, TinyWorlds
from .viz import contact_sheet, grid, picture_table

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


def draw_conditions(ldm: LatentDiffusion, examples: Sequence[Example]) -> Figure:
    """Draw from a caption, a picture and a semantic map: one column per example, each with a semantic map."""
    images, maps = (torch.stack([getattr(e, name) for e in examples]) for name in ("image", "semantic_map"))
    texts = [e.text for e in examples]
    return picture_table({"a scene": images, "told its caption": ldm.text_to_image(texts),
                          "shown its picture": ldm.variations(images), "its semantic map": maps,
                          "given that map": ldm.map_to_image(maps)}, texts)


def draw_edits(ldm: LatentDiffusion, examples: Sequence[Example], prompts: Sequence[str]) -> Figure:
    """Repaint each scene as its prompt says, and paint a mushroom into a hole in its middle."""
    images, mask = torch.stack([e.image for e in examples]), torch.zeros(1, 1, 64, 64)
    mask[..., 16:56, 16:48] = 1
    mushroom = ["a big red mushroom in the middle"] * len(images)
    return picture_table({"a scene": images, "image to image": ldm.image_to_image(list(prompts), images, 0.7),
                          "cut out": images * (1 - mask) + 0.6 * mask,
                          "inpainted": ldm.inpaint(mushroom, images, mask, rounds=4)}, prompts)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = CommandLine("ldm_edu.course.readme_figures", __doc__)
    parser.add_argument("checkpoint", type=Path, help="a model: a folder such as data/tiny-worlds")
    parser.add_argument("--out", type=new_folder, default=DATA / "samples", help="folder for the pictures")
    run_command(parser, arguments, draw_all)


def draw_all(args: Namespace) -> None:
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)
    world = TinyWorlds("validation", 48)
    examples = [world[i] for i in range(48)]
    grid(ldm.text_to_image(list(GALLERY)), GALLERY, columns=4, size=2.2).savefig(args.out / "gallery.png")
    draw_conditions(ldm, examples[:6]).savefig(args.out / "conditions.png")
    draw_edits(ldm, examples[:6], GALLERY[6:12]).savefig(args.out / "edits.png")
    contact_sheet([e.image for e in examples], columns=12).save(args.out / "world.png", optimize=True)


if __name__ == "__main__":
    main()
