"""Tensors in safetensors files, settings in JSON and figures in CSV, written whole or not at all."""
from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CHUNK = 2**28    # bytes of a file that are mapped into memory at once
Row = TypeVar("Row", bound=tuple)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """A safetensors file's tensors by name.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or cut short.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def shapes_of(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, by name; no tensor is read. Raises as `read_tensors` does."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def stream_tensors(path: str | Path, dtype: torch.dtype = torch.float32,
                   device: str | torch.device = "cpu") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a safetensors file, one after the other, as `dtype` on `device`.

    What a file has mapped counts as memory in use, so it is opened anew after every CHUNK bytes: at no moment are there
    two copies of everything. Each tensor is a copy: in aligned memory, and the file may change. Raises as
    `read_tensors` does.
    """
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes_of(path).items()}
    names = iter(sizes)
    name = next(names, None)
    while name is not None:
        with _opened(path) as file:
            mapped = 0
            while name is not None and mapped < CHUNK:
                tensor = file.get_tensor(name)
                mapped += tensor.nbytes
                yield name, tensor.to(device, dtype, copy=True)
                del tensor
                name = next(names, None)


@contextmanager
def _opened(path: str | Path) -> Iterator:
    """A safetensors file to read from. Raises as `read_tensors` does."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def write_tensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all: a killed run leaves the last good one."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": "pt"})    # transformers insists on the format
        part.chmod(0o644)                                      # safetensors lets only its owner read it


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success it takes the place of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the weights of a small network of ours as float16; `weights.save_module` writes diffusers' folders."""
    write_tensors(path, {name: value.half() for name, value in module.state_dict().items()})


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Put what `save_weights` wrote into `module`, as float32; returns it in eval mode.

    Raises as `read_tensors` does, and ValueError for the weights of another network.
    """
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network: {error}") from error
    return module.eval()


def read_json(path: str | Path) -> dict:
    """A JSON file's object. Raises FileNotFoundError, or ValueError if it is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_json(path: str | Path, value: dict) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_table(path: str | Path, rows: Sequence[tuple]) -> None:
    """Write named tuples as CSV under the names of their fields, four digits after the point, whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0]._fields)
        writer.writerows([f"{v:.4f}" if isinstance(v, float) else v for v in row] for row in rows)


def read_table(path: str | Path, kind: type[Row]) -> list[Row]:
    """What `write_table` wrote, as rows of the named tuple `kind`. Raises FileNotFoundError, or ValueError if the
    fields are others."""
    types = get_type_hints(kind)
    with open(path, newline="") as file:
        names, *lines = csv.reader(file)
    if names != list(types):
        raise ValueError(f"{path}: its columns are {', '.join(names)}, expected {', '.join(types)}")
    return [kind(*(read(value) for read, value in zip(types.values(), line, strict=True))) for line in lines]
