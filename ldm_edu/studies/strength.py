"""What does a start from a picture keep? True scenes under their own captions; edits, against the true edit.

`python -m ldm_edu.studies strength [--count N] [--edits N] [--threads 1]` begins at every strength from scenes whose
captions name three things; what goes wrong between two strengths is decided wrongly between these levels of noise. Then
it changes a colour of simpler scenes, and fills holes. It writes strength.csv and edits.csv to data/samplers.
"""
from __future__ import annotations

import itertools
import math
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..editing import ddim_invert
from ..metrics.caption_accuracy import full_caption, score
from ..metrics.evaluation import generate
from ..metrics.oracle import Oracle
from ..perceptual import LPIPS
from ..pipeline import LatentDiffusion
from ..samplers import ddim, last_x
from ..schedule import timesteps
from ..support.commands import new_folder, whole
from ..support.tables import write_table
from ..tiny_worlds.captions import SAID, Caption, phrase
from ..tiny_worlds.datasets import TinyWorlds, paint_all, seeds_of, to_float
from ..tiny_worlds.scenes import GROUNDS, HELD_OUT, KINDS, SKIES, Scene, make_scene
from ..tiny_worlds.things import COLOURS

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GUIDANCE_SCALES = (2.0, 4.0)
THINGS = 3     # named by the caption: the most that scenes have, and the hardest
EDIT_STRENGTHS, EDIT_SCALES = (0.1, 0.2, 0.3, 0.4, 0.6), (1.0, 2.0, 4.0)
FILLINGS = {"inpaint 1 x 15": dict(steps=15), "inpaint 3 x 15": dict(steps=15, rounds=3),
            "inpaint 1 x 45": dict(steps=45), "inpaint 1 x 45, ddpm": dict(steps=45, sampler="ddpm")}
HOLES = {"left": slice(0, 24), "middle": slice(16, 40), "right": slice(40, 64)}    # of x, around a thing
TABLE = DATA / "samplers" / "strength.csv"
EDITS = TABLE.with_name("edits.csv")


class Decided(NamedTuple):
    """A row of strength.csv."""

    strength: float          # where sampling begins: 0 is the autoencoder's copy, 1 noise alone
    guidance_scale: float
    all_right: float         # share of captions with every attribute found by the oracle


def crowded(count: int) -> tuple[Tensor, list[Caption]]:
    """The first `count` validation scenes whose caption names `THINGS` things: (N, 3, 64, 64) in [-1, 1], captions."""
    dataset = TinyWorlds("validation", 100 * count)
    named = (i for i in range(len(dataset)) if sum(m.count for m in dataset.caption(i).mentions) == THINGS)
    pick = list(itertools.islice(named, count))
    return torch.stack([dataset[i].image for i in pick]), [dataset.caption(i) for i in pick]


