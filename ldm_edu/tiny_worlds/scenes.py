"""The grammar of Tiny Worlds: one integer seed gives a scene, and a scene gives captions.

A scene is a sky, a ground, some weather and one to three things; every caption also carries the facts it
states, so that a picture can be checked against its prompt (`metrics.py`).
"""
from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

from .things import COLOURS, PAINTERS

SKIES = ("day", "sunset", "night")
GROUNDS = ("grass", "sand", "snow", "water")
WEATHERS = ("clear", "clouds", "rain", "snowfall", "rainbow")
KINDS = tuple(PAINTERS)
SIZES = {"small": 0.24, "big": 0.39}                       # height of a thing, in fractions of the picture
PLACES = {"left": 0.19, "middle": 0.5, "right": 0.81}      # centre of a thing, in fractions of the width
HELD_OUT = frozenset({("house", "pink"), ("tree", "blue"), ("boat", "purple"), ("car", "white"),
                      ("mushroom", "green"), ("rocket", "yellow"), ("balloon", "orange"), ("cactus", "red"),
                      ("cat", "green"), ("snowman", "purple")})  # never together in training or validation
SPLITS = {"train": 0, "validation": 10**9, "composition": 2 * 10**9}  # first seed of each split


@dataclass(frozen=True)
class Thing:
    """One thing of a scene. (x, y): where it stands, fractions of width and height; scale: its height."""
    kind: str
    colour: str
    size: str
    place: str
    front: bool  # stands before another thing at the same place
    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Scene:
    """All that `paint` needs. horizon: height above the bottom edge; things: far to near."""
    sky: str
    ground: str
    weather: str
    things: tuple[Thing, ...]
    horizon: float
    light_x: float
    light_y: float
    variant: int  # which of four star fields, cloud banks, hill lines


def make_scene(seed: int) -> Scene:
    """The scene of a seed. Seeds of the "composition" split hold at least one pair of HELD_OUT, others none."""
    rng = random.Random(seed)
    sky, ground = rng.choice(SKIES), rng.choice(GROUNDS)
    weather = rng.choice(("clear", "clear", "clouds", "rain", "snowfall", "rainbow" if sky != "night" else "clear"))
    horizon = rng.uniform(0.36, 0.42)
    count = rng.choices((1, 2, 3), (35, 45, 20))[0]
    held_out_at = rng.randrange(count) if seed >= SPLITS["composition"] else None
    twins, in_front = rng.random() < 0.2, count > 1 and rng.random() < 0.3
    places = rng.sample(list(PLACES), 3)
    things: list[Thing] = []
    for i in range(count):
        kind, colour = rng.choice(KINDS), rng.choice(list(COLOURS))
        size = rng.choice(list(SIZES))
        if twins and i and held_out_at is None:
            kind, colour, size = things[0].kind, things[0].colour, things[0].size
        if i == held_out_at:
            kind, colour = rng.choice(sorted(HELD_OUT))
        while i != held_out_at and (kind, colour) in HELD_OUT:
            colour = rng.choice(list(COLOURS))
        place, front = places[i], False
        if in_front and i == 0:
            size = "big"
        if in_front and i == 1:
            place, front, size = places[0], True, "small"
        things.append(_stand(rng, kind, colour, size, place, front))
    things.sort(key=lambda thing: (thing.front, -thing.y))
    return Scene(sky, ground, weather, tuple(things), horizon, light_x=rng.uniform(0.14, 0.86),
                 light_y=rng.uniform(0.5, 0.58) if sky == "sunset" else rng.uniform(0.74, 0.86),
                 variant=rng.randrange(4))


def _stand(rng: random.Random, kind: str, colour: str, size: str, place: str, front: bool) -> Thing:
    """Puts a thing on the ground with jitter. Small ones stand nearer, so that no big one hides them."""
    x = PLACES[place] + rng.uniform(-0.03, 0.03)
    y = rng.uniform(0.18, 0.25) if size == "big" else rng.uniform(0.12, 0.18)
    scale = SIZES[size] * rng.uniform(0.94, 1.06)
    if kind == "balloon":
        y += 0.1 + 0.12 * (size == "small")  # balloons fly
    if front:
        x, y = x + rng.choice((-0.1, 0.1)), rng.uniform(0.05, 0.09)
    return Thing(kind, colour, size, place, front, x, y, scale)


CHANGES = ("places", "colours", "colour", "kind", "size", "number", "around")


def sibling(scene: Scene, rng: random.Random, changes: tuple[str, ...] = CHANGES) -> Scene:
    """The same scene but for one thing that a caption can say, drawn from `changes`.

    Where things stand, whose colour is whose, a colour, kind or size, a thing more or less; sky, ground or weather. A
    change that makes no difference is drawn again, in the end from all (three things alike stand nowhere else).
    """
    for attempt in itertools.count():
        things = [(t.kind, t.colour, t.size, t.place, t.front) for t in scene.things]
        around = {"sky": scene.sky, "ground": scene.ground, "weather": scene.weather}
        i = rng.randrange(len(things))
        kind, colour, size, place, front = things[i]
        paired = sum(t[3] == place for t in things) > 1    # one stands before the other: their sizes are given
        change = rng.choice(changes if attempt < 20 else CHANGES)
        if change == "places":
            moved = dict(zip(PLACES, rng.sample(list(PLACES), 3)))
            things = [(k, c, s, moved[p], f) for k, c, s, p, f in things]
        elif change == "colours":
            colours = [t[1] for t in things]
            things = [(t[0], c, *t[2:]) for t, c in zip(things, colours[1:] + colours[:1])]
        elif change == "colour":
            things[i] = (kind, rng.choice(list(COLOURS)), size, place, front)
        elif change == "kind":
            things[i] = (rng.choice(KINDS), colour, size, place, front)
        elif change == "size" and not paired:
            things[i] = (kind, colour, rng.choice(list(SIZES)), place, front)
        elif change == "number" and not paired:
            free = sorted(set(PLACES) - {t[3] for t in things})
            if len(things) < 3 and free and rng.random() < 0.5:
                things.append((kind, colour, size, rng.choice(free), False))
            elif len(things) > 1:
                del things[i]
        elif change == "around":
            name, values = rng.choice((("sky", SKIES), ("ground", GROUNDS), ("weather", WEATHERS)))
            around[name] = rng.choice(values)
        told = {t[:4] for t in things} != {(t.kind, t.colour, t.size, t.place) for t in scene.things}
        told |= len(things) != len(scene.things) or any(getattr(scene, name) != said for name, said in around.items())
        rainbow_at_night = (around["sky"], around["weather"]) == ("night", "rainbow")
        if told and not rainbow_at_night and not any(t[:2] in HELD_OUT for t in things):
            placed = sorted((_stand(rng, *t) for t in things), key=lambda thing: (thing.front, -thing.y))
            return replace(scene, **around, things=tuple(placed))
