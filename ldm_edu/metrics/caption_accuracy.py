"""Caption accuracy: does the picture show what the caption says? Compares the oracle's reading with the caption."""
from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

from ..tiny_worlds.captions import Caption, Mention, relation_between
from ..tiny_worlds.scenes import Scene
from .oracle import Reading, Seen


def _thing_facts(mention: Mention, seen: Seen | None) -> list[tuple[str, bool]]:
    """List the attributes that a mention states, and whether the thing has them."""
    stated = {name: getattr(mention, name) for name in ("kind", "colour", "size", "place")}
    return [(name, seen is not None and getattr(seen, name) == value) for name, value in stated.items() if value]


def facts(caption: Caption, seen: Reading) -> list[tuple[str, bool]]:
    """List every attribute the caption states, as (name, found in the picture).

    Names: sky, ground, weather, kind, colour, size, place, count, relation. "Two red boats" states kind and colour
    twice and, once, that there are exactly two.
    """
    found = [(name, getattr(caption, name) == getattr(seen, name))
             for name in ("sky", "ground", "weather") if getattr(caption, name)]
    for mention in caption.mentions:
        if mention.count > 1:
            alike = sum(all(ok for _, ok in _thing_facts(mention, thing)) for thing in seen.things)
            found.append(("count", alike == mention.count))
    singles = [mention for mention in caption.mentions for _ in range(mention.count)]
    things = [*seen.things, *[None] * len(singles)]
    matches = []    # a caption need not say where a thing stands: try every thing for every mention
    for order in dict.fromkeys(itertools.permutations(things, len(singles))):    # a set would shuffle them
        match = [fact for mention, thing in zip(singles, order) for fact in _thing_facts(mention, thing)]
        if caption.relation:
            a, b = order[:2]
            match.append(("relation", None not in (a, b) and relation_between(a, b) == caption.relation))
        matches.append(match)
    return found + max(matches, key=lambda match: sum(ok for _, ok in match))    # of equals the first


class Score(NamedTuple):
    """How many stated attributes are found."""

    accuracy: float                        # share of the attributes
    all_right: float                       # share of the captions with every attribute found
    by_name: dict[str, tuple[int, int]]    # (found, stated) per kind of attribute


def score(captions: list[Caption], readings: list[Reading]) -> Score:
    """Score captions against the readings of their pictures."""
    checked = [facts(caption, seen) for caption, seen in zip(captions, readings, strict=True)]
    stated = Counter(name for each in checked for name, _ in each)
    found = Counter(name for each in checked for name, ok in each if ok)
    return Score(accuracy=found.total() / max(1, stated.total()),
                 all_right=sum(all(ok for _, ok in each) for each in checked) / len(checked),
                 by_name={name: (found[name], stated[name]) for name in sorted(stated)})


def surplus(captions: list[Caption], readings: list[Reading]) -> float:
    """Find the share of pictures with more things than their captions name, of the captions that name any.

    Some true scenes have surplus things as well, because a caption need not name all: compare with those.
    """
    pairs = [(sum(mention.count for mention in caption.mentions), len(seen.things))
             for caption, seen in zip(captions, readings, strict=True) if caption.mentions]
    return sum(seen > named for named, seen in pairs) / max(1, len(pairs))


def full_caption(scene: Scene) -> Caption:
    """State every attribute of a scene, except counts and relations; the text is empty."""
    mentions = tuple(Mention(t.kind, t.colour, t.size, t.place) for t in scene.things)
    return Caption("", scene.sky, scene.ground, scene.weather, mentions)
