"""Tiny Worlds as a data set: picture, caption and semantic map from one seed; and your own pictures as another."""
from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..support.checks import expect
from ..support.parallel import in_parallel
from ..support.pictures import open_picture
from .captions import Caption, make_caption
from .landscapes import paint
from .scenes import SPLITS, Scene, make_scene

FEWEST = 8    # pictures


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


def _paint(scene: Scene | int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return paint(make_scene(scene) if isinstance(scene, int) else scene, *size)


def paint_all(scenes: Sequence[Scene | int], size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor]:
    """Paint scenes, or those of seeds, on all CPU cores: images (N, 3, H, W) and semantic maps (N, H, W), uint8."""
    images, maps = np.empty((len(scenes), *size, 3), np.uint8), np.empty((len(scenes), *size), np.uint8)
    with closing(in_parallel(partial(_paint, size=size), scenes)) as painted:
        for i, each in enumerate(painted):
            images[i], maps[i] = each
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(maps)


def render(split: str, count: int, start: int = 0, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor]:
    """Paint `count` scenes of a split, from its number `start` on; returns what `paint_all` does."""
    return paint_all(seeds_of(split, count, start), size)


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
    """Read the (path, caption) pairs of a folder: of its metadata.csv or metadata.jsonl (fields file_name and text).

    Without them a picture's caption is the name of its own folder, a class. Both are conventions of Hugging Face
    `datasets`. Raises FileNotFoundError if the folder or a picture is missing; ValueError for a table that cannot be
    read or a row without file name or caption, with the line.
    """
    folder = Path(folder)
    table = next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)
    if table is None:
        known = Image.registered_extensions()
        found = [(path, path.parent.name.replace("_", " ")) for path in sorted(folder.glob("*/*"))
                 if path.suffix.lower() in known]
        if not found:
            raise FileNotFoundError(f"{folder}: expected a folder with metadata.csv or metadata.jsonl in it, or with a "
                                    "folder of pictures for each class")
        return found
    pairs = []
    for line, row in (_csv_rows if table.suffix == ".csv" else _json_rows)(table):
        name, text = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not name or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{table}, line {line}: expected file_name and text, got {row}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{table}, line {line}: there is no picture {folder / name}")
        pairs.append((folder / name, text.strip()))
    if not pairs:
        raise ValueError(f"{table} names no pictures")
    return pairs


def open_pictures(folder: Path, size: int, name: str | None = None) -> CaptionedImages:
    """Open a captioned folder or, downloaded to it, the torchvision data set `name`, its classes as captions."""
    if name is None:
        return CaptionedImages(read_folder(folder), (size, size))
    from torchvision import datasets
    kind, wanted = getattr(datasets, name, None), "a set that downloads itself, such as CIFAR10"
    expect(isinstance(kind, type) and "download" in signature(kind).parameters, "--torchvision", name,
           f"{wanted}; a folder with a folder for each class needs no option")
    source = kind(folder, download=True)
    expect(hasattr(source, "classes"), "--torchvision", f"{name}, whose classes have no names", wanted)
    return CaptionedImages(source, (size, size), names=source.classes)


def read_pictures(dataset: Sequence[Example]) -> tuple[Tensor, list[str]]:
    """Read all pictures, uint8 (N, 3, H, W), and captions. ValueError names the files that cannot be read."""
    images, texts, wrong = [], [], []
    for index in tqdm(range(len(dataset)), "pictures", leave=False):
        try:
            image, text, _ = dataset[index]
        except (OSError, ValueError) as error:
            wrong.append(str(error))
        else:
            images.append((image * 127.5 + 127.5).round().byte())
            texts.append(text)
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(dataset)} pictures cannot be read: {'; '.join(wrong[:8])}")
    expect(len(images) >= FEWEST and len(set(texts)) > 1, "pictures",
           f"{len(images)} with {len(set(texts))} different captions", f"at least {FEWEST} with 2")
    return torch.stack(images), texts


def _lines(table: Path) -> list[str]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:    # Excel puts a mark before UTF-8
            return list(file)
    except UnicodeDecodeError as error:
        line = table.read_bytes()[:error.start].count(b"\n") + 1
        raise ValueError(f"{table}, line {line}: no UTF-8; save the table as UTF-8") from error


def _csv_rows(table: Path) -> Iterator[tuple[int, dict]]:
    """(line, row) of a CSV file; a caption with a comma must be quoted, or the row has too many fields."""
    reader, begun = csv.reader(_lines(table), strict=True, skipinitialspace=True), 1
    try:
        header = next(reader, [])
        for row in reader:
            line, begun = begun + 1, reader.line_num
            if row and len(row) != len(header):
                raise ValueError(f"{table}, line {line}: got {len(row)} fields, expected {len(header)} as in the first "
                                 'line; a text with commas needs quotes, "a house, red"')
            if row:
                yield line, dict(zip(header, row))
    except csv.Error as error:
        raise ValueError(f"{table}, line {begun + 1}: {error}; is a quote not closed?") from error


def _json_rows(table: Path) -> Iterator[tuple[int, dict]]:
    """(line, row) of a file with one JSON object a line."""
    for line, text in enumerate(_lines(table), 1):
        if text.strip():
            try:
                row = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{table}, line {line}: no JSON: {error}") from error
            expect(isinstance(row, dict), f"{table}, line {line}", f"a {type(row).__name__}", "one object a line")
            yield line, row
