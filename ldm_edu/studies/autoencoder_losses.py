"""The same autoencoder, the same budget, four losses: what each loss makes of the same pictures.

`python -m ldm_edu.loss_study [--steps N] [--threads 1] [--out DIR]` trains L1, L2, L1 + LPIPS, and L1 + LPIPS + a patch
discriminator, from the same first weights on the same batches, prints a table of figures on scenes that none of them
was trained on, and keeps it in data/losses with the four autoencoders.
"""
from __future__ import annotations

import argparse
import csv
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score
from ..metrics.distances import psnr
from ..metrics.oracle import Oracle
from ..perceptual import LPIPS
from ..recipes.train_autoencoder import FirstStage, LossWeights
from ..support.files import load_weights, replacing, save_weights
from ..tiny_worlds.datasets import TinyWorlds, render, to_float
from ..training import Progress, TrainConfig, pick_batch, train

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `recipes`
os.environ.setdefault("GOMP_SPINCOUNT", "0")
BATCH, SIDE = 16, 32    # of the training crops: the pixels of 64 × 64 scenes at a quarter of the cost
STUDY = TrainConfig(2000, lr=4e-3, warmup=20, ema=0.99)
KL = 1e-5               # of all four: hardly any, so that they differ in one thing only
LOSSES = {
    "L1": LossWeights(l1=1, l2=0, perceptual=0, kl=KL),
    "L2": LossWeights(l1=0, l2=1, perceptual=0, kl=KL),
    "L1 + LPIPS": LossWeights(l1=1, l2=0, perceptual=1, kl=KL),
    "L1 + LPIPS + adversarial": LossWeights(l1=1, l2=0, perceptual=1, kl=KL, adversarial=0.5, adversarial_start=300)}
FOLDER = DATA / "losses"
TABLE = FOLDER / "table.csv"


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LeanAutoencoder(nn.Module):
    """An autoencoder without norms, attention and levels, which learns in seconds what `Autoencoder` learns in minutes.

    One convolution turns squares of `factor` × `factor` pixels into features, one turns features into such squares.
    `encode` and `decode` as there: images (B, 3, H, W), means and log-variances (B, latent_channels, H/f, W/f).
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
    """`batch` random squares out of uint8 pictures (N, 3, H, W): float32 (batch, 3, side, side) in [-1, 1]."""
    pick = pick_batch(len(images), batch, generator)
    tops, lefts = (torch.randint(size - side + 1, (batch,), generator=generator) for size in images.shape[2:])
    return to_float(torch.stack([images[i, :, top:top + side, left:left + side]
                                 for i, top, left in zip(pick, tops, lefts)]))


def learn(weights: LossWeights, images: Tensor, config: TrainConfig = STUDY, lpips: LPIPS | None = None,
          factor: int = 4) -> Iterator[Progress]:
    """Train a LeanAutoencoder with this loss on crops of uint8 pictures (N, 3, H, W).

    The first weights, the batches and the latents' noise are the same for every loss. Yields as `train` does; the
    result is `progress.ema.autoencoder` of the last.
    """
    torch.manual_seed(config.seed)
    autoencoder = LeanAutoencoder(factor)    # before all else that draws
    lpips = LPIPS.tiny() if lpips is None and weights.perceptual else lpips
    stage = FirstStage(autoencoder, lpips, weights)
    return train(stage, lambda model, generator: model(random_crops(images, generator), generator), config)


def spectrum(images: Tensor) -> Tensor:
    """How much of square pictures (B, C, S, S) is fine detail: their mean energy at 0, 1, ..., S / 2 waves per side.

    The energy of all directions together, (S / 2 + 1,). A window fades the borders out, where left does not fit right.
    """
    side = images.shape[-1]
    window = torch.hann_window(side, device=images.device)
    waves = torch.fft.fft2(images * window * window[:, None], norm="ortho")
    power = waves.abs().square().sum(1).mean(0)                                           # (S, S)
    frequency = torch.fft.fftfreq(side, 1 / side, device=images.device)
    ring = torch.hypot(frequency, frequency[:, None]).round().long().clamp(max=side // 2)
    return torch.zeros(side // 2 + 1, device=images.device).index_add(0, ring.flatten(), power.flatten())


def sharpness(decoded: Tensor, originals: Tensor) -> float:
    """Energy of the upper half of the spectrum in the decoded pictures, as a share of that in the originals.

    Both (B, C, S, S). Below 1: blurred. Above: noise or patterns that were not there; which, it cannot tell.
    """
    half = originals.shape[-1] // 4
    return (spectrum(decoded)[half:].sum() / spectrum(originals)[half:].sum()).item()


@torch.no_grad()
def rebuild(autoencoder: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Pictures (B, 3, H, W) there and back through the means of q(z | x), clipped to [-1, 1]."""
    return torch.cat([autoencoder.decode(autoencoder.encode(part)[0]).clamp(-1, 1) for part in images.split(batch)])


def measure(autoencoder: nn.Module, originals: Tensor, lpips: LPIPS) -> dict[str, float]:
    """Figures of the reconstructions of pictures (B, 3, S, S) in [-1, 1]: sharpness, LPIPS distance, PSNR in dB."""
    decoded = rebuild(autoencoder, originals)
    with torch.no_grad():
        distances = torch.cat([lpips(a, b) for a, b in zip(decoded.split(64), originals.split(64))])
    return {"sharpness": sharpness(decoded, originals), "LPIPS": distances.mean().item(),
            "PSNR": psnr(decoded, originals).mean().item()}


def attributes_found(autoencoder: nn.Module, count: int) -> float:
    """Share of the captions' attributes that the oracle, which trained none of them, finds in reconstructions."""
    world = TinyWorlds("validation", count)
    originals = to_float(render("validation", count)[0])
    return score([world.caption(i) for i in range(count)], Oracle.load().read(rebuild(autoencoder, originals))).accuracy


def load_study(folder: Path = FOLDER) -> tuple[dict[str, LeanAutoencoder], dict[str, dict[str, float]]]:
    """The four autoencoders and the table that the command has stored, by name of the loss, in the order of LOSSES."""
    with open(folder / "table.csv", newline="") as file:
        table = {row.pop("loss"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}
    return {name: load_weights(LeanAutoencoder(), folder / f"{i}.safetensors") for i, name in enumerate(table)}, table


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.loss_study", description=__doc__)
    parser.add_argument("--steps", type=int, default=STUDY.steps)
    parser.add_argument("--scenes", type=int, default=4000, help="to train on")
    parser.add_argument("--judged", type=int, default=256, help="validation scenes for the table")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--judge", action="store_true", help="train nothing, judge the stored four again")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    images, lpips = None if args.judge else render("train", args.scenes)[0], LPIPS.tiny()
    originals = to_float(render("validation", args.judged)[0])
    config = TrainConfig(args.steps, STUDY.lr, STUDY.warmup, ema=STUDY.ema)
    rows = []
    for i, (name, weights) in enumerate(LOSSES.items()):
        if not args.judge:
            *_, last = tqdm(learn(weights, images, config, lpips), name, total=args.steps, unit="step")
            save_weights(last.ema.autoencoder, args.out / f"{i}.safetensors")
        stored = load_weights(LeanAutoencoder(), args.out / f"{i}.safetensors")    # judged as shipped, in float16
        figures = measure(stored, originals, lpips) | {"oracle": attributes_found(stored, args.judged)}
        rows.append({"loss": name} | figures)
        print(" | ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:24s}" for value in rows[-1].values()))
    with replacing(args.out / "table.csv") as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)


if __name__ == "__main__":
    main()
