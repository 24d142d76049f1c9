"""What is lost with fewer steps? A teacher of 32 guided steps, and its students of 4, 2 and 1 steps.

`python -m ldm_edu.studies few_steps [--threads 1]` trains the students of 2 steps and of 1 to out/few-steps, and
measures caption accuracy and diversity of their pictures, of the shipped student's and of the teacher's, for
data/few-steps/table.csv. An hour and a half on one core, 35 minutes of it for the teacher's paths.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import DATA
from ..lora import add_lora, load_lora, save_lora
from ..metrics.caption_accuracy import score, surplus
from ..metrics.distances import coverage, features, frechet_distance, precision_recall, psnr
from ..metrics.evaluation import GUIDANCE_SCALE, captions_of, generate
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..recipes.profiles import PROFILES, Profile
from ..recipes.runner import fit
from ..recipes.train_few_steps import RANK, TEACHER_STEPS, Demonstration, demonstrate, landing
from ..support.commands import new_folder, whole
from ..support.device import pick_device
from ..support.lora_files import lora_file
from ..support.tables import read_table, write_table
from ..tiny_worlds.datasets import render, to_float
from . import print_row

FOLDER = DATA / "few-steps"


STUDENTS = {"4 steps": 4, "2 steps": 2, "1 step": 1}    # the first is the recipe's
TEACHER = [(steps, scale) for scale in (GUIDANCE_SCALE, 1.0) for steps in (32, 16, 8, 4, 2, 1)]
RUNS = [("teacher", *run) for run in TEACHER] + [(name, steps, 1.0) for name, steps in STUDENTS.items()] + [
    ("4 steps", steps, 1.0) for steps in (1, 2, 8)]    # not what it was trained for
ROWS = [("teacher", 32, GUIDANCE_SCALE), ("4 steps", 4, 1.0), ("2 steps", 2, 1.0), ("1 step", 1, 1.0),
        ("teacher", 4, GUIDANCE_SCALE), ("teacher", 1, GUIDANCE_SCALE)]    # of the picture
COLUMNS, SEEDS, ASKED = 8, 8, 16    # pictures in a row; seeds of each of so many prompts, for the spread


class Fewer(NamedTuple):
    """A row of table.csv."""

    model: str               # "teacher", or one of STUDENTS
    steps: int
    guidance_scale: float
    prompts: int
    stated: int              # attributes, by the prompts
    found: int               # of these, by the oracle
    all_right: int           # prompts with every attribute found
    surplus: float           # share of pictures with more things than named, where any is named
    likeness: float          # PSNR in dB beside what the teacher draws in 32 guided steps from the same noise
    distance: float          # Fréchet distance to renders of other scenes, in the space of `features`
    precision: float         # share of the pictures among these renders
    recall: float            # share of these renders among the pictures
    coverage: float
    spread: float            # mean distance between two pictures of one prompt, in the space of `features`


def folder_of(name: str, work: Path) -> Path:
    """Find where a student's weights are kept."""
    return work / name.replace(" ", "-")


def train_student(name: str, shown: Demonstration, profile: Profile, root: Path, work: Path, device: str) -> None:
    """Train one of STUDENTS from `root`'s model; its state, log and LoRA go to a folder of its name in `work`."""
    torch.manual_seed(profile.train.seed)
    ldm, folder = LatentDiffusion.from_pretrained(root / "tiny-worlds", device), folder_of(name, work)
    add_lora(ldm.unet, RANK, everywhere=True)
    ldm.unet = fit(ldm.unet, landing(shown, STUDENTS[name], profile.batch), profile.train, folder)
    ldm.unet.distilled = True
    save_lora(ldm, lora_file(folder), torch.float16)
    (folder / "state.safetensors").unlink()


def open_student(name: str, root: Path, work: Path, device: str) -> LatentDiffusion | None:
    """Open the teacher or a student; None if it is not trained. "4 steps" is the recipe's, if it is there."""
    ldm, folder = LatentDiffusion.from_pretrained(root / "tiny-worlds", device), folder_of(name, work)
    if name == "teacher":
        ldm.spacing = "trailing"
        return ldm
    if name == "4 steps" and lora_file(root / "few-steps").is_file():
        folder = root / "few-steps"
    if not lora_file(folder).is_file():
        return None
    load_lora(ldm, folder)
    return ldm


