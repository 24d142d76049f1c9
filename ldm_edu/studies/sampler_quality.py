"""How many steps does a picture need? Four samplers from the same noise, scored by the oracle and a Fréchet distance.

`python -m ldm_edu.studies sampler_quality [--count N] [--threads 1]` draws the first N validation prompts with every
sampler at every number of steps, and with DDIM at every guidance scale, for data/samplers/quality.csv. For
settings.csv it draws them with part of DPM-Solver++'s look-ahead and with guidance at some levels only, and a short
prompt with a negative one.
"""
from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..conditioning import guided
from ..metrics.caption_accuracy import score, surplus
from ..metrics.distances import features, frechet_distance
from ..metrics.evaluation import GUIDANCE_SCALE, captions_of, generate
from ..metrics.oracle import Oracle
from ..pipeline import LatentDiffusion
from ..samplers import SAMPLERS, EpsFn, ddim
from ..schedule import Schedule, timesteps
from ..support.commands import new_folder, whole
from ..support.tables import read_table, write_table
from ..tiny_worlds.captions import Caption, Mention
from ..tiny_worlds.datasets import render, to_float
from . import print_row

STEPS = (2, 4, 8, 15, 30, 60)
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
GUIDANCE_SCALE_STEPS = 15
VAGUE = "a red house and a green tree"
REAL = 1024    # renders for the Fréchet distance
TABLE = DATA / "samplers" / "quality.csv"
SETTINGS = TABLE.with_name("settings.csv")


class Quality(NamedTuple):
    """A row of quality.csv."""

    sampler: str             # or "renders", the true scenes, or "rebuilt", these through the autoencoder
    steps: int
    guidance_scale: float
    accuracy: float          # share of the stated attributes that the oracle finds
    all_right: float         # share of prompts with every attribute found
    surplus: float           # share of pictures with more things than named, where any is named
    distance: float          # Fréchet distance to the renders of REAL other scenes, in the space of `features`


class Setting(NamedTuple):
    """A row of settings.csv; the scores of `Quality` and three more."""

    setting: str
    steps: int
    guidance_scale: float
    accuracy: float
    all_right: float
    surplus: float
    distance: float
    colour: float    # share of the stated colours that the oracle finds
    day: float       # share of pictures with a day sky
    exact: float     # share of pictures with all that is named and no further thing


def score_pictures(pictures: Tensor, captions: list[Caption], oracle: Oracle) -> tuple[float, float, float]:
    """accuracy, all_right and surplus of pictures (B, 3, 64, 64) in [-1, 1]."""
    seen = oracle.read(pictures)
    found = score(captions, seen)
    return found.accuracy, found.all_right, surplus(captions, seen)


def quality_table(ldm: LatentDiffusion, count: int = 128, steps: Sequence[int] = STEPS,
                  guidance_scales: Sequence[float] = GUIDANCE_SCALES) -> list[Quality]:
    """Score, for `count` prompts: renders, rebuilt, samplers against steps, DDIM against the guidance scale."""
    captions, oracle = captions_of("validation", count), Oracle.load()
    prompts = [caption.text for caption in captions]
    renders = to_float(render("validation", count + REAL)[0])
    own, real = renders[:count], features(renders[count:])
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in own.split(64)])

    def row(sampler: str, steps: int, guidance_scale: float, pictures: Tensor) -> Quality:
        return Quality(sampler, steps, guidance_scale, *score_pictures(pictures, captions, oracle),
                       frechet_distance(real, features(pictures)))

    runs = [(sampler, n, GUIDANCE_SCALE) for n in steps for sampler in SAMPLERS]
    runs += [("ddim", GUIDANCE_SCALE_STEPS, scale) for scale in guidance_scales]
    rows = [row("renders", 0, 0.0, own), row("rebuilt", 0, 0.0, rebuilt)]
    for sampler, n, scale in tqdm(list(dict.fromkeys(runs)), desc="samplers"):
        rows.append(row(sampler, n, scale, generate(ldm, prompts, n, scale, sampler=sampler)))
    return rows


