"""Captions of scenes in varied English, and the facts that each caption states."""
from __future__ import annotations

import random
from typing import NamedTuple

from .scenes import KINDS, PLACES, Scene
from .things import COLOURS

SAID = {  # the wordings of each attribute
    "day": ("by day", "in daylight", "in the daytime"), "sunset": ("at sunset", "in the evening", "at dusk"),
    "night": ("at night", "by night", "under a night sky"),
    "grass": ("on the grass", "in a green meadow", "on a lawn"), "sand": ("on the sand", "in the desert", "on a beach"),
    "snow": ("on the snow", "in a snowy field"), "water": ("on the water", "on the sea", "on the waves"),
    "clear": ("under a clear sky", "in clear weather"), "clouds": ("with clouds", "under a cloudy sky"),
    "rain": ("in the rain", "while it rains"), "snowfall": ("while it snows", "in falling snow"),
    "rainbow": ("with a rainbow", "under a rainbow"),
    "small": ("small", "little", "tiny"), "big": ("big", "large", "huge"),
    "left": ("on the left", "at the left"), "middle": ("in the middle", "in the centre"),
    "right": ("on the right", "at the right")}
NUMBERS = {2: "two", 3: "three"}
RELATIONS = ("in front of", "to the left of", "to the right of")
OPENINGS = ("", "", "", "a picture of ", "a drawing of ")
MAX_WORDS = 30  # the text encoder's 32 tokens, less the start and end marks


class Mention(NamedTuple):
    """What a caption says of one thing, or of `count` equal things; None where it says nothing."""
    kind: str
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    count: int = 1


class Caption(NamedTuple):
    """A text and the facts it states. relation: one of RELATIONS, between the first and the second mention."""
    text: str
    sky: str | None = None
    ground: str | None = None
    weather: str | None = None
    mentions: tuple[Mention, ...] = ()
    relation: str | None = None


def plural(kind: str) -> str:
    """Return the plural of a kind's name."""
    return {"cactus": "cacti", "snowman": "snowmen"}.get(kind, kind + "s")


def phrase(mention: Mention, rng: random.Random) -> str:
    """Put a mention into words."""
    several = mention.count > 1
    words = [rng.choice(SAID[mention.size])] if mention.size else []
    words += [mention.colour] if mention.colour else []
    words += [plural(mention.kind) if several else mention.kind]
    number = NUMBERS[mention.count] if several else "an" if words[0][0] in "aeiou" else "a"
    where = [rng.choice(SAID[mention.place])] if mention.place else []
    return " ".join([number, *words, *where])


def relation_between(a, b) -> str | None:
    """Find which of RELATIONS holds from thing `a` to thing `b`, each with a place and a front; None if none does."""
    order = list(PLACES).index(a.place) - list(PLACES).index(b.place)
    if order == 0:
        return "in front of" if a.front and not b.front else None
    return "to the left of" if order < 0 else "to the right of"


def _mentions(scene: Scene, rng: random.Random) -> tuple[list[Mention], str | None]:
    """Choose what to say of the things, in which order, and the relation of the first two."""
    things, first, relation = list(scene.things), [], None
    rng.shuffle(things)
    twins = [t for t in things if (t.kind, t.colour) == (things[0].kind, things[0].colour)]
    if len(twins) > 1 and rng.random() < 0.6:
        size = twins[0].size if len({t.size for t in twins}) == 1 and rng.random() < 0.5 else None
        first = [Mention(twins[0].kind, twins[0].colour, size, count=len(twins))]
        things = [t for t in things if t not in twins]
    elif len(things) > 1 and rng.random() < 0.6:
        front = next((t for t in things if t.front), None)
        behind = next((t for t in things if front and not t.front and t.place == front.place), None)
        a, b = (front, behind) if behind else things[:2]
        relation = relation_between(a, b)
        things = [a, b] + [t for t in things if t is not a and t is not b]
    mentions = first + [
        Mention(t.kind, t.colour if rng.random() < 0.92 else None, t.size if rng.random() < 0.55 else None,
                t.place if rng.random() < 0.6 and not (relation and i < 2) else None) for i, t in enumerate(things)]
    if relation is None and rng.random() < 0.12:
        mentions = mentions[:-1]
    return mentions, relation


def make_caption(scene: Scene, rng: random.Random) -> Caption:
    """Draw one of many captions of a scene: its words, their order, and what it leaves unsaid."""
    mentions, relation = _mentions(scene, rng)
    said = {name: getattr(scene, name) if rng.random() < p else None
            for name, p in (("sky", 0.8), ("ground", 0.75), ("weather", 0.3 if scene.weather == "clear" else 0.85))}
    if not mentions and not any(said.values()):
        said["sky"] = scene.sky
    while True:
        phrases = [phrase(mention, rng) for mention in mentions]
        if relation:
            phrases[:2] = [f"{phrases[0]} {relation} {phrases[1]}"]
        body = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}" if phrases else ""
        around = [rng.choice(SAID[value]) for value in said.values() if value]
        rng.shuffle(around)
        lead = around.pop() if body and around and rng.random() < 0.25 else ""
        opening = "" if lead or not body else rng.choice(OPENINGS)
        text = ", ".join(filter(None, [lead, opening + body, *around]))
        if len(text.replace(",", " ,").split()) <= MAX_WORDS:
            return Caption(text, **said, mentions=tuple(mentions), relation=relation)
        longest = max(mentions, key=lambda m: bool(m.place) + bool(m.size))    # too long: leave something unsaid
        if longest.place or longest.size:
            unsaid = "place" if longest.place else "size"
            mentions[mentions.index(longest)] = longest._replace(**{unsaid: None})
        else:
            said["weather"] = None


def vocabulary() -> list[str]:
    """List every word a caption can hold, sorted, punctuation included."""
    text = [*OPENINGS, *RELATIONS, *NUMBERS.values(), *COLOURS, *KINDS, *map(plural, KINDS), "a an and ,"]
    return sorted({word for phrases in (*SAID.values(), text) for phrase in phrases for word in phrase.split()})
