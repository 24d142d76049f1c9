"""Does the picture show what the caption says? The oracle reads a picture, and the reading is held against the caption.

`python -m ldm_edu.metrics data/tiny-worlds` prints the table of the model card, a column for a sampler.
"""
from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .oracle import Oracle, Reading, Seen
from .pipeline import LatentDiffusion
from .samplers import SAMPLERS
from .scenes import HELD_OUT, PLACES, Caption, Mention, Scene, make_scene
from .segmenter import Segmenter, mean_iou
from .worlds import TinyWorlds, render, seeds_of, to_float

GUIDANCE = 4.0  # of the reported figures
REFERENCE_GUIDANCE = 2.0    # of those told by a picture or a semantic map
RENDERS = 4     # times as many true scenes and reconstructions as prompts: they cost little, and few are misread


# --- Captions against readings --------------------------------------------------------------------------------------

def _thing_facts(mention: Mention, seen: Seen | None) -> list[tuple[str, bool]]:
    """Each attribute that a mention states, and whether this thing has it."""
    stated = {name: getattr(mention, name) for name in ("kind", "colour", "size", "place")}
    return [(name, seen is not None and getattr(seen, name) == value) for name, value in stated.items() if value]


def _related(relation: str, a: Seen | None, b: Seen | None) -> bool:
    if a is None or b is None:
        return False
    order = list(PLACES).index(a.place) - list(PLACES).index(b.place)
    return {"in front of": a.front and not b.front and order == 0,
            "to the left of": order < 0, "to the right of": order > 0}[relation]


def facts(caption: Caption, seen: Reading) -> list[tuple[str, bool]]:
    """Every attribute the caption states, as (name, found in the picture).

    Names: sky, ground, weather, kind, colour, size, place, count, relation. A caption need not say where a thing
    stands, so mentions are matched to the things seen in the way that finds most (brute force over orders; of equals
    the first).
    "Two red boats" states kind and colour twice and, once, that there are exactly two.
    """
    found = [(name, getattr(caption, name) == getattr(seen, name))
             for name in ("sky", "ground", "weather") if getattr(caption, name)]
    for mention in caption.mentions:
        if mention.count > 1:
            alike = sum(all(ok for _, ok in _thing_facts(mention, thing)) for thing in seen.things)
            found.append(("count", alike == mention.count))
    singles = [mention for mention in caption.mentions for _ in range(mention.count)]
    things = [*seen.things, *[None] * len(singles)]
    best: list[tuple[str, bool]] = []
    for order in dict.fromkeys(itertools.permutations(things, len(singles))):    # a set has another order every time
        match = [fact for mention, thing in zip(singles, order) for fact in _thing_facts(mention, thing)]
        if caption.relation:
            match.append(("relation", _related(caption.relation, order[0], order[1])))
        if not best or sum(ok for _, ok in match) > sum(ok for _, ok in best):
            best = match
    return found + best


class Score(NamedTuple):
    """accuracy: share of stated attributes found; all_right: share of captions with every attribute found;
    by_name: (found, stated) per kind of attribute."""

    accuracy: float
    all_right: float
    by_name: dict[str, tuple[int, int]]


def score(captions: list[Caption], readings: list[Reading]) -> Score:
    """Captions against the readings of their pictures. Raises ValueError if the two do not pair up."""
    if len(captions) != len(readings) or not captions:
        raise ValueError(f"{len(captions)} captions and {len(readings)} readings: expected as many, at least one")
    checked = [facts(caption, seen) for caption, seen in zip(captions, readings)]
    stated = Counter(name for each in checked for name, _ in each)
    found = Counter(name for each in checked for name, ok in each if ok)
    return Score(accuracy=found.total() / max(1, stated.total()),
                 all_right=sum(all(ok for _, ok in each) for each in checked) / len(checked),
                 by_name={name: (found[name], stated[name]) for name in sorted(stated)})


def surplus(captions: list[Caption], readings: list[Reading]) -> float:
    """The share of pictures with more things than their captions name, among captions that name any; 0 if none does.

    `facts` passes over such things: a caption need not name all. Some true scenes have them too, so compare with those.
    """
    pairs = [(sum(mention.count for mention in caption.mentions), len(seen.things))
             for caption, seen in zip(captions, readings, strict=True) if caption.mentions]
    return sum(seen > named for named, seen in pairs) / max(1, len(pairs))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture pair (B, 3, H, W) in [-1, 1]; values outside are clipped."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)


# --- The table of the model card ------------------------------------------------------------------------------------

def generate(ldm: LatentDiffusion, conditions: list[str] | Tensor, steps: int = 30, guidance: float = GUIDANCE,
             seed: int = 0, batch: int = 64, task: str = "text_to_image", sampler: str | None = None) -> Tensor:
    """One picture per condition, (B, 3, 64, 64) in [-1, 1]; batch k of them is drawn with seed + k.

    task: the method of `ldm` that draws them: "text_to_image" from prompts, "variations" from pictures, "map_to_image"
    from semantic maps. sampler: None is the model's own.
    """
    options = dict(steps=steps, guidance=guidance, sampler=sampler)
    parts = range(0, len(conditions), batch)
    return torch.cat([getattr(ldm, task)(conditions[i:i + batch], seed=seed + k, **options).cpu()
                      for k, i in enumerate(tqdm(parts, desc="sampling", leave=False))])