def partial_look_ahead(eps: EpsFn, x: Tensor, schedule: Schedule, levels: Tensor,
                       share: float | Sequence[float]) -> Tensor:
    """Sample with a share of DPM-Solver++'s look-ahead, one for all steps or one for each: 0 is Euler, 1 all of it."""
    sigmas, before, sigma_before = [*(1 / schedule.alpha_bar[levels] - 1).sqrt().tolist(), 0.0], None, 0.0
    for t, sigma, sigma_next, part in zip(levels, sigmas, sigmas[1:], np.broadcast_to(share, len(levels)).tolist()):
        y = x * math.sqrt(1 + sigma**2)
        x0 = ahead = y - sigma * eps(x, t)
        if before is not None and sigma_next > 0:
            r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
            ahead = x0 + part * (x0 - before) / (2 * r)
        x = (ahead + sigma_next / sigma * (y - ahead)) / math.sqrt(1 + sigma_next**2)
        before, sigma_before = x0, sigma
    return x


@torch.no_grad()
def settings_table(ldm: LatentDiffusion, count: int = 128, batch: int = 64) -> list[Setting]:
    """Score every setting on `count` prompts; batch k begins from the noise of seed k."""
    oracle, real = Oracle.load(), features(to_float(render("validation", count + REAL)[0])[count:])
    captions, empty, early = captions_of("validation", count), ldm.text([""]), (1, 1, 0, 0)
    vague = [Caption("", mentions=(Mention("house", "red"), Mention("tree", "green")))] * count

    def look(share, texts, steps, scale, seed, noise):
        eps, levels = guided(ldm.unet, ldm.text(texts), empty, scale), timesteps(steps, spacing="trailing")
        return ldm.decode(partial_look_ahead(eps, noise, ldm.schedule, levels, share))

    def span(low, high, texts, steps, scale, seed, noise):    # guided from t = low to high
        cond = ldm.text(texts)
        plain, steered = guided(ldm.unet, cond), guided(ldm.unet, cond, empty, scale)
        return ldm.draw(ddim(lambda x, t: (steered if low <= t <= high else plain)(x, t), noise, ldm.schedule,
                             timesteps(steps)))

    def ask(prompt, negative, texts, steps, scale, seed, noise):
        return ldm.text_to_image([prompt] * len(texts), steps, scale, seed, negative_prompt=negative)

    runs = [(f"look {share:g}", n, scale, captions, partial(look, share))
            for scale in (4.0, 1.0) for n in (8, 4, 16) for share in (0, 0.5, 1)]
    runs += [("look early", 4, 4.0, captions, partial(look, early)),
             ("look late", 4, 4.0, captions, partial(look, early[::-1]))]
    runs += [(name, 12, 4.0, vague, partial(ask, VAGUE + more, negative)) for name, more, negative in (
        ("sky left open", "", ""), ("negative prompt: by day", "", "by day"),
        ("at night, in the prompt", ", at night", ""))]
    runs += [(name, 15, scale, captions, partial(span, low, high)) for scale in (4.0, 8.0) for name, low, high in (
        ("not early", 0, 600), ("not late", 300, 999), ("middle", 300, 600))]
    rows = []
    for name, steps, scale, asked, draw in tqdm(runs, "settings"):
        parts = [[caption.text for caption in asked[i:i + batch]] for i in range(0, count, batch)]
        noises = [torch.randn(len(part), 4, 8, 8, generator=Generator().manual_seed(k)) for k, part in enumerate(parts)]
        pictures = torch.cat([draw(part, steps, scale, k, noises[k]) for k, part in enumerate(parts)])
        seen = oracle.read(pictures)
        found = score(asked, seen)
        exact = [score([c], [s]).all_right and len(s.things) == sum(m.count for m in c.mentions)
                 for c, s in zip(asked, seen)]
        rows.append(Setting(name, steps, scale, found.accuracy, found.all_right, surplus(asked, seen),
                            frechet_distance(real, features(pictures)), np.divide(*found.by_name["colour"]).item(),
                            sum(s.sky == "day" for s in seen) / count, sum(exact) / count))
    return rows


def load_quality(path: Path = TABLE) -> list[Quality]:
    """Load quality.csv. Raises FileNotFoundError if there is none."""
    return read_table(path, Quality)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds", help="a model")
    parser.add_argument("--count", type=whole, default=128, help="prompts")
    parser.add_argument("--out", type=new_folder, default=TABLE.parent, help="folder for both tables")


def run(args: Namespace) -> None:
    """Measure a checkpoint and write both tables."""
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    for path, table in ((TABLE, quality_table), (SETTINGS, settings_table)):
        rows = table(ldm, args.count)
        write_table(args.out / path.name, rows)
        for row in rows:
            print_row(row)