def measure(ldm: LatentDiffusion, run: tuple[str, int, float], like: Tensor, real: Tensor, oracle: Oracle) -> Fewer:
    """Draw as many validation prompts as `like`, the teacher's pictures, and score; real: features of renders."""
    (_, steps, scale), count = run, len(like)
    captions = captions_of("validation", count)
    pictures = generate(ldm, [caption.text for caption in captions], steps, scale)
    seen, points = oracle.read(pictures), features(pictures)
    result = score(captions, seen)
    found, stated = (sum(pair[i] for pair in result.by_name.values()) for i in (0, 1))
    return Fewer(*run, count, stated, found, round(result.all_right * count), surplus(captions, seen),
                 psnr(like, pictures).mean().item(), frechet_distance(real, points), *precision_recall(real, points),
                 coverage(real, points), spread(ldm, steps, scale))


def spread(ldm: LatentDiffusion, steps: int, scale: float) -> float:
    """Measure how far apart two pictures of one prompt are: SEEDS of each of ASKED validation prompts."""
    texts = [caption.text for caption in captions_of("validation", ASKED) for _ in range(SEEDS)]
    points = features(generate(ldm, texts, steps, scale, seed=1000)).view(ASKED, SEEDS, -1)
    return (torch.cdist(points, points).sum() / (ASKED * SEEDS * (SEEDS - 1))).item()


def row_of_pictures(ldm: LatentDiffusion, steps: int, scale: float) -> Tensor:
    """Draw the first COLUMNS prompts, from the noise that every row begins with: uint8 (64, COLUMNS * 64, 3)."""
    pictures = generate(ldm, [caption.text for caption in captions_of("validation", COLUMNS)], steps, scale)
    return (pictures * 127.5 + 127.5).round().byte().permute(2, 0, 3, 1).flatten(1, 2)


def save_rows(rows: list[Tensor], path: Path) -> None:
    """Save the rows of ROWS as a PNG of all colours: fewer would speckle smooth surfaces."""
    Image.fromarray(np.concatenate([row.numpy() for row in rows])).save(path, optimize=True)


def measure_all(args: Namespace) -> None:
    """Measure what is not in the table yet."""
    table, oracle = args.out / "table.csv", Oracle.load().to(args.device)
    rows = read_table(table, Fewer) if table.exists() else []
    missing = [each for each in RUNS if each[0] in ("teacher", *args.students) and each not in [r[:3] for r in rows]]
    real = features(to_float(render("validation", 3 * args.count)[0])[args.count:])
    texts = [caption.text for caption in captions_of("validation", args.count)]
    teacher = open_student("teacher", args.root, args.work, args.device)
    like = generate(teacher, texts, TEACHER_STEPS, GUIDANCE_SCALE) if missing else None
    for each in missing:
        ldm = open_student(each[0], args.root, args.work, args.device)
        rows.append(measure(ldm, each, like, real, oracle))
        write_table(table, rows)
        print_row(rows[-1])


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=STUDENTS, metavar="NAME",
                        help=f"some of {'; '.join(STUDENTS)}")
    parser.add_argument("--root", type=Path, default=DATA, help="folder of tiny-worlds and, if trained, few-steps")
    parser.add_argument("--work", type=new_folder, default=Path("out/few-steps"), help="folder for weights and paths")
    parser.add_argument("--paths", type=Path, help="file of the teacher's paths, if kept (default: in WORK)")
    parser.add_argument("--out", type=new_folder, default=FOLDER, help="folder for table and picture")
    parser.add_argument("--scenes", type=whole, help="prompts to learn from (default: as the recipe)")
    parser.add_argument("--steps", type=whole, default=600, help="of training a student")
    parser.add_argument("--count", type=whole, default=256, help="prompts to be measured on")
    parser.add_argument("--only-train", action="store_true", help="measure nothing")
    parser.add_argument("--device", choices=sorted({"cpu", pick_device()}), default=pick_device(), help="to train on")


def run(args: Namespace) -> None:
    """Train the students that are not there yet; then measure what is not in the table yet, and draw the picture."""
    profile, shown = PROFILES["gpu" if args.device == "cuda" else "cpu"]["few_steps"], None
    torch.backends.cudnn.benchmark = True    # as for the recipes
    profile = replace(profile, train=replace(profile.train, steps=args.steps), scenes=args.scenes or profile.scenes)
    for name in args.students:
        if open_student(name, args.root, args.work, args.device) is None:
            if shown is None:
                teacher = LatentDiffusion.from_pretrained(args.root / "tiny-worlds", args.device)
                shown = demonstrate(teacher, profile.scenes, args.paths or args.work / "paths.safetensors")
            train_student(name, shown, profile, args.root, args.work, args.device)
    if args.only_train:
        return
    measure_all(args)
    opened = [open_student(name, args.root, args.work, args.device) for name, _, _ in ROWS]
    if None not in opened:
        save_rows([row_of_pictures(ldm, *each[1:]) for ldm, each in zip(opened, ROWS)], args.out / "pictures.png")
