"""One small autoencoder, trained with four losses, at eight sizes of its latent, and with a codebook.

`python -m ldm_edu.studies first_stage --out FOLDER [--threads 1]` trains each on the same batches: the four losses to
safetensors files, the rest, with L2, to a table. What FOLDER has is not trained again; data/losses has all.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from .. import DATA
from ..metrics.caption_accuracy import score
from ..metrics.distances import psnr
from ..metrics.oracle import Oracle
from ..perceptual import LPIPS
from ..recipes.train_autoencoder import FirstStage, LossWeights
from ..support.commands import new_folder, whole
from ..support.files import load_weights, save_weights
from ..support.tables import read_table, write_table
from ..tiny_worlds.datasets import TinyWorlds, render, to_float
from ..training import Progress, TrainConfig, pick_batch, train
from . import print_row

BATCH, SIDE, KL = 16, 32, 1e-5    # of the crops: a quarter of a scene's cost; and hardly any pull, for every loss
STUDY = TrainConfig(2000, lr=4e-3, warmup=20, ema=0.99)
LOSSES = {
    "L1": LossWeights(l1=1, l2=0, perceptual=0, kl=KL),
    "L2": LossWeights(l1=0, l2=1, perceptual=0, kl=KL),
    "L1 + LPIPS": LossWeights(l1=1, l2=0, perceptual=1, kl=KL),
    "L1 + LPIPS + adversarial": LossWeights(l1=1, l2=0, perceptual=1, kl=KL, adversarial=0.5, adversarial_start=300)}
FOLDER = DATA / "losses"
SIZES = [(f, c, 0, 0, 0) for c in (4, 1, 16) for f in (8, 4, 2) if (f, c) != (2, 16)]    # more numbers than a picture
SIZES += [(4, 4, 256, 1, 0), (4, 4, 256, 0, 0), (4, 4, 0, 0, 1), (4, 4, 0, 0, 2)]         # as in the fields of SizeRow


class SizeRow(NamedTuple):
    """A row of the table: what was trained, for how long, and the mean scores of its reconstructions."""

    factor: int
    channels: int
    codes: int          # 0: none, the latent is a vector of numbers
    restarts: int       # 1: dead codes begin again
    seed: int
    step: int
    PSNR: float         # dB
    LPIPS: float        # distance
    oracle: float       # share of the captions' attributes that it finds
    perplexity: float   # codes in use; 0 without a codebook


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LeanAutoencoder(nn.Module):
    """An autoencoder without norms, attention and levels, which learns in seconds what `Autoencoder` learns in minutes.

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


class VectorQuantizer(nn.Module):
    """Replace every latent pixel by the nearest of `size` vectors, the codes: `codebook`, (size, channels).

    In training each code follows the mean of the latents that chose it (VQ-VAE, arXiv:1711.00937, appendix A.1); with
    restarts, one that hardly any latent chooses begins again at a latent of the batch (Jukebox, arXiv:2005.00341).
    """

    def __init__(self, size: int, channels: int = 4, commitment: float = 0.25, decay=0.95, restarts: bool = True):
        super().__init__()
        self.commitment, self.decay, self.restarts = commitment, decay, restarts
        self.register_buffer("codebook", torch.empty(size, channels).uniform_(-1 / size, 1 / size))
        self.register_buffer("count", torch.zeros(size))    # latents per batch that choose a code, averaged

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent (B, channels, h, w) -> the codes in its place (same shape), the loss (), their numbers (B, h, w)."""
        vectors = z.detach().movedim(1, -1)                                               # (B, h, w, channels)
        numbers = torch.cdist(vectors.flatten(0, 2), self.codebook).argmin(1).view(vectors.shape[:3])
        codes = self.codebook[numbers].movedim(-1, 1)                                     # (B, channels, h, w)
        if self.training:
            self.follow(vectors.flatten(0, 2), numbers.flatten())
        loss = self.commitment * F.mse_loss(z, codes)
        return z + (codes - z).detach(), loss, numbers    # choosing has no gradient: the decoder's passes straight to z

    @torch.no_grad()
    def follow(self, vectors: Tensor, numbers: Tensor) -> None:
        """Move the codes towards the means of the vectors (N, channels) that chose `numbers` (N,)."""
        chosen = torch.bincount(numbers, minlength=len(self.codebook)).float()            # (size,)
        means = torch.zeros_like(self.codebook).index_add(0, numbers, vectors) / chosen.clamp(min=1)[:, None]
        self.count.lerp_(chosen, 1 - self.decay)
        pull = (1 - self.decay) * chosen / self.count.clamp(min=1e-6)    # a share of those that chose it of late
        self.codebook.lerp_(means, pull[:, None])
        even = len(numbers) / len(self.codebook)
        if self.restarts and (dead := self.count < 0.05 * even).any():
            self.codebook[dead] = vectors[torch.randint(len(vectors), (int(dead.sum()),), device=vectors.device)]
            self.count[dead] = even


def perplexity(numbers: Tensor, size: int) -> Tensor:
    """Effective number of codes in use: e to the entropy of their shares, from 1 to `size`. Any shape -> ()."""
    shares = torch.bincount(numbers.flatten(), minlength=size) / numbers.numel()
    return torch.special.entr(shares).sum().exp()


def random_crops(images: Tensor, generator: torch.Generator, batch: int = BATCH, side: int = SIDE) -> Tensor:
    """Cut random squares out of uint8 pictures (N, 3, H, W): float32 (batch, 3, side, side) in [-1, 1]."""
    pick = pick_batch(len(images), batch, generator)
    tops, lefts = (torch.randint(size - side + 1, (batch,), generator=generator) for size in images.shape[2:])
    return to_float(torch.stack([images[i, :, top:top + side, left:left + side]
                                 for i, top, left in zip(pick, tops, lefts)]))


def learn(weights: LossWeights, images: Tensor, config: TrainConfig = STUDY) -> Iterator[Progress]:
    """Train a LeanAutoencoder with this loss, from weights and on crops of images that are the same for every loss."""
    torch.manual_seed(config.seed)
    stage = FirstStage(LeanAutoencoder(), LPIPS.tiny() if weights.perceptual else None, weights)
    return train(stage, lambda model, generator: model(random_crops(images, generator), generator), config)


@torch.no_grad()
def rebuild(autoencoder: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Encode and decode pictures (B, 3, H, W) through the means of q(z | x), clipped to [-1, 1]."""
    return torch.cat([autoencoder.decode(autoencoder.encode(part)[0]).clamp(-1, 1) for part in images.split(batch)])


