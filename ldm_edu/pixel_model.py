"""The pixel model of chapter 02: a small U-Net that learns a world of 240 pictures of 16 × 16 pixels, without words.

`python -m ldm_edu.pixel_model [--steps N] [--threads N] [--resume] [--out DIR]` trains what data/pixels holds: the
recipe that the chapter runs, for longer.
"""
from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from . import DATA
from .files import load_weights, save_weights
from .landscape import paint
from .scenes import GROUNDS, SKIES, Scene, Thing
from .schedule import Schedule, cosine_schedule
from .training import LossFn, TrainConfig, load_ema, logged, pick_batch, train
from .unet import SmallUNet
from .worlds import to_tensor

PIXELS = DATA / "pixels" / "model.safetensors"
THINGS = ("house", "boat", "mushroom", "cactus")
INKS = ("red", "yellow", "green", "blue", "white")
STEPS = 7_000    # of training, for what is shipped


def little_scene(sky: str, ground: str, kind: str, colour: str) -> Scene:
    """Clear weather and one big thing in the middle."""
    thing = Thing(kind, colour, "big", "middle", front=False, x=0.5, y=0.16, scale=0.6)
    return Scene(sky, ground, "clear", (thing,), horizon=0.38, light_x=0.2,
                 light_y=0.55 if sky == "sunset" else 0.8, variant=0)


def little_world() -> Tensor:
    """Every sky on every ground with every thing in every colour: (240, 3, 16, 16) in [-1, 1]."""
    choices = itertools.product(SKIES, GROUNDS, THINGS, INKS)
    return torch.stack([to_tensor(paint(little_scene(*choice), 16, 16)[0]) for choice in choices])


def l_simple(model: nn.Module, x0: Tensor, schedule: Schedule, generator: Generator) -> Tensor:
    """The mean squared error of the noise predicted in x0 (B, ...), noised to a random t each.

    Returns (). Ho et al. 2020, eq. 14.
    """
    t = torch.randint(schedule.T, (len(x0),), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    return F.mse_loss(model(schedule.add_noise(x0, eps, t), t), eps)


def pixel_recipe(steps: int = STEPS, skips: bool = True) -> tuple[SmallUNet, LossFn, TrainConfig]:
    """What `train` needs: a model, untrained and always the same one, its loss, and the plan."""
    schedule, pictures = cosine_schedule(), little_world()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallUNet(schedule, skips=skips)

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        x0 = pictures[pick_batch(len(pictures), 16, generator)]
        return {"eps": l_simple(model, x0, schedule, generator)}

    return model, loss_fn, TrainConfig(steps, lr=4e-3, warmup=20)


def load_pixel_model(path: Path = PIXELS) -> SmallUNet:
    """The trained model. Raises FileNotFoundError or ValueError for a missing, damaged or foreign file."""
    return load_weights(SmallUNet(cosine_schedule()), path)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.pixel_model", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or prolong it with --steps")
    parser.add_argument("--out", type=Path, default=PIXELS.parent, help="folder for model.safetensors")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.out.parent / "training" / args.out.name    # what it needs to resume, as for the other recipes
    folder.mkdir(parents=True, exist_ok=True)
    model, loss_fn, config = pixel_recipe(args.steps)
    steps = train(model, loss_fn, config, folder / "state.safetensors", args.resume)
    for _ in logged(steps, folder / "log.csv", "pixels", config.steps):
        pass
    save_weights(load_ema(folder / "state.safetensors", model), args.out / PIXELS.name)


if __name__ == "__main__":
    main()