def captions_of(split: str, count: int) -> list[Caption]:
    """`count` captions of a split. Those of "composition" all name a pair that training has never seen."""
    captions = (TinyWorlds(split, 100 * count).caption(i) for i in itertools.count())
    if split == "composition":
        captions = (c for c in captions if any((m.kind, m.colour) in HELD_OUT for m in c.mentions))
    return list(itertools.islice(captions, count))


def everything(scene: Scene) -> Caption:
    """All that a caption can say of a scene, but for counts and relations; without a text."""
    mentions = tuple(Mention(t.kind, t.colour, t.size, t.place) for t in scene.things)
    return Caption("", scene.sky, scene.ground, scene.weather, mentions)


def judge_autoencoder(ldm: LatentDiffusion, oracle: Oracle, count: int = RENDERS * 512) -> dict[str, float]:
    """The first figures of the model card, by name: `count` validation scenes and their reconstructions; 0…1, or dB."""
    dataset = TinyWorlds("validation", count)
    images = to_float(render("validation", count)[0])
    captions = [dataset.caption(i) for i in range(count)]
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in images.split(64)])
    read = oracle.read(images)
    original, decoded = score(captions, read), score(captions, oracle.read(rebuilt))
    return {"autoencoder: PSNR, dB": psnr(images, rebuilt).mean().item(),
            "renders: caption accuracy": original.accuracy, "renders: all right": original.all_right,
            "renders: more things than named": surplus(captions, read),
            "reconstructions: caption accuracy": decoded.accuracy, "reconstructions: all right": decoded.all_right}


def evaluate(ldm: LatentDiffusion, oracle: Oracle, count: int = 512, steps: int = 30, guidance: float = GUIDANCE,
             seed: int = 0, sampler: str | None = None) -> dict[str, float]:
    """The other figures of the model card, by name, as shares: pictures of `count` prompts of each split, and of as
    many reference pictures and semantic maps; those with "renders" in the name are what the judges make of true scenes.

    Conditions that the model does not have are left out. sampler: None is the model's own.
    """
    options, table = dict(steps=steps, seed=seed, sampler=sampler), {}
    for split in ("validation", "composition"):
        captions = captions_of(split, count)
        read = oracle.read(generate(ldm, [c.text for c in captions], guidance=guidance, **options))
        result = score(captions, read)
        table |= {f"{split}: caption accuracy": result.accuracy, f"{split}: all right": result.all_right,
                  f"{split}: more things than named": surplus(captions, read)}
        table |= {f"{split}: {name} ({stated})": found / stated for name, (found, stated) in result.by_name.items()}
    images, maps = render("validation", count)
    images = to_float(images)
    if ldm.image_encoder is not None:
        shown = [everything(make_scene(own)) for own in seeds_of("validation", count)]
        drawn = generate(ldm, images, guidance=REFERENCE_GUIDANCE, task="variations", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"image as condition: attributes kept, {name}"] = score(shown, oracle.read(pictures)).accuracy
    if ldm.map_encoder is not None:
        segmenter = Segmenter.load()
        drawn = generate(ldm, maps, guidance=REFERENCE_GUIDANCE, task="map_to_image", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"map as condition: mean IoU, {name}"] = mean_iou(segmenter.read(pictures), maps.long())
    return table


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.metrics", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=512, help="prompts per split")
    parser.add_argument("--steps", type=int, default=30, help="of the sampler")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", default=["ddim", "ddpm"], choices=SAMPLERS, help="a column for each")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    ldm, oracle = LatentDiffusion.from_pretrained(args.checkpoint), Oracle.load()
    scenes, prompts = RENDERS * args.count, [c.text for c in captions_of("validation", 16)]
    print(f"| {args.count} prompts a split, {args.steps} steps, guidance {args.guidance:g} ({REFERENCE_GUIDANCE:g} for "
          f"pictures and maps), seed {args.seed}; {scenes} renders and reconstructions | {' | '.join(args.samplers)} |")
    print("|---" * (1 + len(args.samplers)) + "|")
    first, columns, seconds = judge_autoencoder(ldm, oracle, scenes), [], []
    for sampler in args.samplers:
        columns.append(first | evaluate(ldm, oracle, args.count, args.steps, args.guidance, args.seed, sampler))
        start = time.perf_counter()
        ldm.text_to_image(prompts, args.steps, args.guidance, sampler=sampler)
        seconds.append(f"{time.perf_counter() - start:.1f} s")
    for name in columns[0]:
        form = "{:.1f}" if name.endswith("dB") else "{:.1%}"
        print("|", " | ".join([name, *(form.format(column[name]) for column in columns)]), "|")
    print(f"| 16 pictures, {args.steps} steps, {torch.get_num_threads()} CPU threads | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
