"""How every shipped checkpoint was made.

`python -m ldm_edu.recipes oracle|segmenter|features|vae|decoder|clip|ldm --profile cpu|gpu [--resume] [--out DIR]`

On several GPUs, or with one thread on each of several CPU cores (faster than one process with several threads):
`torchrun --nproc-per-node 2 -m ldm_edu.recipes ldm --threads 1`; the batch grows with the processes.
"""
from __future__ import annotations

import os
from pathlib import Path

import torch

from ..support.distributed import processes
from ..support.logs import draw_losses, logged
from ..training import TrainConfig, load_ema, train
from .profile import Profile
from .train_autoencoder import decoder, vae
from .train_clip import clip_recipe
from .train_features import features_recipe
from .train_oracle import oracle_recipe
from .train_segmenter import segmenter_recipe
from .train_unet import unet_recipe

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")
PROFILES = {
    "oracle": {"cpu": Profile(TrainConfig(8000, lr=1e-3), batch=64, scenes=100_000),
               "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "segmenter": {"cpu": Profile(TrainConfig(2000, lr=2e-3), batch=16, scenes=10_000),
                  "gpu": Profile(TrainConfig(10_000, lr=2e-3, precision="bfloat16"), batch=64, scenes=100_000)},
    "features": {"cpu": Profile(TrainConfig(1500, lr=1e-3), batch=32, scenes=10_000),
                 "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=128, scenes=100_000)},
    "clip": {"cpu": Profile(TrainConfig(4000, lr=1e-3, weight_decay=0.05), batch=128, scenes=30_000),
             "gpu": Profile(TrainConfig(20_000, lr=1e-3, weight_decay=0.05, precision="bfloat16"), batch=512,
                            scenes=200_000)},
    "vae": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
            "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "decoder": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
                "gpu": Profile(TrainConfig(20_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "ldm": {"cpu": Profile(TrainConfig(12_000, lr=8e-4, precision="medium"), batch=64, scenes=180_000),
            "gpu": Profile(TrainConfig(60_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)}}
# Each returns the model to train, its loss, and how to save the averaged weights. With `warm` the model starts from the
# weights in `out`, not from random ones.
RECIPES = {"oracle": oracle_recipe, "segmenter": segmenter_recipe, "features": features_recipe, "vae": vae,
           "decoder": decoder, "clip": clip_recipe, "ldm": unet_recipe}
APART = ("oracle", "segmenter", "features", "clip")    # in folders of their own; the others in tiny-worlds


def state_folder(out: Path, name: str) -> Path:
    """Where a run keeps what it needs to resume, its log and its loss figure: beside the checkpoint, not in it."""
    return out.parent / "training" / f"{out.name}-{name}"


def run(name: str, profile: Profile, out: Path, resume: bool = False, warm: bool = False) -> None:
    """Train one recipe to its end and save it to `out`; a progress bar, a CSV log and a loss figure on the way.

    resume: continue a killed run, exactly. warm: a new run that starts from the weights in `out`. Raises ValueError
    for an unknown recipe, FileNotFoundError if there is nothing to resume or to start from.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: expected one of {', '.join(RECIPES)}")
    rank, _ = processes()
    gpus = torch.cuda.device_count()
    device = torch.device("cuda", rank % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)    # for the barrier, which is not told
    folder = state_folder(out, name)
    state, log = folder / "state.safetensors", folder / "log.csv"
    if resume and not state.exists():
        raise FileNotFoundError(f"--resume: there is no {state}")
    folder.mkdir(parents=True, exist_ok=True)
    began_warm = folder / "warm"    # a resumed run has the loss that it began with, whatever it is told
    if resume:
        warm = began_warm.exists()
    elif rank == 0:
        began_warm.touch() if warm else began_warm.unlink(missing_ok=True)
    torch.manual_seed(profile.train.seed)
    model, loss_fn, save = RECIPES[name](profile, out, device, warm)
    model = model.to(device)
    steps = train(model, loss_fn, profile.train, state, resume)
    for _ in logged(steps, log, name, profile.train.steps) if rank == 0 else steps:
        pass
    if rank > 0:
        return
    draw_losses(log)
    save(load_ema(state, model))
