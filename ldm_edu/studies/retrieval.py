"""What CLIP can tell: retrieval, zero-shot attributes, captions that differ in one thing; how many pairs that takes.

`python -m ldm_edu.studies retrieval [FOLDER]` prints what the shipped one can tell; `--study` trains small ones on 250,
1000, ... pairs (data/retrieval/table.csv), and on siblings that share a batch or need not (siblings.json).
"""
from __future__ import annotations

import itertools
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from .. import DATA, clip
from ..metrics.caption_accuracy import facts
from ..recipes.train_clip import FOLDER, ClipLearner, distinguishing_caption
from ..support.commands import new_folder, whole
from ..support.files import write_json
from ..support.tables import write_table
from ..tiny_worlds.captions import SAID, Caption, Mention, phrase
from ..tiny_worlds.datasets import TinyWorlds, paint_all, render, seeds_of, to_float
from ..tiny_worlds.scenes import GROUNDS, HELD_OUT, KINDS, PLACES, SIZES, SKIES, WEATHERS, Scene, make_scene, sibling
from ..tiny_worlds.things import COLOURS
from ..tokenizer import tokenize
from ..training import Progress, TrainConfig, pick_batch, train
from . import print_row

TABLE, SIBLINGS = DATA / "retrieval" / "table.csv", DATA / "retrieval" / "siblings.json"
PAIRS = (250, 1000, 4000, 16_000)    # of the study
SMALL = (replace(clip.TINY, dim=64, layers=2, mlp_dim=256), replace(clip.TINY_IMAGE, dim=64, layers=2, mlp_dim=256), 64)
PLAIN, BATCH = TrainConfig(600, lr=3e-3, warmup=20, ema=0.98), 64
DIFFERENCES = ("sky", "kind", "colour", "size", "place", "relation", "whose colour", "number")


class Retrieval(NamedTuple):
    """A row of the table: R@1 from picture to text and from text to picture."""

    pairs: int
    trained_to_text: float       # of pairs that it was trained on
    trained_to_picture: float
    new_to_text: float           # of pairs that it was not
    new_to_picture: float


def pairs_of(split: str, count: int) -> tuple[Tensor, list[str]]:
    """Render images, uint8 (count, 3, 64, 64), with one caption each."""
    world = TinyWorlds(split, count)
    return render(split, count)[0], [world.caption(i).text for i in range(count)]


