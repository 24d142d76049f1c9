"""Train a shipped network from its profile to its checkpoint."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..support.checks import expect
from ..support.distributed import pick_device, processes
from ..support.files import locked, read_json, write_json
from ..support.logs import draw_losses, logged
from ..training import LossFn, TrainConfig, load_ema, train
from .pixel_unet import small_unet_recipe
from .profile import Profile
from .train_autoencoder import autoencoder_recipe, decoder_recipe
from .train_clip import clip_recipe
from .train_features import features_recipe
from .train_oracle import oracle_recipe
from .train_segmenter import segmenter_recipe
from .train_unet import unet_recipe

PROFILES = {
    "oracle": {"cpu": Profile(TrainConfig(8000, lr=1e-3), batch=64, scenes=100_000),
               "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "segmenter": {"cpu": Profile(TrainConfig(2000, lr=2e-3), batch=16, scenes=10_000),
                  "gpu": Profile(TrainConfig(10_000, lr=2e-3, precision="bfloat16"), batch=64, scenes=100_000)},
    "features": {"cpu": Profile(TrainConfig(1500, lr=1e-3), batch=32, scenes=10_000),
                 "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=128, scenes=100_000)},
    "vae": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
            "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "decoder": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
                "gpu": Profile(TrainConfig(20_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "clip": {"cpu": Profile(TrainConfig(4000, lr=1e-3, weight_decay=0.05), batch=128, scenes=30_000),
             "gpu": Profile(TrainConfig(20_000, lr=1e-3, weight_decay=0.05, precision="bfloat16"), batch=512,
                            scenes=200_000)},
    "ldm": {"cpu": Profile(TrainConfig(12_000, lr=8e-4, precision="medium"), batch=64, scenes=180_000),
            "gpu": Profile(TrainConfig(60_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "pixels": dict.fromkeys(("cpu", "gpu"), Profile(TrainConfig(7000, lr=4e-3, warmup=20), batch=16, scenes=240))}
RECIPES = {"oracle": oracle_recipe, "segmenter": segmenter_recipe, "features": features_recipe,
           "vae": autoencoder_recipe, "decoder": decoder_recipe, "clip": clip_recipe, "ldm": unet_recipe,
           "pixels": small_unet_recipe}


def state_folder(out: Path, name: str) -> Path:
    """Name the folder of a run's state, log and loss figure: beside the checkpoint, not in it."""
    return out.parent / "training" / f"{out.name}-{name}"


def same_run(folder: Path, resume: bool, settings: dict) -> None:
    """Note what a run is made with; raise ValueError if one that is resumed was begun with something else."""
    note = folder / "settings.json"
    if resume and note.exists():
        begun = read_json(note)
        changed = [f"{name} {begun.get(name)!r}" for name, value in settings.items() if begun.get(name) != value]
        expect(not changed, "--resume", "other settings than the run in "
               f"{folder} was begun with", f"{', '.join(changed)}; without --resume a new run begins")
    write_json(note, settings)


def fit(model: nn.Module, loss_fn: LossFn, config: TrainConfig, folder: Path, resume: bool) -> nn.Module:
    """Train with a progress bar, a log in `folder` and a state there; return the averaged model.

    resume: go on from that state, if there is one. Under `torchrun` the first process writes and averages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, rank = folder / "state.safetensors", processes()[0]
    steps = train(model, loss_fn, config, state, resume and state.exists())
    for _ in logged(steps, folder / "log.csv", folder.name, config.steps) if rank == 0 else steps:
        pass
    return load_ema(state, model) if rank == 0 else model


def run(name: str, profile: Profile, out: Path, resume: bool = False, warm: bool = False) -> None:
    """Train one recipe to its end and save it to `out`.

    resume: continue a killed run exactly. warm: a new run from the weights in `out`. Raises ValueError for an unknown
    recipe, FileNotFoundError if there is nothing to resume or to start from.
    """
    expect(name in RECIPES, "recipe", repr(name), f"one of {', '.join(RECIPES)}")
    rank, folder = processes()[0], state_folder(out, name)
    with locked(folder) if rank == 0 else nullcontext():
        _run(name, profile, out, folder, rank, resume, warm)


def _run(name: str, profile: Profile, out: Path, folder: Path, rank: int, resume: bool, warm: bool) -> None:
    if resume and not (folder / "state.safetensors").exists():
        raise FileNotFoundError(f"--resume: there is no {folder / 'state.safetensors'}")
    began_warm = folder / "warm"    # a resumed run keeps the loss that it began with
    if resume:
        warm = began_warm.exists()
    elif rank == 0:
        began_warm.touch() if warm else began_warm.unlink(missing_ok=True)
    device = torch.device("cpu") if name == "pixels" else pick_device()    # l_simple draws on the CPU
    torch.manual_seed(profile.train.seed)
    model, loss_fn, save = RECIPES[name](profile, out, device, warm)
    trained = fit(model.to(device), loss_fn, profile.train, folder, resume)
    if rank == 0:
        draw_losses(folder / "log.csv")
        save(trained)