def redrawn(ldm: LatentDiffusion, images: Tensor, prompts: list[str], strength: float, guidance_scale: float,
            steps: int = 30, batch: int = 64) -> Tensor:
    """Pictures begun from `images` at `strength`, (N, 3, 64, 64); batch k has seed k."""
    if strength == 1:    # noise alone: the noisiest level would keep a rest of the picture
        return generate(ldm, prompts, steps, guidance_scale, batch=batch)
    return torch.cat([ldm.image_to_image(prompts[i:i + batch], images[i:i + batch], strength, steps, guidance_scale,
                                         seed=i // batch) for i in range(0, len(prompts), batch)])


def strength_table(ldm: LatentDiffusion, count: int = 128, strengths: Sequence[float] = STRENGTHS,
                   guidance_scales: Sequence[float] = GUIDANCE_SCALES) -> list[Decided]:
    """Measure every strength with every guidance scale on `count` scenes."""
    oracle, (images, captions) = Oracle.load(), crowded(count)
    prompts, rows = [caption.text for caption in captions], []
    for scale, strength in tqdm(list(itertools.product(guidance_scales, strengths)), desc="strengths"):
        seen = oracle.read(redrawn(ldm, images, prompts, strength, scale))
        rows.append(Decided(strength, scale, score(captions, seen).all_right))
    return rows


class Edit(NamedTuple):
    """A row of edits.csv: one picture."""

    way: str
    scale: float       # SDEdit's strength, inversion's guidance scale
    seed: int
    scene: int
    found: int         # 1 if the oracle finds the thing asked for
    distance: float    # LPIPS to the true edit; nan for a filled hole


def edit_scenes(count: int) -> Iterator[tuple[Scene, Scene, Scene]]:
    """Yield simple validation scenes, each with two edits: another sky, ground and first thing, or another colour."""
    scenes = map(make_scene, seeds_of("validation", 100 * count))
    simple = (scene for scene in scenes if len(scene.things) < 3 and not any(thing.front for thing in scene.things))
    for i, scene in enumerate(itertools.islice(simple, count)):
        (first, *rest), rng, kept = scene.things, random.Random(i), [True]
        while any(kept):
            sky, ground, kind, colour = map(rng.choice, (SKIES, GROUNDS, KINDS, list(COLOURS)))
            kept = [sky == scene.sky, ground == scene.ground, kind == first.kind, colour == first.colour,
                    (sky, scene.weather) == ("night", "rainbow"), (kind, colour) in HELD_OUT]    # no world has these
        goal = replace(scene, sky=sky, ground=ground, things=(replace(first, kind=kind, colour=colour), *rest))
        others = [c for c in COLOURS if c != first.colour and (first.kind, c) not in HELD_OUT]
        yield scene, goal, replace(scene, things=(replace(first, colour=random.Random(i).choice(others)), *rest))


def described(scene: Scene) -> Caption:
    """Write a caption that names every thing, the sky, the ground and the weather."""
    facts = full_caption(scene)
    things = " and ".join(phrase(mention, random.Random(0)) for mention in facts.mentions)
    return facts._replace(text=", ".join([things, *(SAID[w][0] for w in (scene.sky, scene.ground, scene.weather))]))


@torch.no_grad()
def edit_table(ldm: LatentDiffusion, count: int = 48, seeds: int = 4) -> list[Edit]:
    """Change a colour of `count` scenes, with one seed; fill a hole in half of them, with every seed."""
    oracle, lpips, levels, half = Oracle.load(), LPIPS.tiny(), timesteps(20), count // 2
    scenes, goals, targets = zip(*edit_scenes(count))
    images, truth = (to_float(paint_all(worlds)[0]) for worlds in (scenes, targets))
    old, new = ([described(world).text for world in worlds] for worlds in (scenes, targets))
    z_0, best = ldm.autoencoder.to_latent(images), ldm.decode(ldm.autoencoder.to_latent(truth))
    top = last_x(ddim_invert(ldm.predictor(old, 1.0)[0], z_0, ldm.schedule, levels))    # unguided, by the old captions
    masks = torch.zeros(half, 64, 64)
    for mask, scene in zip(masks, scenes):
        mask[16:, HOLES[scene.things[0].place]] = 1
    named = [phrase(full_caption(goal).mentions[0]._replace(place=None), random.Random(0)) for goal in goals[:half]]
    fill = partial(ldm.inpaint, named, images[:half], masks)
    runs = [(name, 0.0, seed, goals[:half], partial(fill, seed=seed, **options))
            for seed, (name, options) in itertools.product(range(seeds), FILLINGS.items())]
    runs += [("reference", 0.0, 0, targets, lambda: images), ("autoencoder", 0.0, 0, targets, lambda: best)]
    runs += [(f"SDEdit {g:g}", s, 0, targets, partial(ldm.image_to_image, new, images, s, 20, g))
             for g, s in itertools.product(EDIT_SCALES, EDIT_STRENGTHS)]
    runs += [("inversion", g, 0, targets, partial(ldm.draw, ddim(eps, top, ldm.schedule, levels)))
             for g, eps in ((g, ldm.predictor(new, g)[0]) for g in EDIT_SCALES)]
    rows = []
    for way, scale, seed, worlds, draw in tqdm(runs, desc="edits"):
        pictures = draw()
        apart = lpips(pictures, truth).flatten().tolist() if worlds is targets else [math.nan] * len(worlds)
        for i, (world, seen, distance) in enumerate(zip(worlds, oracle.read(pictures), apart)):
            asked = Caption("", mentions=(full_caption(world).mentions[0]._replace(size=None),))
            rows.append(Edit(way, scale, seed, i, int(score([asked], [seen]).all_right), distance))
    return rows


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DATA / "tiny-worlds", help="a model")
    parser.add_argument("--count", type=whole, default=128, help="scenes noised and denoised")
    parser.add_argument("--edits", type=whole, default=48, help="scenes edited")
    parser.add_argument("--out", type=new_folder, default=TABLE.parent, help="folder for both tables")


def run(args: Namespace) -> None:
    """Measure a checkpoint and write both tables."""
    ldm = LatentDiffusion.from_pretrained(args.checkpoint)
    write_table(args.out / TABLE.name, strength_table(ldm, args.count))
    write_table(args.out / EDITS.name, edit_table(ldm, args.edits))
