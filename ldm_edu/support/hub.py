"""Where the weights are: a folder here, or a model on the Hugging Face hub; and whether they fit into memory."""
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from .device import free_memory
from .files import shapes_of


def find_folder(folder: str | os.PathLike, files: Sequence[str], more: Sequence[str] = ()) -> Path:
    """Return `folder`, or the place of its download if it names a model on the hub; all `files` are in it.

    files: paths in the folder; a .safetensors file may be there as .fp16.safetensors instead. more: patterns of what is
    downloaded as well. Only what is needed is downloaded, once; without a network the cache serves. Raises
    FileNotFoundError that names what is missing and what would fetch it.
    """
    path = Path(folder)
    if isinstance(folder, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", folder) and not path.parent.is_dir():
        path = _download(folder, files, more)
    missing = [name for name in files if not (path / name).is_file()]
    if path.is_dir():
        missing = [name for name in missing if not weights_file((path / name).parent, Path(name).name).is_file()]
    if missing:
        state = "lacks" if path.is_dir() else "does not exist; expected in it:"
        raise FileNotFoundError(f"folder: {path} {state} {', '.join(missing)}")
    return path


def _download(name: str, files: Sequence[str], more: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        path = Path(snapshot_download(name, allow_patterns=[*files, *more]))
        if not all((path / file).is_file() for file in files):    # some have weights in half precision alone
            halves = [file.replace(".safetensors", ".fp16.safetensors") for file in files]
            path = Path(snapshot_download(name, allow_patterns=[*halves, *more]))
        return path
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"folder: {name!r} is not a folder here, and the Hugging Face hub has no model of that "
                                "name for you. Is it spelled correctly, is its licence accepted?") from error
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"folder: {name!r} is not a folder here, and it could not be downloaded from the "
                                f"Hugging Face hub ({type(error).__name__}). With a network, `hf download {name}` "
                                "fetches it into the cache.") from error


def weights_file(folder: str | Path, name: str) -> Path:
    """Return the file `name` in a folder, or its version in half precision (".fp16") if that alone is there.

    Raises FileNotFoundError if there are only several files or a pickle (".bin"), and says why they are not read.
    """
    folder = Path(folder)
    half = folder / name.replace(".safetensors", ".fp16.safetensors")
    if (folder / name).is_file():
        return folder / name
    if half.is_file():
        return half
    if (folder / f"{name}.index.json").is_file():
        raise FileNotFoundError(f"{folder} holds its weights in several files, which are not read. Open the model once "
                                "in diffusers or transformers and save_pretrained it with max_shard_size='20GB'")
    if pickles := sorted(path.name for path in folder.glob("*.bin")):
        raise FileNotFoundError(
            f"{folder} lacks {name}; {pickles[0]} is a pickle, which can run any code when it is opened, so it is not "
            "read. If you trust it, open the model once in diffusers or transformers and save_pretrained it there")
    return folder / name


def refuse_pickle(path: Path) -> None:
    """Raise ValueError for a file that torch.save wrote."""
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") and path.exists():
        raise ValueError(f"{path} is a pickle, which can run any code when it is opened, so it is not read. If you "
                         "trust it, load it with torch.load and save its tensors with safetensors.torch.save_file")


def check_memory(folder: Path, files: Sequence[Path], dtype: torch.dtype, device: torch.device) -> None:
    """Raise MemoryError, before anything is allocated, if the weights in `files` clearly do not fit on `device`."""
    needed = sum(torch.Size(shape).numel() for file in files for shape in shapes_of(file).values()) * dtype.itemsize
    free = free_memory(device)
    if needed > free:
        half = "" if dtype.itemsize == 2 else f"; in float16 it would need {needed / 2**31:.1f} GiB"
        raise MemoryError(f"folder: {folder} needs {needed / 2**30:.1f} GiB as {dtype}, and {free / 2**30:.1f} GiB are "
                          f"free on {device}{half}")
