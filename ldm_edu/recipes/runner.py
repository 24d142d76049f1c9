"""Train the shipped networks, one stage after the other, to a tree of checkpoints like data/."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ..support.checks import expect
from ..support.device import device_name
from ..support.files import locked, read_json, restore, sha256, write_json
from ..support.logs import draw_losses, last_losses, logged
from ..training import LossFn, Progress, TrainConfig, load_ema, train
from .profiles import Profile
from .summary import write_summary
from .train_autoencoder import autoencoder_recipe
from .train_clip import clip_recipe
from .train_dit import dit_recipe
from .train_features import features_recipe
from .train_few_steps import few_steps_recipe
from .train_judges import oracle_recipe, segmenter_recipe
from .train_unet import unet_recipe

CPU = torch.device("cpu")
LOOK_EVERY = 120.0    # seconds
RECIPES = {"oracle": oracle_recipe, "segmenter": segmenter_recipe, "features": features_recipe,
           "vae": autoencoder_recipe, "clip": clip_recipe, "ldm": unet_recipe, "dit": dit_recipe,
           "few_steps": few_steps_recipe}
MADE_FROM = {"vae": ("features/model.safetensors",),    # what a stage reads of those before it
             "ldm": ("clip/model.safetensors", "tiny-worlds/vae/diffusion_pytorch_model.safetensors"),
             "dit": ("tiny-worlds/vae/diffusion_pytorch_model.safetensors",
                     "tiny-worlds/text_encoder/model.safetensors"),
             "few_steps": ("tiny-worlds/unet/diffusion_pytorch_model.safetensors",
                           "tiny-worlds/text_encoder/model.safetensors")}


def holds_run(folder: Path, allowed: bool = True) -> bool:
    """Return whether a training was begun in `folder` or below. Raises ValueError for one that is not `allowed`."""
    if (found := any(folder.rglob("state.safetensors"))) and not allowed:
        raise ValueError(f"{folder} already holds a run; continue it with --resume, or delete it to start over")
    return found


def same_run(folder: Path, resume: bool, settings: dict) -> None:
    """Note in run.json what a run is made with.

    Raises ValueError if a resumed run was begun with something else, or if a new one would replace one that is there.
    """
    note = folder / "run.json"
    if not holds_run(folder, resume) or not note.exists():
        write_json(note, {"settings": settings, "seconds": 0.0})
    before = read_json(note)["settings"]
    changed = [f"{name} was {before.get(name)!r} and is now {settings.get(name)!r}"
               for name in before | settings if before.get(name) != settings.get(name)]
    if changed:
        raise ValueError(f"--resume: the run in {folder} was started with other settings: {'; '.join(changed)}. "
                         "Use the old settings, or delete that folder to start over")


def fit(model: nn.Module, loss_fn: LossFn, config: TrainConfig, folder: Path,
        left_after: Callable[[float, float], str] = lambda left, pace: "",
        look: Callable[[Progress], None] = lambda progress: None) -> nn.Module:
    """Train with a progress bar, from the state that is in `folder`, if any; return the averaged model.

    State, log and the time spent are written to `folder`. left_after: as in `logged`. look: is shown the first step,
    the last one, and one every two minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, note, since = folder / "state.safetensors", folder / "run.json", time.monotonic()
    run = {"seconds": 0.0} | (read_json(note) if note.exists() else {})
    steps, due = train(model, loss_fn, config, state, resume=state.exists()), 0.0
    for progress in logged(steps, folder / "log.csv", folder.name, config.steps, left_after):
        if progress.step % config.save_every == 0 or progress.step == config.steps:
            write_json(note, run | {"seconds": run["seconds"] + time.monotonic() - since})
        if time.monotonic() > due or progress.step == config.steps:
            look(progress)
            due = time.monotonic() + LOOK_EVERY
    return load_ema(state, model)


def run(name: str, profile: Profile, root: Path, resume: bool = False, device: torch.device = CPU,
        left_after: Callable[[float, float], str] = lambda left, pace: "") -> None:
    """Train one stage to its end and save what it makes below `root`; its state and log to `root`/training.

    resume: continue a killed run; it ends in the weights of an unbroken one. Raises ValueError for an unknown recipe
    and as `same_run`, FileNotFoundError if a stage before it is missing.
    """
    expect(name in RECIPES, "recipe", repr(name), f"one of {', '.join(RECIPES)}")
    restore(root / "tiny-worlds")
    before = [root / path for path in MADE_FROM.get(name, ())]
    if missing := [path for path in before if not path.exists()]:
        raise FileNotFoundError(f"{name} needs {missing[0]}, which is not there; run the recipe of that name first")
    folder = root / "training" / name
    settings = asdict(profile.train) | {"batch": profile.batch, "scenes": profile.scenes, "device": device.type}
    with locked(folder):
        same_run(folder, resume, settings | {f"made from {path.parent.name}": sha256(path) for path in before})
        made = read_json(folder / "run.json").get("files", {})
        if made and all((root / path).exists() and sha256(root / path) == digest for path, digest in made.items()):
            return    # finished
        torch.manual_seed(profile.train.seed)
        model, loss_fn, save = RECIPES[name](profile, root, device)
        trained = fit(model.to(device), loss_fn, profile.train, folder, left_after)
        draw_losses(folder / "log.csv")
        files = sorted(save(trained).rglob("*.safetensors"))
        write_json(folder / "run.json", read_json(folder / "run.json") | {
            "machine": device_name(device), "losses": last_losses(folder / "log.csv"),
            "files": {path.relative_to(root).as_posix(): sha256(path) for path in files}})


def run_all(profiles: dict[str, Profile], root: Path, resume: bool = False, device: torch.device = CPU) -> None:
    """Train every stage in order, except finished ones, then write the tables of a model card to `root`/training.

    resume: go on with what is there. Raises as `run`.
    """
    holds_run(root / "training", resume)    # refused now, and not hours later, when the stage comes that is there
    planned = spent = 0.0    # minutes of the stages done: the pace of this machine
    for k, (name, profile) in enumerate(profiles.items()):
        later = sum(each.minutes for each in [*profiles.values()][k + 1:]) * (spent / planned if planned else 1)
        note = root / "training" / name / "run.json"
        run(name, profile, root, resume, device,
            lambda left, pace, later=later: f"all stages: {(left / 60 + later) / 60:.1f} h left; ")
        planned, spent = planned + profile.minutes, spent + read_json(note)["seconds"] / 60
    write_summary(root, list(profiles))
