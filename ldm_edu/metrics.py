"""Does the picture show what the caption says? The oracle reads a picture, and the reading is held against the caption.

`python -m ldm_edu.metrics data/tiny-worlds` prints the table of the model card.
"""
from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import DATA
from .blocks import ResBlock
from .files import load_weights, save_weights
from .painting import COLOURS
from .pipeline import LatentDiffusion
from .scenes import GROUNDS, HELD_OUT, KINDS, PLACES, SIZES, SKIES, WEATHERS, Caption, Mention, Scene, make_scene
from .segmenter import Segmenter, mean_iou
from .worlds import TinyWorlds, render, to_float

ORACLE = DATA / "oracle" / "model.safetensors"
SLOTS = tuple((place, front) for place in PLACES for front in (False, True))  # where a thing may stand
HEADS = (len(SKIES), len(GROUNDS), len(WEATHERS), *(len(KINDS) + 1, len(COLOURS), len(SIZES)) * len(SLOTS))
GUIDANCE = 4.0  # of the reported figures
NOTHING = -100  # the label of an attribute that is not there; cross_entropy passes over it


class Seen(NamedTuple):
    """A thing as the oracle reports it."""

    kind: str
    colour: str
    size: str
    place: str
    front: bool


class Reading(NamedTuple):
    """What the oracle sees in one picture."""

    sky: str
    ground: str
    weather: str
    things: tuple[Seen, ...]


def labels(scene: Scene) -> Tensor:
    """The right answers for a scene: int64 (21,), sky, ground, weather, then kind, colour and size of each slot.

    Kind 0 is "nothing here"; its colour and size are NOTHING.
    """
    answer = [SKIES.index(scene.sky), GROUNDS.index(scene.ground), WEATHERS.index(scene.weather)]
    by_slot = {(thing.place, thing.front): thing for thing in scene.things}
    for slot in SLOTS:
        thing = by_slot.get(slot)
        answer += [0, NOTHING, NOTHING] if thing is None else [
            KINDS.index(thing.kind) + 1, list(COLOURS).index(thing.colour), list(SIZES).index(thing.size)]
    return torch.tensor(answer)


class Oracle(nn.Module):
    """Reads sky, ground, weather and the thing in each slot from pictures (B, 3, 64, 64) in [-1, 1].

    It is trained on renders alone and shares nothing with the models it judges.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 5, stride=2, padding=2), nn.SiLU(),                           # (B, w, 32, 32)
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),                                  # (B, 2w, 16, 16)
            ResBlock(2 * w, 2 * w, groups=8), ResBlock(2 * w, 2 * w, groups=8),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),                              # (B, 4w, 8, 8)
            ResBlock(4 * w, 4 * w, groups=8), ResBlock(4 * w, 4 * w, groups=8),
            nn.Conv2d(4 * w, w, 1), nn.SiLU(), nn.Flatten())                              # (B, 64 w)
        self.hidden = nn.Linear(64 * w, 16 * w)
        self.heads = nn.Linear(16 * w, sum(HEADS))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits, one (B, classes) per entry of `labels`. Raises ValueError for pictures of another size."""
        if images.ndim != 4 or images.shape[1:] != (3, 64, 64):
            raise ValueError(f"images has shape {tuple(images.shape)}, the oracle reads (batch, 3, 64, 64)")
        h = F.silu(self.hidden(self.features(images)))
        return list(self.heads(h).split(HEADS, dim=1))

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 256) -> list[Reading]:
        """One Reading per picture."""
        device = next(self.parameters()).device
        best = [torch.stack([logits.argmax(1) for logits in self(part.to(device))], 1).cpu()
                for part in images.split(batch)]
        return [reading(row.tolist()) for row in torch.cat(best)]

    def save(self, path: Path = ORACLE) -> None:
        """Write the weights as float16 safetensors."""
        save_weights(self, path)

    @classmethod
    def load(cls, path: Path = ORACLE) -> Oracle:
        """The trained oracle. Raises FileNotFoundError or ValueError for a missing or damaged file."""
        return load_weights(cls(), path)


