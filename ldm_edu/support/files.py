"""Tensors in safetensors files and settings in JSON, written whole or not at all."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CHUNK = 2**28    # bytes of a file that are mapped into memory at once


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file's tensors by name. Raises FileNotFoundError; ValueError if it is damaged or cut short."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def shapes_of(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of each tensor in a safetensors file, by name, and no tensor."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def metadata_of(path: str | Path) -> dict[str, str]:
    """Read the texts in the header of a safetensors file."""
    with _opened(path) as file:
        return file.metadata() or {}


def stream_tensors(path: str | Path, dtype: torch.dtype = torch.float32,
                   device: str | torch.device = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of a safetensors file one after the other, copied as `dtype` to `device`.

    What a file has mapped counts as memory in use, so it is opened anew after every CHUNK bytes.
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
    """Open a safetensors file. Raises as `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> ValueError:
    with open(path, "rb") as file:
        if file.read(7) == b"version":
            return ValueError(f"{path} is not the file but a git-lfs pointer to it; `git lfs pull` fetches the file")
    return ValueError(f"{path} is damaged or cut short: {error}")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically: a killed run and a full disk, an OSError, leave the last good one.

    metadata: more texts for its header.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(tensors, part, metadata={"format": "pt"} | (metadata or {}))    # transformers wants the format
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process. Raises ValueError while another one that is alive has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    holder = lock.read_text(encoding="utf-8") if lock.exists() else ""
    if holder.isdigit() and int(holder) != os.getpid() and psutil.pid_exists(int(holder)):
        raise ValueError(f"{folder} is in use by process {holder}; wait until it ends, choose "
                         f"another --out, or delete {lock} if no training is running")
    lock.write_text(str(os.getpid()), encoding="utf-8")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def save_weights(module: nn.Module, path: Path) -> Path:
    """Write a small network's weights as float16, and return the folder; `weights.save_module` writes diffusers'."""
    write_tensors(path, {name: value.half() for name, value in module.state_dict().items()})
    return path.parent


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Put what `save_weights` wrote into `module`, as float32; return it in eval mode.

    Raises as `read_tensors`, and ValueError for the weights of another network.
    """
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network: {error}") from error
    return module.eval()


def sha256(path: str | Path) -> str:
    """Name a file by its contents."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_json(path: str | Path) -> dict:
    """Read a JSON file's object. Raises FileNotFoundError; ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_json(path: str | Path, value: dict) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def restore(folder: Path) -> Path:
    """Put `folder` back if `swap_in` was killed half-way; return where it was kept meanwhile."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    return old


def swap_in(fresh: Path, folder: Path) -> None:
    """Replace `folder` by `fresh`, keeping files that only `folder` has. Crash-safe."""
    old = restore(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        for extra in folder.iterdir():
            if not (fresh / extra.name).exists():
                (shutil.copytree if extra.is_dir() else shutil.copy2)(extra, fresh / extra.name)
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
