"""The scenes of Tiny Worlds: one integer seed gives a sky, a ground, weather and one to three things."""
from __future__ import annotations

import itertools
import random
from dataclasses import astuple, dataclass, replace

from .things import COLOURS, PAINTERS

SKIES = ("day", "sunset", "night")
GROUNDS = ("grass", "sand", "snow", "water")
WEATHERS = ("clear", "clouds", "rain", "snowfall", "rainbow")
KINDS = tuple(PAINTERS)
SIZES = {"small": 0.24, "big": 0.39}                       # height of a thing, in fractions of the picture
PLACES = {"left": 0.19, "middle": 0.5, "right": 0.81}      # centre of a thing, in fractions of the width
HELD_OUT = frozenset({  # pairs of kind and colour that occur neither in training nor in validation
    "house": "pink", "tree": "blue", "boat": "purple", "car": "white", "mushroom": "green", "rocket": "yellow",
    "balloon": "orange", "cactus": "red", "cat": "green", "snowman": "purple"}.items())
SPLITS = {"train": 0, "validation": 10**9, "composition": 2 * 10**9}  # first seed of each split


@dataclass(frozen=True)
class Thing:
    """One thing of a scene. (x, y): its foot, in fractions of width and height, y up; scale: its height."""
    kind: str
    colour: str
    size: str
    place: str
    front: bool  # stands in front of another thing at the same place
    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Scene:
    """Everything that `paint` needs. Heights are fractions of the picture's, from the bottom; things: far to near."""
    sky: str
    ground: str
    weather: str
    things: tuple[Thing, ...]
    horizon: float
    light_x: float
    light_y: float
    variant: int  # which of four star fields, cloud banks, hill lines


def make_scene(seed: int) -> Scene:
    """Draw the scene of a seed. Those of the "composition" split hold at least one pair of HELD_OUT, others none."""
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
        kind, colour, size = rng.choice(KINDS), rng.choice(list(COLOURS)), rng.choice(list(SIZES))
        if twins and i and held_out_at is None:
            kind, colour, size = things[0].kind, things[0].colour, things[0].size
        if i == held_out_at:
            kind, colour = rng.choice(sorted(HELD_OUT))
        while i != held_out_at and (kind, colour) in HELD_OUT:
            colour = rng.choice(list(COLOURS))
        front = in_front and i == 1
        if in_front and i < 2:
            size = "small" if front else "big"
        things.append(_stand(rng, kind, colour, size, places[0 if front else i], front))
    things.sort(key=lambda thing: (thing.front, -thing.y))
    return Scene(sky, ground, weather, tuple(things), horizon, light_x=rng.uniform(0.14, 0.86),
                 light_y=rng.uniform(0.5, 0.58) if sky == "sunset" else rng.uniform(0.74, 0.86),
                 variant=rng.randrange(4))


def _stand(rng: random.Random, kind: str, colour: str, size: str, place: str, front: bool) -> Thing:
    """Put a thing on the ground, with jitter."""
    x = PLACES[place] + rng.uniform(-0.03, 0.03)
    y = rng.uniform(0.18, 0.25) if size == "big" else rng.uniform(0.12, 0.18)  # small ones nearer, so none is hidden
    scale = SIZES[size] * rng.uniform(0.94, 1.06)
    if kind == "balloon":
        y += 0.1 + 0.12 * (size == "small")  # balloons fly
    if front:
        x, y = x + rng.choice((-0.1, 0.1)), rng.uniform(0.05, 0.09)
    return Thing(kind, colour, size, place, front, x, y, scale)


CHANGES = ("places", "colours", "colour", "kind", "size", "number", "around")


def sibling(scene: Scene, rng: random.Random, changes: tuple[str, ...] = CHANGES) -> Scene:
    """Change exactly one attribute of the scene. Changes without effect are redrawn.

    changes: those to choose from; after 20 redraws all of CHANGES, since three equal things cannot trade places.
    """
    surroundings = {"sky": scene.sky, "ground": scene.ground, "weather": scene.weather}
    values = {"colour": list(COLOURS), "kind": KINDS, "size": list(SIZES)}
    for attempt in itertools.count():
        things, around = list(scene.things), {**surroundings}
        i = rng.randrange(len(things))
        paired = sum(t.place == things[i].place for t in things) > 1    # one in front of the other: sizes are fixed
        change = rng.choice(changes if attempt < 20 else CHANGES)
        if change == "places":
            moved = dict(zip(PLACES, rng.sample(list(PLACES), 3)))
            things = [replace(t, place=moved[t.place]) for t in things]
        elif change == "colours":
            things = [replace(t, colour=other.colour) for t, other in zip(things, things[1:] + things[:1])]
        elif change == "around":
            name, choices = rng.choice((("sky", SKIES), ("ground", GROUNDS), ("weather", WEATHERS)))
            around[name] = rng.choice(choices)
        elif change == "number" and not paired:
            free = sorted(set(PLACES) - {t.place for t in things})
            if len(things) < 3 and free and rng.random() < 0.5:
                things.append(replace(things[i], place=rng.choice(free)))
            elif len(things) > 1:
                del things[i]
        elif change in values and not (change == "size" and paired):
            things[i] = replace(things[i], **{change: rng.choice(values[change])})
        told, told_before = ({(t.kind, t.colour, t.size, t.place) for t in ts} for ts in (things, scene.things))
        changed = around != surroundings or len(things) != len(scene.things) or told != told_before
        possible = (around["sky"], around["weather"]) != ("night", "rainbow")
        if changed and possible and not any((t.kind, t.colour) in HELD_OUT for t in things):
            placed = sorted((_stand(rng, *astuple(t)[:5]) for t in things), key=lambda thing: (thing.front, -thing.y))
            return replace(scene, **around, things=tuple(placed))
