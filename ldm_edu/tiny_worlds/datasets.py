"""Tiny Worlds as data sets: picture, caption and semantic map, all from one integer seed; and your own pictures.

Every data set here yields the same `Example`, so whatever trains on one trains on the others.
"""
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

from ..support.pictures import open_picture
from .captions import Caption, make_caption
from .landscapes import paint
from .scenes import SPLITS, make_scene


def seeds_of(split: str, count: int, start: int = 0) -> range:
    """`count` seeds of a split, one scene each."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
    return range(SPLITS[split] + start, SPLITS[split] + start + count)


def to_float(images: Tensor) -> Tensor:
    """uint8 0…255 -> float32 in [-1, 1], any shape."""
    return images.float() / 127.5 - 1


def to_tensor(image: np.ndarray | Image.Image) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1))


class Example(NamedTuple):
    """image (3, H, W) float32 in [-1, 1]; its caption; semantic_map (H, W) int64, classes as in `things.CLASSES`,
    or None where nobody drew one."""
    image: Tensor
    text: str
    semantic_map: Tensor | None


class TinyWorlds(Dataset):
    """`count` scenes of a split as Examples, painted on demand; size is (height, width) in pixels.

    Raises ValueError for an unknown split, a side under 16 pixels or a count under 1.
    """

    def __init__(self, split: str = "train", count: int = 10_000, size: tuple[int, int] = (64, 64)):
        if count < 1 or min(size) < 16:
            raise ValueError(f"count={count}, size={size}: expected at least 1 scene and 16 pixels a side")
        self.seeds, self.size = seeds_of(split, count), size

    def __len__(self) -> int:
        return len(self.seeds)

    def caption(self, index: int) -> Caption:
        """The caption of scene `index`, with its facts."""
        seed = self.seeds[index]
        return make_caption(make_scene(seed), random.Random(f"caption {seed}"))

    def __getitem__(self, index: int) -> Example:
        image, classes = paint(make_scene(self.seeds[index]), *self.size)
        return Example(to_tensor(image), self.caption(index).text, torch.from_numpy(classes.astype(np.int64)))


def render(split: str, count: int, start: int = 0, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor]:
    """`count` scenes at once, for training to draw its batches from.

    Returns images, uint8 (count, 3, H, W), and semantic maps, uint8 (count, H, W), classes as in `things.CLASSES`.
    """
    images, maps = np.empty((count, *size, 3), np.uint8), np.empty((count, *size), np.uint8)
    for i, seed in enumerate(seeds_of(split, count, start)):
        images[i], maps[i] = paint(make_scene(seed), *size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(maps)


class CaptionedImages(Dataset):
    """Your own pictures as Examples: scaled and centre-cropped to size (height, width).

    pairs: (image, text), the image a path or a Pillow image. Any torchvision classification set will do, given the
    names of its classes: `CaptionedImages(CIFAR10("data"), names=CIFAR10.classes)`. See `read_folder` for a folder.
    Raises ValueError if `pairs` is empty, and, when it is asked for, for a picture that `open_picture` refuses.
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
    """The (path, caption) pairs of a folder with metadata.csv or metadata.jsonl (fields file_name and text).

    This is the imagefolder convention of Hugging Face `datasets`. Raises FileNotFoundError if the folder, its
    metadata or a picture named there is missing, ValueError for a row without file name or caption.
    """
    folder = Path(folder)
    table = next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"{folder}: expected a folder with metadata.csv or metadata.jsonl in it")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if table.suffix == ".csv" else [json.loads(r) for r in file if r.strip()]
    pairs = []
    for number, row in enumerate(rows, 1):
        name, text = row.get("file_name"), row.get("text")
        if not name or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{table}, entry {number}: expected file_name and text, got {row}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{table}, entry {number}: there is no picture {folder / name}")
        pairs.append((folder / name, text.strip()))
    if not pairs:
        raise ValueError(f"{table} names no pictures")
    return pairs
