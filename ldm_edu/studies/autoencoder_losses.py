"""The same autoencoder, the same budget, four losses: what does each loss do to the same pictures?

`python -m ldm_edu.studies autoencoder_losses [--steps N] [--threads 1]` trains with each of LOSSES, from the same first
weights on the same batches, scores the four on scenes that none was trained on, and writes them to data/losses.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score
from ..metrics.distances import psnr
from ..metrics.oracle import Oracle
from ..perceptual import LPIPS
from ..recipes.train_autoencoder import FirstStage, LossWeights
from ..support.files import load_weights, save_weights
from ..support.tables import read_table, write_table
from ..tiny_worlds.datasets import TinyWorlds, render, to_float
from ..training import Progress, TrainConfig, pick_batch, train
from . import print_row

BATCH, SIDE = 16, 32    # of the training crops: the pixels of 64 × 64 scenes at a quarter of the cost
STUDY = TrainConfig(2000, lr=4e-3, warmup=20, ema=0.99)
KL = 1e-5               # of all four: hardly any, so that they differ in one thing only
LOSSES = {
    "L1": LossWeights(l1=1, l2=0, perceptual=0, kl=KL),
    "L2": LossWeights(l1=0, l2=1, perceptual=0, kl=KL),
    "L1 + LPIPS": LossWeights(l1=1, l2=0, perceptual=1, kl=KL),
    "L1 + LPIPS + adversarial": LossWeights(l1=1, l2=0, perceptual=1, kl=KL, adversarial=0.5, adversarial_start=300)}
FOLDER = DATA / "losses"


class LossRow(NamedTuple):
    """A row of the table: mean scores of the reconstructions."""

    loss: str
    sharpness: float
    LPIPS: float     # distance
    PSNR: float      # dB
    oracle: float    # share of the captions' attributes that it finds


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LeanAutoencoder(nn.Module):
    """An autoencoder without norms, attention and levels, which learns in seconds what `Autoencoder` learns in minutes.

    One convolution turns squares of `factor` × `factor` pixels into features, one turns features into such squares.
    Images (B, 3, H, W) -> means and log-variances, (B, latent_channels, H/f, W/f) each, and back.
    """

    def __init__(self, factor: int = 4, latent_channels: int = 4, width: int = 48):
        super().__init__()

        def residual() -> nn.Module:
            return _Residual(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
                             nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

        self.encoder = nn.Sequential(OrderedDict(
            conv_in=nn.Conv2d(3, width, factor, stride=factor), residual=residual(), act=nn.SiLU(),
            conv_out=nn.Conv2d(width, 2 * latent_channels, 1)))
        self.decoder = nn.Sequential(OrderedDict(
            conv_in=nn.Conv2d(latent_channels, width, 3, padding=1), residual=residual(), act=nn.SiLU(),
            conv_out=nn.Conv2d(width, 3 * factor**2, 1), shuffle=nn.PixelShuffle(factor)))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


def random_crops(images: Tensor, generator: torch.Generator, batch: int = BATCH, side: int = SIDE) -> Tensor:
    """Cut random squares out of uint8 pictures (N, 3, H, W): float32 (batch, 3, side, side) in [-1, 1]."""
    pick = pick_batch(len(images), batch, generator)
    tops, lefts = (torch.randint(size - side + 1, (batch,), generator=generator) for size in images.shape[2:])
    return to_float(torch.stack([images[i, :, top:top + side, left:left + side]
                                 for i, top, left in zip(pick, tops, lefts)]))


def learn(weights: LossWeights, images: Tensor, config: TrainConfig = STUDY, lpips: LPIPS | None = None,
          factor: int = 4) -> Iterator[Progress]:
    """Train a LeanAutoencoder with this loss on crops of uint8 pictures (N, 3, H, W); yield as `train` does.

    The first weights, the batches and the latents' noise are the same for every loss. The result is the last
    `progress.ema.autoencoder`.
    """
    torch.manual_seed(config.seed)
    autoencoder = LeanAutoencoder(factor)    # first, because the discriminator draws its weights too
    lpips = LPIPS.tiny() if lpips is None and weights.perceptual else lpips
    stage = FirstStage(autoencoder, lpips, weights)
    return train(stage, lambda model, generator: model(random_crops(images, generator), generator), config)


def spectrum(images: Tensor) -> Tensor:
    """Mean energy of square pictures (B, C, S, S) at 0, 1, ..., S / 2 waves per side, all directions: (S / 2 + 1,)."""
    side = images.shape[-1]
    window = torch.hann_window(side, device=images.device)    # fades the borders out, where left does not fit right
    waves = torch.fft.fft2(images * window * window[:, None], norm="ortho")
    power = waves.abs().square().sum(1).mean(0)                                           # (S, S)
    frequency = torch.fft.fftfreq(side, 1 / side, device=images.device)
    ring = torch.hypot(frequency, frequency[:, None]).round().long().clamp(max=side // 2)
    return torch.zeros(side // 2 + 1, device=images.device).index_add(0, ring.flatten(), power.flatten())


def sharpness(decoded: Tensor, originals: Tensor) -> float:
    """Ratio of the decoded pictures' energy to the originals', in the upper half of the spectrum; both (B, C, S, S).

    Below 1: blurred. Above 1: added detail, be it noise or pattern.
    """
    half = originals.shape[-1] // 4
    return (spectrum(decoded)[half:].sum() / spectrum(originals)[half:].sum()).item()


@torch.no_grad()
def rebuild(autoencoder: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Encode and decode pictures (B, 3, H, W) through the means of q(z | x), clipped to [-1, 1]."""
    return torch.cat([autoencoder.decode(autoencoder.encode(part)[0]).clamp(-1, 1) for part in images.split(batch)])


