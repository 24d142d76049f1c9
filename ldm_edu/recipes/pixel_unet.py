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

from .. import DATA
from ..blocks import Downsample, ResBlock, Upsample, timestep_embedding, zero_init
from ..losses import l_simple
from ..schedule import Schedule, cosine_schedule
from ..support.files import load_weights, save_weights
from ..support.logs import logged
from ..tiny_worlds.datasets import to_tensor
from ..tiny_worlds.landscapes import paint
from ..tiny_worlds.scenes import GROUNDS, SKIES, Scene, Thing
from ..training import LossFn, TrainConfig, load_ema, pick_batch, train

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


class SmallUNet(nn.Module):
    """A U-Net for small pictures, without a prompt: one residual block a level, no attention.

    x (B, 3, H, W), t () or (B,), int64 -> the noise in x (B, 3, H, W).
    channels: per level, multiples of 8. skips: False hands zeros across, which tell nothing.
    """

    def __init__(self, schedule: Schedule, channels: tuple[int, ...] = (16, 32, 96), *,
                 skips: bool = True):
        super().__init__()
        self.skips, self.first = skips, channels[0]
        self.register_buffer("alpha_bar", schedule.alpha_bar.float(), persistent=False)
        time = 4 * self.first
        pairs = list(zip((self.first, *channels[:-1]), channels))
        self.time = nn.Sequential(nn.Linear(self.first, time), nn.SiLU(), nn.Linear(time, time))
        self.conv_in = nn.Conv2d(3, self.first, 3, padding=1)
        self.down = nn.ModuleList(ResBlock(a, b, time, groups=8) for a, b in pairs)
        self.shrink = nn.ModuleList(Downsample(c) for c in channels[:-1])
        self.mid = ResBlock(channels[-1], channels[-1], time, groups=8)
        self.up = nn.ModuleList(ResBlock(2 * b, a, time, groups=8) for a, b in pairs)
        self.grow = nn.ModuleList(Upsample(c) for c in channels[:-1])
        self.norm = nn.GroupNorm(8, self.first)
        self.conv_out = zero_init(nn.Conv2d(self.first, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        time = self.time(timestep_embedding(t, self.first))
        h, kept = self.conv_in(x), []                                      # (B, 16, H, W)
        for i, block in enumerate(self.down):
            h = block(h, time)
            kept.append(h)
            h = self.shrink[i](h) if i < len(self.shrink) else h           # (B, 96, H/4, W/4)
        h = self.mid(h, time)
        for i in reversed(range(len(self.up))):
            skip = kept.pop() if self.skips else torch.zeros_like(kept.pop())
            h = self.up[i](torch.cat([h, skip], dim=1), time)
            h = self.grow[i - 1](h, kept[-1].shape[2:]) if i > 0 else h    # (B, 16, H, W)
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + a.sqrt() * self.conv_out(F.silu(self.norm(h)))
