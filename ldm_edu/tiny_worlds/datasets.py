"""Tiny Worlds as a data set: picture, caption and semantic map from one seed; and your own pictures as another."""
from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..support.checks import expect
from ..support.pictures import open_picture
from .captions import Caption, make_caption
from .landscapes import paint
from .scenes import SPLITS, make_scene


class Example(NamedTuple):
    """What every data set yields. semantic_map: of `things.CLASSES`, or None where there is none."""
    image: Tensor                  # (3, H, W), float32 in [-1, 1]
    text: str
    semantic_map: Tensor | None    # (H, W), int64


def seeds_of(split: str, count: int, start: int = 0) -> range:
    """List `count` seeds of a split, from its number `start` on; each is one scene."""
    expect(split in SPLITS, "split", repr(split), f"one of {', '.join(SPLITS)}")
    return range(SPLITS[split] + start, SPLITS[split] + start + count)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 0…255 to float32 in [-1, 1], any shape."""
    return images.float() / 127.5 - 1


def to_tensor(image: np.ndarray | Image.Image) -> Tensor:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1))


class TinyWorlds(Dataset):
    """`count` scenes of a split as Examples, painted on demand; size is (height, width) in pixels."""

    def __init__(self, split: str = "train", count: int = 10_000, size: tuple[int, int] = (64, 64)):
        self.seeds, self.size = seeds_of(split, count), size

    def __len__(self) -> int:
        return len(self.seeds)

    def caption(self, index: int) -> Caption:
        """Write the caption of scene `index`, with its facts."""
        seed = self.seeds[index]
        return make_caption(make_scene(seed), random.Random(f"caption {seed}"))

    def __getitem__(self, index: int) -> Example:
        image, classes = paint(make_scene(self.seeds[index]), *self.size)
        return Example(to_tensor(image), self.caption(index).text, torch.from_numpy(classes.astype(np.int64)))


def render(split: str, count: int, start: int = 0, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor]:
    """Paint scenes at once: images (count, 3, H, W) and semantic maps (count, H, W), both uint8."""
    images, maps = np.empty((count, *size, 3), np.uint8), np.empty((count, *size), np.uint8)
    for i, seed in enumerate(seeds_of(split, count, start)):
        images[i], maps[i] = paint(make_scene(seed), *size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(maps)


class CaptionedImages(Dataset):
    """Your own pictures as Examples: scaled and centre-cropped to size (height, width).

    pairs: (image, text), the image a path or a Pillow image, as `read_folder` returns them. Or a torchvision data set
    of classes: `CaptionedImages(CIFAR10("data"), names=CIFAR10.classes)`. Raises ValueError as `open_picture` does.
    """

    def __init__(self, pairs: Sequence[tuple], size: tuple[int, int] = (64, 64), names: Sequence[str] | None = None):
        if not len(pairs):
            raise ValueError("pairs is empty: expected at least one (image, text)")
        self.pairs, self.size, self.names = pairs, size, names

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        image, text = self.pairs[index]
        image = ImageOps.fit(open_picture(image), self.size[::-1], Image.Resampling.LANCZOS)
        return Example(to_tensor(image), self.names[text] if self.names else text, None)


def read_folder(folder: str | Path) -> list[tuple[Path, str]]:
    """Read the (path, caption) pairs of a folder with metadata.csv or metadata.jsonl (fields file_name and text).

    The imagefolder convention of Hugging Face `datasets`. Raises FileNotFoundError if the folder, its metadata or a
    picture is missing, ValueError for a row without file name or caption.
    """
    folder = Path(folder)
    table = next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"{folder}: expected a folder with metadata.csv or metadata.jsonl in it")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if table.suffix == ".csv" else [json.loads(r) for r in file if r.strip()]
    if not rows:
        raise ValueError(f"{table} names no pictures")
    for number, row in enumerate(rows, 1):
        name, text = row.get("file_name"), row.get("text")
        if not name or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{table}, entry {number}: expected file_name and text, got {row}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{table}, entry {number}: there is no picture {folder / name}")
    return [(folder / row["file_name"], row["text"].strip()) for row in rows]
