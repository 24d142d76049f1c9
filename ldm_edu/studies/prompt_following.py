"""What makes a U-Net follow its prompt? Short trainings that differ in one thing each.

`python -m ldm_edu.studies prompt_following [--threads 1]` trains each variant of a small U-Net twice, on the shipped
autoencoder's latents and from the shipped CLIP. To data/following/table.csv it writes, after every 10,000 captions, how
often the U-Net finds the noise in a picture better under a true caption than under one that is false in one thing, and
in the end what it draws of validation prompts. Seven minutes a training on one core; finished ones are not repeated, so
several processes may share the work, `--variants NAME` each.
"""
from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Generator, Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..clip import TextTransformer
from ..conditioning import TextEncoder
from ..losses import latent_loss, loss_weights, noise_loss
from ..metrics.caption_accuracy import score
from ..metrics.evaluation import captions_of, generate
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..recipes.clip_folder import load_clip
from ..recipes.train_autoencoder import encode_all
from ..recipes.train_unet import CAPTIONS, SecondStage, drop_some
from ..schedule import Schedule, scaled_linear_schedule
from ..support.checks import expect
from ..support.commands import natural, new_folder, whole
from ..support.device import pick_device
from ..support.parallel import in_parallel
from ..support.tables import add_missing
from ..tiny_worlds.captions import make_caption
from ..tiny_worlds.datasets import paint_all, render, seeds_of
from ..tiny_worlds.scenes import make_scene
from ..tokenizer import load_tokenizer, tokenize
from ..training import TrainConfig, pick_batch, train
from ..unet import UNet
from ..weights import load_autoencoder
from . import print_row
from .after_the_unet import SMALL_UNET
from .retrieval import DIFFERENCES, sibling_pairs

TABLE = DATA / "following" / "table.csv"
LEVELS = (200, 350, 500, 650, 800, 950)    # t: kinds and colours show in the loss at small ones, places at large ones
SCHEDULE = scaled_linear_schedule()


@dataclass(frozen=True)
class Variant:
    """What may differ from the recipe."""

    weighted: bool = True        # the loss, over t
    text: str = "learned"        # CLIP's transformer learns on; "frozen": it stays; "random": it begins at random
    several: int = 1             # how many times as often captions that name two or three things are drawn
    dropped: float = 0.1         # share of empty captions
    batch: int = 64              # at the same number of captions: small ones make more steps
    muon: bool = True            # the optimizer; otherwise AdamW
    lr: float = 2e-3


VARIANTS = {
    "recipe": Variant(), "all t alike": Variant(weighted=False), "CLIP frozen": Variant(text="frozen"),
    "no CLIP": Variant(text="random"), "several things": Variant(several=3), "never empty": Variant(dropped=0.0),
    "small batches": Variant(batch=16), "AdamW": Variant(muon=False, lr=1e-3),
    "AdamW, faster": Variant(muon=False, lr=3e-3)}
NO_AVERAGE = "no average"    # what the recipe's training gives without averaging the weights


class Learned(NamedTuple):
    """A row of the table."""

    variant: str
    seed: int
    captions: int    # seen so far
    about: str       # a difference between captions, or "drawn: " and an attribute
    share: float     # of true captions preferred, chance 0.5; or of drawn attributes found


class Lessons:
    """Latents and captions to learn from, and captions that differ in one thing to be asked about."""

    def __init__(self, scenes: int, asked: int, device: str = "cpu"):
        tokenizer, autoencoder = load_tokenizer(DATA / "clip"), load_autoencoder(DATA / "tiny-worlds/vae").eval()
        self.device, autoencoder = device, autoencoder.to(device)
        self.latents = encode_all(render("train", scenes)[0].to(device), autoencoder)
        describe = partial(captions_with_counts, tokenizer=tokenizer)
        written, named = zip(*in_parallel(describe, seeds_of("train", scenes)))
        self.ids = torch.from_numpy(np.concatenate([tokenize(tokenizer, [""]).numpy(), *written])).to(device)
        self.named = torch.tensor(named).flatten()                                        # (N CAPTIONS,), things named
        self.pairs = {}
        for about in DIFFERENCES:
            pictures, true, false = sibling_pairs(about, asked)
            latents = encode_all(paint_all(pictures)[0].to(device), autoencoder)
            self.pairs[about] = latents, *(tokenize(tokenizer, list(texts)).to(device) for texts in (true, false))


def captions_with_counts(seed: int, tokenizer: Tokenizer) -> tuple[np.ndarray, list[int]]:
    """Write CAPTIONS captions of the scene of a seed, as tokens (CAPTIONS, N), and count the things that each names."""
    scene, rng = make_scene(seed), random.Random(f"captions {seed}")
    written = [make_caption(scene, rng) for _ in range(CAPTIONS)]
    counts = [sum(mention.count for mention in caption.mentions) for caption in written]
    return tokenize(tokenizer, [caption.text for caption in written]).numpy(), counts


