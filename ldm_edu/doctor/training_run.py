"""The checks of a training run's files: its losses and its averaged weights."""
from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..pipeline import LatentDiffusion
from ..support.files import read_tensors
from .examine import Case, default_examples, examine
from .findings import Finding


def examine_run(folder: str | Path, checkpoint: Path | None = None) -> list[Finding]:
    """List what is wrong with a run that a recipe keeps in training/: its log.csv, its weights and their average.

    checkpoint: of the recipe ldm, the folder that the run will write, which has the autoencoder; then the averaged
    weights are examined as a model, too. Raises what `read_run` and `LatentDiffusion.from_pretrained` raise, and
    ValueError if the run's weights do not fit that model.
    """
    losses, tensors = read_run(folder)
    if (found := [*_losses(losses), *_average(tensors)]) or checkpoint is None:
        return found
    ldm, examples, errors = LatentDiffusion.from_pretrained(checkpoint), default_examples(), {}
    parts = {"unet": ldm.unet, "text": ldm.text, "image": ldm.image_encoder, "map": ldm.map_encoder}
    trained = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
    for kind in ("model", "ema"):    # the averaged weights are the ones that stay
        prefix = f"{kind}."
        weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            trained.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"folder: {folder} is no run of {checkpoint}: {error}") from error
        with torch.no_grad():
            case = Case(ldm, examples)
            errors[kind] = sum(case.loss(t, "text") for t in case.levels)
    if errors["ema"] > 1.2 * errors["model"]:
        return [Finding("EMA lag", "stop", f"the averaged weights err {errors['ema'] / errors['model']:.1f} times as "
                        "much as the raw ones.")]
    return examine(ldm, examples)


def read_run(folder: str | Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Read the loss of each step in log.csv, (steps,), and the tensors of state.safetensors.

    Raises FileNotFoundError or ValueError if one of them is not there or cannot be read.
    """
    folder = Path(folder)
    if missing := [name for name in ("log.csv", "state.safetensors") if not (folder / name).is_file()]:
        raise FileNotFoundError(f"folder: {folder} lacks {' and '.join(missing)}")
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        losses = [sum(float(value) for name, value in row.items() if name not in ("step", "lr")) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"folder: {folder / 'log.csv'}: expected numbers, {error}") from error
    tensors = read_tensors(folder / "state.safetensors")
    if not losses or not any(name.startswith("ema.") for name in tensors):
        raise ValueError(f"folder: {folder} is no run: expected rows in log.csv and tensors ema.* in state.safetensors")
    return torch.tensor(losses), tensors


def _losses(losses: Tensor) -> Iterator[Finding]:
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).nonzero()[0])
        yield Finding("log", "stop", f"row {first + 1} of log.csv has the loss {losses[first]}.")
    elif len(losses) >= 200:
        tenths = losses[:len(losses) // 10 * 10].view(10, -1).mean(1)
        if tenths[-1] > 2 * tenths.min():
            yield Finding("log", "fault", f"the loss has risen from {tenths.min():.3g} to {tenths[-1]:.3g}.")


def _average(tensors: dict[str, Tensor]) -> Iterator[Finding]:
    names = [name[4:] for name in tensors if name.startswith("ema.") and tensors[name].is_floating_point()]
    pairs = {name: (tensors[f"ema.{name}"].float(), tensors[f"model.{name}"].float()) for name in names}
    if bad := [name for name, (ema, raw) in pairs.items() if not (ema.isfinite() & raw.isfinite()).all()]:
        yield Finding("numbers", "stop", f"{len(bad)} tensors of the run, {bad[0]} first, hold NaN or infinity.")
        return
    apart = sum((ema - raw).square().sum() for ema, raw in pairs.values())
    apart = (apart / sum(raw.square().sum() for _, raw in pairs.values())).sqrt().item()
    # Most biases begin as zeros, norms as ones: after one step of averaging a tensor is no longer constant.
    asleep = [name for name, (ema, raw) in pairs.items()
              if ema.numel() > 1 and ema.amin() == ema.amax() and raw.amin() != raw.amax()]
    if asleep or not apart < 0.5:
        yield Finding("EMA", "stop", f"the averaged weights are {apart:.0%} of the size of the trained ones away from "
                      f"them; {len(asleep)} of {len(pairs)} tensors are as before the training.")
