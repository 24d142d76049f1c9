"""Train the pixel model of chapter 02, a small U-Net without words, on a world of 240 pictures of 16 × 16 pixels."""
from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from .. import DATA
from ..blocks import Downsample, ResBlock, Upsample, timestep_embedding, zero_init
from ..losses import l_simple
from ..schedule import Schedule, cosine_schedule
from ..support.commands import new_folder, whole
from ..support.files import load_weights, save_weights
from ..tiny_worlds.datasets import to_tensor
from ..tiny_worlds.landscapes import paint
from ..tiny_worlds.scenes import GROUNDS, SKIES, Scene, Thing
from ..training import LossFn, TrainConfig, pick_batch, train

PIXELS = DATA / "pixels" / "model.safetensors"
THINGS = ("house", "boat", "mushroom", "cactus")
INKS = ("red", "yellow", "green", "blue", "white")
STEPS = 7_000    # of training, for what is shipped


class SmallUNet(nn.Module):
    """A U-Net for small pictures, without a prompt: one residual block a level, no attention.

    x (B, 3, H, W), t () or (B,), int64 -> the noise in x (B, 3, H, W).
    channels: per level, multiples of 8. skips: False sends zeros instead of the skip connections.
    """

    def __init__(self, schedule: Schedule, channels: tuple[int, ...] = (16, 32, 96), *, skips: bool = True):
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


def little_scene(sky: str, ground: str, kind: str, colour: str) -> Scene:
    """Describe clear weather and one big thing in the middle."""
    thing = Thing(kind, colour, "big", "middle", front=False, x=0.5, y=0.16, scale=0.6)
    return Scene(sky, ground, "clear", (thing,), horizon=0.38, light_x=0.2,
                 light_y=0.55 if sky == "sunset" else 0.8, variant=0)


def little_world() -> Tensor:
    """Paint every sky on every ground with every thing in every colour: (240, 3, 16, 16) in [-1, 1]."""
    choices = itertools.product(SKIES, GROUNDS, THINGS, INKS)
    return torch.stack([to_tensor(paint(little_scene(*choice), 16, 16)[0]) for choice in choices])


def pixel_recipe(steps: int = STEPS, skips: bool = True) -> tuple[SmallUNet, LossFn, TrainConfig]:
    """Make what `train` needs: an untrained model, the same every time, its loss, and the configuration."""
    schedule, pictures = cosine_schedule(), little_world()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallUNet(schedule, skips=skips)

    def loss_fn(model: nn.Module, generator: Generator) -> dict[str, Tensor]:
        x0 = pictures[pick_batch(len(pictures), 16, generator)]
        return {"eps": l_simple(model, x0, schedule, generator)}

    return model, loss_fn, TrainConfig(steps, lr=4e-3, warmup=20)


def load_pixel_model(path: Path = PIXELS) -> SmallUNet:
    """Load the trained model. Raises as `load_weights` does."""
    return load_weights(SmallUNet(cosine_schedule()), path)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--steps", type=whole, default=STEPS, help="of training")
    parser.add_argument("--out", type=new_folder, default=PIXELS.parent, help="folder for the weights")


def run(args: Namespace) -> None:
    """Train what chapter 02 trains, for longer, and save the averaged model."""
    *_, last = tqdm(train(*pixel_recipe(args.steps)), "pixels", args.steps, unit="step")
    save_weights(last.ema, args.out / PIXELS.name)