@torch.no_grad()
def preferences(model: SecondStage, pairs: dict[str, tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """How often the loss summed over LEVELS is lower under the true caption, by difference; the noise is the same."""
    found = {}
    for about, (z_0, *captions) in pairs.items():
        true, false = (model.text.transformer(ids) for ids in captions)
        worse = torch.zeros(len(z_0), device=z_0.device)
        for t in LEVELS:
            eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(t)).to(z_0.device)
            levels = torch.full((len(z_0),), t, device=z_0.device)
            right, wrong = (latent_loss(model.unet, z_0, context, levels, eps, SCHEDULE) for context in (true, false))
            worse += wrong - right
        found[about] = worse.gt(0).float().mean().item()
    return found


def draw_and_read(model: SecondStage, count: int) -> dict[str, float]:
    """What the oracle finds of each attribute in pictures of `count` validation prompts, 12 steps, and "all right"."""
    device, captions = next(model.parameters()).device, captions_of("validation", count)
    autoencoder = load_autoencoder(DATA / "tiny-worlds/vae").eval().to(device)
    pictures = generate(LatentDiffusion(model.unet, autoencoder, model.text, SCHEDULE),
                        [caption.text for caption in captions], steps=12)
    result = score(captions, Oracle.load().to(device).read(pictures))
    return {"all right": result.all_right} | {name: found / stated for name, (found, stated) in result.by_name.items()}


def train_variant(name: str, seed: int, lessons: Lessons, captions: int, looks: int,
                  prompts: int) -> list[Learned]:
    """Train one variant and ask it `looks` times; in the end let it draw `prompts` pictures."""
    variant = VARIANTS[name]
    torch.manual_seed(seed)
    clip = load_clip(DATA / "clip")
    text = TextTransformer(clip.text.config) if variant.text == "random" else clip.text
    model = SecondStage(clip, TextEncoder(load_tokenizer(DATA / "clip"), text.requires_grad_(variant.text != "frozen")))
    model.unet = UNet(SMALL_UNET).to(memory_format=torch.channels_last)
    schedule, model = Schedule(SCHEDULE.betas.to(lessons.device)), model.to(lessons.device)
    weight = loss_weights(schedule) if variant.weighted else torch.ones_like(schedule.betas)
    times = torch.where(lessons.named > 1, variant.several, 1)
    pool = torch.arange(len(lessons.named)).repeat_interleave(times).to(lessons.device)   # captions, some of them twice

    def loss_fn(model: SecondStage, generator: Generator) -> dict[str, Tensor]:
        pick = pool[pick_batch(len(pool), variant.batch, generator)]
        context = model.text.transformer(drop_some(lessons.ids, 1 + pick, generator, variant.dropped))
        return {"loss": noise_loss(model.unet, lessons.latents[pick // CAPTIONS], context, schedule, weight, generator)}

    steps, rows = captions // variant.batch, []
    expect(steps >= looks, "--captions", captions, f"at least {looks * variant.batch}, a step before each look")
    config = TrainConfig(steps, lr=variant.lr, ema=0.995, seed=seed, muon=variant.muon, recorded=True)
    for progress in tqdm(train(model, loss_fn, config), f"{name}, seed {seed}", steps, unit="step", mininterval=5):
        if progress.step % (steps // looks) == 0:
            judged = {name: progress.ema} | ({NO_AVERAGE: model} if name == "recipe" else {})
            for called, network in judged.items():
                found = preferences(network, lessons.pairs)
                if progress.step == steps // looks * looks:
                    found |= {f"drawn: {key}": share for key, share in draw_and_read(network, prompts).items()}
                rows += [Learned(called, seed, progress.step * variant.batch, *each) for each in found.items()]
    return rows


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME",
                        help=f"some of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0, 1], help="of the trainings")
    parser.add_argument("--captions", type=whole, default=40_000, help="that each training sees")
    parser.add_argument("--scenes", type=whole, default=30_000, help="to train on")
    parser.add_argument("--looks", type=whole, default=4, help="at what it has learned")
    parser.add_argument("--count", type=whole, default=96, help="pairs of captions for each difference")
    parser.add_argument("--prompts", type=whole, default=192, help="to draw in the end")
    parser.add_argument("--out", type=new_folder, default=TABLE.parent, help="folder for the table")
    parser.add_argument("--device", choices=sorted({"cpu", pick_device()}), default=pick_device(), help="to train on")


def run(args: Namespace) -> None:
    """Train what is not in the table yet, and add it."""
    lessons, table = Lessons(args.scenes, args.count, args.device), args.out / TABLE.name
    for row in add_missing(table, Learned, args.variants, args.seeds, lambda name, seed: train_variant(
            name, seed, lessons, args.captions, args.looks, args.prompts)):
        print_row(row)