@torch.no_grad()
def measure(autoencoder: nn.Module, originals: Tensor, lpips: LPIPS) -> dict[str, float]:
    """Score reconstructions of pictures (B, 3, S, S) in [-1, 1]: sharpness, LPIPS distance, PSNR in dB."""
    decoded = rebuild(autoencoder, originals)
    distances = torch.cat([lpips(a, b) for a, b in zip(decoded.split(64), originals.split(64))])
    return {"sharpness": sharpness(decoded, originals), "LPIPS": distances.mean().item(),
            "PSNR": psnr(decoded, originals).mean().item()}


def load_study(folder: Path = FOLDER) -> tuple[dict[str, LeanAutoencoder], dict[str, dict]]:
    """Load the four autoencoders and the rows of the table, by name of the loss, in the order of LOSSES."""
    table = {row.loss: row._asdict() for row in read_table(folder / "table.csv", LossRow)}
    return {name: load_weights(LeanAutoencoder(), folder / f"{i}.safetensors") for i, name in enumerate(table)}, table


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--steps", type=int, default=STUDY.steps)
    parser.add_argument("--scenes", type=int, default=4000, help="to train on")
    parser.add_argument("--count", type=int, default=256, help="validation scenes for the table")
    parser.add_argument("--evaluate", action="store_true", help="train nothing, score the stored four again")
    parser.add_argument("--out", type=Path, default=FOLDER)


def run(args: Namespace) -> None:
    """Train the four, unless they are only to be evaluated, and write their table."""
    images, lpips, oracle = None if args.evaluate else render("train", args.scenes)[0], LPIPS.tiny(), Oracle.load()
    world, originals = TinyWorlds("validation", args.count), to_float(render("validation", args.count)[0])
    captions, rows = [world.caption(i) for i in range(args.count)], []
    for i, (name, weights) in enumerate(LOSSES.items()):
        path = args.out / f"{i}.safetensors"
        if not args.evaluate:
            steps = learn(weights, images, replace(STUDY, steps=args.steps), lpips)
            *_, last = tqdm(steps, name, total=args.steps, unit="step")
            save_weights(last.ema.autoencoder, path)
        stored = load_weights(LeanAutoencoder(), path)    # scored as shipped, in float16
        found = score(captions, oracle.read(rebuild(stored, originals)))
        rows.append(LossRow(name, **measure(stored, originals, lpips), oracle=found.accuracy))
        print_row(rows[-1])
    write_table(args.out / "table.csv", rows)