def train_on_pairs(learner: ClipLearner, images: Tensor, captions: list[str], config: TrainConfig = PLAIN,
                   together: bool = False) -> Iterator[Progress]:
    """Train on uint8 images (N, 3, H, W) and captions; yield like `train`. together: images 2k, 2k + 1 meet."""
    ids = tokenize(learner.tokenizer, captions)

    def loss_fn(learner: ClipLearner, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), BATCH, generator)
        if together:
            pick = torch.cat([pick[:BATCH // 2], pick[:BATCH // 2] ^ 1])    # 32 scenes and the other of each pair
        return {"contrastive": learner(to_float(images[pick]), ids[pick])}

    return train(learner, loss_fn, config)


@torch.no_grad()
def embed(learner: ClipLearner, what: Tensor | list[str]) -> Tensor:
    """Embed uint8 pictures (N, 3, H, W) or N texts: unit vectors (N, width)."""
    if isinstance(what, Tensor):
        return torch.cat([learner.clip.embed_images(to_float(part)) for part in what.split(128)])
    return torch.cat([learner.clip.embed_texts(tokenize(learner.tokenizer, what[i:i + 256]))
                      for i in range(0, len(what), 256)])


def recall(images: Tensor, texts: Tensor, k: int = 1) -> tuple[float, float]:
    """R@k, picture to text and text to picture: how often the true partner is among the k nearest.

    images, texts: unit vectors (N, D), pair by pair. Chance is k / N; a tie counts against it.
    """
    similarity = images @ texts.T                                                         # (N, N)
    ranks = [(each >= each.diag()[:, None]).sum(1) for each in (similarity, similarity.T)]    # 1 is first
    return tuple((rank <= k).float().mean().item() for rank in ranks)


def questions(scene: Scene) -> dict[str, tuple[list[str], int]]:
    """Ask about a scene with one thing, by attribute: a prompt for each answer, and the number of the right one."""
    thing, = scene.things
    asked = {name: ([SAID[value][0] for value in values], values.index(getattr(scene, name)))
             for name, values in (("sky", SKIES), ("ground", GROUNDS), ("weather", WEATHERS))}
    return asked | {
        "kind": ([f"a {kind}" for kind in KINDS], KINDS.index(thing.kind)),
        "colour": ([f"{'an' if colour == 'orange' else 'a'} {colour} {thing.kind}" for colour in COLOURS],
                   list(COLOURS).index(thing.colour)),
        "size": ([f"a {size} {thing.kind}" for size in SIZES], list(SIZES).index(thing.size)),
        "place": ([f"a {thing.kind} {SAID[place][0]}" for place in PLACES], list(PLACES).index(thing.place))}


def zero_shot(learner: ClipLearner, count: int = 256) -> dict[str, float]:
    """Share of right answers on validation scenes with one thing, by attribute: the nearest prompt is the answer."""
    scenes = [scene for seed in seeds_of("validation", 4 * count) if len((scene := make_scene(seed)).things) == 1]
    asked = [questions(scene) for scene in scenes[:count]]
    pictures = embed(learner, paint_all(scenes[:count])[0])
    found = {}
    for name in asked[0]:
        prompts = sorted({prompt for each in asked for prompt in each[name][0]})
        similarity = pictures @ embed(learner, prompts).T                                 # (count, prompts)
        nearest = [row[[prompts.index(prompt) for prompt in each[name][0]]].argmax().item()
                   for row, each in zip(similarity, asked)]
        found[name] = sum(best == each[name][1] for best, each in zip(nearest, asked)) / len(asked)
    return found


def sibling_captions(scene: Scene, difference: str, rng: random.Random) -> tuple[str, str] | None:
    """Draw a caption that is true of the scene and one that is false, alike except for one of DIFFERENCES.

    None if the two that were drawn are not, or if the false one names a pair of HELD_OUT, which no caption had.
    """
    a, b, n = rng.choice(scene.things), rng.choice(scene.things), rng.choice((2, 3))
    one, other = Mention(a.kind, a.colour), Mention(b.kind, b.colour)
    sides = rng.sample(("to the left of", "to the right of"), 2)

    def caption(*mentions: Mention, relation: str | None = None) -> Caption:
        text = f" {relation or 'and'} ".join(phrase(mention, rng) for mention in mentions)
        return Caption(text, mentions=mentions, relation=relation)

    true, false = {
        "sky": [Caption(rng.choice(SAID[sky]), sky) for sky in (scene.sky, rng.choice(SKIES))],
        "kind": [caption(one), caption(one._replace(kind=rng.choice(KINDS)))],
        "colour": [caption(one), caption(one._replace(colour=rng.choice(list(COLOURS))))],
        "size": [caption(one._replace(size=size)) for size in (a.size, rng.choice(list(SIZES)))],
        "place": [caption(one._replace(place=place)) for place in (a.place, rng.choice(list(PLACES)))],
        "relation": [caption(one, other, relation=side) for side in sides],
        "whose colour": [caption(one, other), caption(Mention(a.kind, b.colour), Mention(b.kind, a.colour))],
        "number": [caption(one._replace(count=count)) for count in (n, 5 - n)],
    }[difference]
    holds = [all(found for _, found in facts(c, scene)) for c in (true, false)]
    unseen = any((m.kind, m.colour) in HELD_OUT for m in false.mentions)
    return (true.text, false.text) if holds == [True, False] and not unseen else None


def sibling_pairs(difference: str, count: int = 200) -> tuple[list[Scene], list[str], list[str]]:
    """Validation scenes, each with a true caption and a false sibling; of "number" as many twos as threes."""
    rng, found, seeds = random.Random(0), [], iter(seeds_of("validation", 100 * count))
    while len(found) < count:
        scene = make_scene(next(seeds))
        pair = sibling_captions(scene, difference, rng)
        if pair and (difference != "number" or pair[0].startswith(("two", "three")[len(found) % 2])):
            found.append((scene, *pair))
    return tuple(zip(*found))


def sibling_accuracy(learner: ClipLearner, count: int = 200) -> dict[str, float]:
    """How often the true caption is nearer to the picture than its false sibling, by difference. Chance: 0.5."""
    found = {}
    for difference in DIFFERENCES:
        scenes, *captions = sibling_pairs(difference, count)
        true, false = (embed(learner, list(texts)) for texts in captions)
        found[difference] = ((true - false) * embed(learner, paint_all(scenes)[0])).sum(1).gt(0).float().mean().item()
    return found


def compare_siblings(count: int, seeds: int = 3) -> dict[str, list[dict[str, float]]]:
    """Train on scenes and siblings of another colour, together in a batch or not; return what each run learned."""
    rng, found = random.Random(0), {"apart": [], "together": []}
    scenes = [scene for seed in seeds_of("train", max(PAIRS)) if len((scene := make_scene(seed)).things) == 1]
    pairs = [(scene, sibling(scene, rng, ("colour",))) for scene in scenes]
    captions = [distinguishing_caption(a, b, rng) for pair in pairs for a, b in (pair, pair[::-1])]
    images = paint_all([scene for pair in pairs for scene in pair])[0]
    for name, seed in itertools.product(found, range(seeds)):
        torch.manual_seed(seed)
        steps = train_on_pairs(ClipLearner(*SMALL), images, captions, replace(PLAIN, seed=seed), name == "together")
        *_, last = tqdm(steps, f"siblings {name}", PLAIN.steps, unit="step")
        found[name].append(sibling_accuracy(last.ema, count))
    return found


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="a CLIP to measure")
    parser.add_argument("--count", type=whole, default=256, help="pairs for retrieval, scenes for each attribute")
    parser.add_argument("--study", action="store_true", help="train small ones on more and more pairs")
    parser.add_argument("--out", type=new_folder, default=TABLE.parent, help="folder for the tables of the study")


def run(args: Namespace) -> None:
    """Measure a CLIP, or train small ones and write their table."""
    def r_at_1(learner: ClipLearner, images: Tensor, captions: list[str]) -> tuple[float, float]:
        return recall(embed(learner, images[:args.count]), embed(learner, captions[:args.count]))

    new, rows = pairs_of("validation", args.count), []
    if not args.study:
        learner = ClipLearner.load(args.folder)
        ways = dict(zip(("picture to text", "text to picture"), r_at_1(learner, *new)))
        for title, table in ((f"R@1 of {args.count}", ways), ("zero-shot", zero_shot(learner, args.count)),
                             ("siblings", sibling_accuracy(learner, args.count))):
            print(f"{title}: " + ", ".join(f"{name} {value:.1%}" for name, value in table.items()))
        return
    images, captions = pairs_of("train", max(PAIRS))
    for count in PAIRS:
        torch.manual_seed(0)
        pairs = images[:count], captions[:count]
        *_, last = tqdm(train_on_pairs(ClipLearner(*SMALL), *pairs), f"{count} pairs", PLAIN.steps, unit="step")
        rows.append(Retrieval(count, *r_at_1(last.ema, *pairs), *r_at_1(last.ema, *new)))
        print_row(rows[-1])
        write_table(args.out / TABLE.name, rows)
    write_json(args.out / SIBLINGS.name, compare_siblings(args.count))