def load_study(folder: Path = FOLDER) -> tuple[dict[str, LeanAutoencoder], list[SizeRow]]:
    """Load the autoencoders by name of their loss, in the order of LOSSES, and the table of sizes."""
    models = {name: load_weights(LeanAutoencoder(), folder / f"{i}.safetensors") for i, name in enumerate(LOSSES)}
    return models, read_table(folder / "sizes.csv", SizeRow)


def learn_sizes(images: Tensor, steps: int, count: int, table: Path) -> None:
    """Train on crops of uint8 images (N, 3, H, W) what `table` lacks of SIZES; score `count` scenes four times each."""
    lpips, oracle, world = LPIPS.tiny(), Oracle.load(), TinyWorlds("validation", count)
    originals, captions = to_float(render("validation", count)[0]), [world.caption(i) for i in range(count)]
    rows = read_table(table, SizeRow) if table.exists() else []

    def autoencode(model: LeanAutoencoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        z = model.encode(x)[0]
        z, held, numbers = model.quantizer(z) if model.quantizer else (z, 1e-5 * z.square().mean(), None)
        return model.decode(z), held, numbers

    def loss_fn(model: LeanAutoencoder, generator: Generator) -> dict[str, Tensor]:
        decoded, held, _ = autoencode(model, x := random_crops(images, generator))
        return {"l2": F.mse_loss(decoded, x), "held": held}

    for f, c, codes, restarts, seed in (size for size in SIZES if size not in [row[:5] for row in rows]):
        torch.manual_seed(seed)
        model = LeanAutoencoder(f, c, width=12 * f)    # so that each has about the same compute per picture
        model.quantizer = VectorQuantizer(codes, c, restarts=bool(restarts)) if codes else None
        config = TrainConfig(steps, lr=3e-3, warmup=50, ema=0.99, seed=seed, muon=True)
        for step, _, _, ema in tqdm(train(model, loss_fn, config), f"{f}, {c}, {codes}", total=steps, unit="step"):
            if step * 4 % steps == 0:
                with torch.no_grad():
                    x, _, numbers = autoencode(ema, originals)
                    x, used = x.clamp(-1, 1), perplexity(numbers, codes).item() if codes else 0.0
                    rows.append(SizeRow(f, c, codes, restarts, seed, step, psnr(x, originals).mean().item(), lpips(
                        x, originals).mean().item(), score(captions, oracle.read(x)).accuracy, used))
                print_row(rows[-1])
        write_table(table, rows)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--steps", type=whole, help="of each training (default: 2000 for the losses, 2400 else)")
    parser.add_argument("--scenes", type=whole, default=4000, help="to train on")
    parser.add_argument("--count", type=whole, default=128, help="validation scenes for the table")
    parser.add_argument("--out", type=new_folder, default=FOLDER, help="folder for weights and table")


def run(args: Namespace) -> None:
    """Train what is not in the folder yet."""
    images = render("train", args.scenes)[0]
    for i, (name, weights) in enumerate(LOSSES.items()):
        if not (path := args.out / f"{i}.safetensors").exists():
            steps = learn(weights, images, replace(STUDY, steps=args.steps or STUDY.steps))
            *_, last = tqdm(steps, name, args.steps or STUDY.steps, unit="step")
            save_weights(last.ema.autoencoder, path)    # in float16
    learn_sizes(images, args.steps or 2400, args.count, args.out / "sizes.csv")