def reading(answer: list[int]) -> Reading:
    """The inverse of `labels`."""
    things = []
    for (place, front), i in zip(SLOTS, range(3, len(HEADS), 3)):
        kind, colour, size = answer[i:i + 3]
        if kind:
            things.append(Seen(KINDS[kind - 1], list(COLOURS)[colour], list(SIZES)[size], place, front))
    return Reading(SKIES[answer[0]], GROUNDS[answer[1]], WEATHERS[answer[2]], tuple(things))


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
    stands, so mentions are matched to the things seen in the way that finds most (brute force over orders).
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
    for order in set(itertools.permutations(things, len(singles))):
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


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture pair (B, 3, H, W) in [-1, 1]; values outside are clipped."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)


# --- The table of the model card ------------------------------------------------------------------------------------

def generate(ldm: LatentDiffusion, conditions: list[str] | Tensor, steps: int = 30, guidance: float = GUIDANCE,
             seed: int = 0, batch: int = 64, task: str = "text_to_image") -> Tensor:
    """One picture per condition, (B, 3, 64, 64) in [-1, 1]; batch k of them is drawn with seed + k.

    task: the method of `ldm` that draws them: "text_to_image" from prompts, "variations" from pictures, "map_to_image"
    from semantic maps.
    """
    parts = range(0, len(conditions), batch)
    return torch.cat([getattr(ldm, task)(conditions[i:i + batch], steps=steps, guidance=guidance, seed=seed + k).cpu()
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


def evaluate(ldm: LatentDiffusion, oracle: Oracle, count: int = 512, steps: int = 30,
             guidance: float = GUIDANCE, seed: int = 0) -> dict[str, float]:
    """The figures of the model card on `count` validation scenes and prompts, by name; shares are 0…1.

    Conditions that the model does not have are left out.
    """
    dataset = TinyWorlds("validation", count)
    images, maps = render("validation", count)
    images = to_float(images)
    captions = [dataset.caption(i) for i in range(count)]
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in images.split(64)])
    original, decoded = (score(captions, oracle.read(pictures)) for pictures in (images, rebuilt))
    table = {"autoencoder: PSNR, dB": psnr(images, rebuilt).mean().item(),
             "renders: caption accuracy": original.accuracy, "renders: all right": original.all_right,
             "reconstructions: caption accuracy": decoded.accuracy, "reconstructions: all right": decoded.all_right}
    for split in ("validation", "composition"):
        captions = captions_of(split, count)
        result = score(captions, oracle.read(generate(ldm, [c.text for c in captions], steps, guidance, seed)))
        table |= {f"{split}: caption accuracy": result.accuracy, f"{split}: all right": result.all_right}
        table |= {f"{split}: {name} ({stated})": found / stated for name, (found, stated) in result.by_name.items()}
    if ldm.image_encoder is not None:
        shown = [everything(make_scene(seed)) for seed in dataset.seeds]
        for name, pictures in (("renders", images), ("pictures", generate(ldm, images, steps, 2.0, seed,
                                                                          task="variations"))):
            table[f"image as condition: attributes kept, {name}"] = score(shown, oracle.read(pictures)).accuracy
    if ldm.map_encoder is not None:
        segmenter = Segmenter.load()
        for name, pictures in (("renders", images), ("pictures", generate(ldm, maps, steps, 2.0, seed,
                                                                          task="map_to_image"))):
            table[f"map as condition: mean IoU, {name}"] = mean_iou(segmenter.read(pictures), maps.long())
    return table


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.metrics", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=512, help="prompts per split")
    parser.add_argument("--steps", type=int, default=30, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    ldm, oracle = LatentDiffusion.from_pretrained(args.checkpoint), Oracle.load()
    print(f"| {args.count} prompts a split, {args.steps} DDIM steps, guidance {args.guidance:g}, seed {args.seed} | |")
    print("|---|---|")
    for name, value in evaluate(ldm, oracle, args.count, args.steps, args.guidance, args.seed).items():
        print(f"| {name} | {value:.1f} |" if name.endswith("dB") else f"| {name} | {value:.1%} |")
    prompts = [c.text for c in captions_of("validation", 16)]
    start = time.perf_counter()
    ldm.text_to_image(prompts, args.steps, args.guidance)
    seconds = time.perf_counter() - start
    print(f"| 16 pictures, {args.steps} steps, {torch.get_num_threads()} CPU threads | {seconds:.1f} s |")


if __name__ == "__main__":
    main()
