"""Caption accuracy: does the picture show what the caption says? The oracle's reading is compared with the caption."""
from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

from ..tiny_worlds.captions import Caption, Mention
from ..tiny_worlds.scenes import PLACES, Scene
from .oracle import Reading, Seen

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


def everything(scene: Scene) -> Caption:
    """All that a caption can say of a scene, but for counts and relations; without a text."""
    mentions = tuple(Mention(t.kind, t.colour, t.size, t.place) for t in scene.things)
    return Caption("", scene.sky, scene.ground, scene.weather, mentions)
