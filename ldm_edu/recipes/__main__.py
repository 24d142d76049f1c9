"""Train the shipped networks, all of them or one, or a model of your own pictures."""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..support.commands import RESUME, CommandLine, choose, new_folder, run_command, whole

NAMES = {
    "all": "everything below, in this order, and the model card's tables",
    "oracle": "the classifier that reads a scene's attributes",
    "segmenter": "the network that reads semantic maps",
    "features": "the network under our LPIPS",
    "vae": "the autoencoder, after features",
    "clip": "the text and image transformers",
    "ldm": "the U-Net and its three conditions, after clip and vae",
    "dit": "the transformer of chapter 12, after ldm, whose text encoder it keeps",
    "few_steps": "the LoRA that draws in four steps, after ldm",
    "own": "FOLDER --out MODEL: a model of your own captioned pictures"}
OWN = """Train autoencoder, text transformer and U-Net on your own pictures, and let the doctor examine the result.

FOLDER holds pictures and metadata.csv or metadata.jsonl with the fields file_name and text (the imagefolder convention
of Hugging Face datasets), or a folder of pictures for each class, whose name is the caption. With --torchvision NAME it
is where that data set lies or is downloaded to, and the names of its classes are the captions. MODEL becomes a folder
like data/tiny-worlds. Every two minutes reconstructions.png and samples.png in MODEL/training show how far it is.
"""


def add_shipped(parser: ArgumentParser) -> None:
    """Add the options of the shipped networks."""
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="two CPU cores, or one CUDA GPU")
    parser.add_argument("--resume", action="store_true", help="continue a stopped run, to the same weights")
    parser.add_argument("--out", type=new_folder, default=Path("out/train"), help="folder that becomes like data/")
    parser.add_argument("--steps", type=whole, help="of each stage (default: the profile's)")


def train_shipped(name: str, args: Namespace) -> None:
    """Train one shipped network, or all."""
    import torch  # here and below, not above: --help need not wait for it

    from .profiles import PROFILES
    from .runner import run, run_all

    if args.profile == "gpu" and not torch.cuda.is_available():
        raise ValueError("--profile gpu needs a CUDA GPU, and PyTorch finds none here; use --profile cpu")
    profiles, device = PROFILES[args.profile], torch.device("cuda" if args.profile == "gpu" else "cpu")
    torch.backends.cudnn.benchmark = True    # a GPU tries which convolutions are fastest; steps repeat their shapes
    if args.steps is not None:
        profiles = {each: replace(profile, train=replace(profile.train, steps=args.steps))
                    for each, profile in profiles.items()}
    if name == "all":
        run_all(profiles, args.out, args.resume, device)
    else:
        run(name, profiles[name], args.out, args.resume, device)


def add_own(parser: ArgumentParser) -> None:
    """Add the options of a model of your own pictures."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="your pictures")
    parser.add_argument("--out", type=new_folder, required=True, metavar="MODEL", help="the folder that is made")
    parser.add_argument("--size", type=whole, default=64, help="pixels a side, 64 to 128")
    parser.add_argument("--steps", type=whole, default=800, help="of the U-Net; 800 are enough for a thousand drawings")
    parser.add_argument("--first-steps", type=whole, default=500, help="of the autoencoder, before")
    parser.add_argument("--batch", type=whole, default=16, help="pictures a step")
    parser.add_argument("--torchvision", metavar="NAME", help="a classification set such as CIFAR10")
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument("--cold", action="store_true", help="from random weights, not from the shipped ones")


def train_and_examine(args: Namespace) -> None:
    """Train a model of your own pictures, and print what the doctor finds."""
    from ..doctor.examine import examine
    from ..support.device import pick_device
    from ..tiny_worlds.datasets import open_pictures
    from .own_data import train_own

    pictures = open_pictures(args.folder, args.size, args.torchvision)
    ldm, examples = train_own(pictures, args.out, args.size, args.steps, args.first_steps, args.batch, args.resume,
                              args.cold, pick_device())
    print(f"saved to {args.out}; the doctor's findings on {len(examples)} of the pictures:")
    for finding in examine(ldm, examples) or ["none"]:
        print(finding)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    name, arguments = choose("ldm_edu.recipes", __doc__, NAMES, arguments)
    own = name == "own"
    parser = CommandLine(f"ldm_edu.recipes {name}", OWN if own else f"Train {NAMES[name]}.")
    (add_own if own else add_shipped)(parser)
    run_command(parser, arguments, train_and_examine if own else partial(train_shipped, name), RESUME)


if __name__ == "__main__":
    main()
