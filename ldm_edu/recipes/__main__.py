"""Train one of the shipped networks, or a model of your own pictures.

In several processes, one a GPU or a CPU core; the batch grows with them:
torchrun --nproc-per-node 2 -m ldm_edu.recipes ldm --threads 1
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from .. import DATA
from ..support.commands import choose, command_line, run_command

NAMES = {
    "oracle": "the classifier that reads a scene's attributes, to data/oracle",
    "segmenter": "the network that reads semantic maps, to data/segmenter",
    "features": "the network under our LPIPS, to data/features",
    "vae": "the autoencoder, to data/tiny-worlds",
    "decoder": "its decoder alone, trained further, to data/tiny-worlds",
    "clip": "the text and image transformers, to data/clip",
    "ldm": "the U-Net, after clip and vae, to data/tiny-worlds",
    "pixels": "the pixel model of chapter 02, to data/pixels",
    "own": "FOLDER --out MODEL: all of it on your own captioned pictures"}
OWN = """Train autoencoder, text transformer and U-Net on your own pictures, and let the doctor examine the result.

FOLDER holds pictures and metadata.csv or metadata.jsonl with the fields file_name and text (the imagefolder convention
of Hugging Face datasets), or a folder of pictures for each class, whose name is the caption. With --torchvision NAME it
is where that data set lies or is downloaded to, and the names of its classes are the captions. MODEL becomes a folder
like data/tiny-worlds.
"""


def add_shipped(parser: ArgumentParser) -> None:
    """Add the options of a shipped network."""
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or prolong it with --steps")
    parser.add_argument("--warm", action="store_true", help="a new run, from the weights in --out")
    parser.add_argument("--out", type=Path, help="checkpoint folder (default: the shipped one)")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--precision", help="float32, medium or bfloat16 (fastest on a CPU with AMX)")


def train_shipped(name: str, args: Namespace) -> None:
    """Train a shipped network."""
    from ..support.distributed import process_group  # here and below: --help need not wait for torch
    from .runner import PROFILES, run

    profile = PROFILES[name][args.profile]
    given = {option: value for option in ("steps", "precision") if (value := getattr(args, option)) is not None}
    profile = replace(profile, train=replace(profile.train, **given))
    folder = "tiny-worlds" if name in ("vae", "decoder", "ldm") else name
    with process_group():
        run(name, profile, args.out or DATA / folder, args.resume, args.warm)


def add_own(parser: ArgumentParser) -> None:
    """Add the options of a model of your own pictures."""
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--size", type=int, default=64, help="pixels a side, 64 to 128")
    parser.add_argument("--steps", type=int, default=4000, help="of the U-Net")
    parser.add_argument("--first-steps", type=int, default=1000, help="of the autoencoder, before")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--torchvision", metavar="NAME", help="a classification set such as CIFAR10")
    parser.add_argument("--resume", action="store_true", help="continue a killed run")
    parser.add_argument("--cold", action="store_true", help="from random weights, not from the shipped ones")


def train_and_examine(args: Namespace) -> None:
    """Train a model of your own pictures, and print what the doctor finds."""
    from ..doctor.examine import examine
    from ..support.distributed import pick_device
    from .own_data import open_pictures, train_own

    pictures = open_pictures(args.folder, args.size, args.torchvision)
    ldm, examples = train_own(pictures, args.out, args.size, args.steps, args.first_steps, args.batch, args.resume,
                              args.cold, pick_device())
    print(f"saved to {args.out}; the doctor's findings on the first {len(examples)} pictures:")
    for finding in examine(ldm, examples) or ["none"]:
        print(finding)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; wrong input ends it with one sentence and exit code 2."""
    name, arguments = choose("ldm_edu.recipes", __doc__, NAMES, arguments)
    own = name == "own"
    parser = command_line(f"ldm_edu.recipes {name}", OWN if own else f"Train {NAMES[name]}.")
    (add_own if own else add_shipped)(parser)
    run_command(parser, arguments, train_and_examine if own else partial(train_shipped, name))


if __name__ == "__main__":
    main()
