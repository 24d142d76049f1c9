"""The landscapes of Tiny Worlds: sky, ground and weather, and `paint`, which puts a whole scene together.

Lengths are fractions of the picture's height, measured up from its bottom edge; `w` is the picture's width.
"""
from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from PIL import Image

from .scenes import Scene
from .things import CLASSES, COLOURS, LIGHT, PAINTERS, Canvas, mix

SUPERSAMPLE = 4  # shapes are drawn at 4 times the size, without antialiasing, then averaged
DUSK = {"day": (1.0, 1.0, 1.0), "sunset": (0.98, 0.86, 0.8), "night": (0.56, 0.6, 0.78)}  # light on the ground
SKY = {"day": ((88, 172, 240), (206, 236, 252)), "sunset": ((88, 62, 140), (255, 168, 96)),
       "night": ((10, 14, 44), (50, 58, 118))}                                                # top, horizon
OVERCAST = {"day": ((120, 138, 160), (190, 202, 214)), "sunset": ((86, 70, 108), (196, 142, 122)),
            "night": ((14, 17, 36), (42, 48, 82))}
GROUND = {"grass": ((112, 190, 82), (74, 150, 62)), "sand": ((242, 214, 150), (222, 184, 112)),
          "snow": ((250, 252, 255), (214, 228, 244)), "water": ((70, 150, 206), (34, 100, 172))}
FAR = {"grass": (84, 150, 104), "sand": (214, 170, 122), "snow": (150, 174, 208), "water": (92, 132, 172)}


def scatter(count: int, low: float) -> tuple:
    """Spread `count` points evenly but irregularly over [0, 1) x [low, 1): Roberts' R2 sequence, jittered."""
    rng = random.Random(count)
    return tuple(((0.7549 * i + rng.uniform(-0.05, 0.05)) % 1.0,
                  low + (1 - low) * ((0.5698 * i + rng.uniform(-0.05, 0.05)) % 1.0)) for i in range(count))


STARS, FLAKES = scatter(24, 0.5), scatter(46, 0.0)


@lru_cache(maxsize=64)
def gradient(top: tuple, bottom: tuple, width: int, height: int) -> Image.Image:
    """Make a (height, width) RGB image that fades from `top` to `bottom`."""
    ramp = np.linspace(top, bottom, height)[:, None].repeat(width, axis=1)
    return Image.fromarray(ramp.round().astype(np.uint8))


def wavy(width: float, level: float, swell: float, phase: float, humps: float) -> list:
    """Outline gentle hills from x = 0 to `width` at height `level`, closed along y = 0."""
    xs = [width * i / 24 for i in range(25)]
    ridge = [(x, level + swell * math.sin(phase + humps * 2 * math.pi * x / width)) for x in xs]
    return [(0, 0), *ridge, (width, 0)]


def draw_sky(k: Canvas, w: float, scene: Scene):
    """Draw stars and the sun or moon, behind everything else."""
    sky, x, y = scene.sky, scene.light_x * w, scene.light_y
    if sky == "night":
        for i, (star_x, star_y) in enumerate(STARS):  # four fixed fields: a detail that a network can learn
            r = (0.0065, 0.009, 0.013)[i % 3]
            k.ellipse((star_x + 0.27 * scene.variant) % 1.0 * w, star_y, r, r, (255, 250, 220), lit=False)
    glow = {"day": (255, 250, 200), "sunset": (255, 206, 120), "night": (190, 200, 250)}[sky]
    for r, alpha in ((0.19, 36), (0.145, 50)):
        k.ellipse(x, y, r, r, (*glow, alpha))
    k.label = CLASSES.index("sun or moon")
    if sky == "night":
        k.ellipse(x, y, 0.085, 0.085, (252, 244, 206), lit=False)
        k.label = CLASSES.index("sky")
        k.ellipse(x + 0.045, y + 0.025, 0.075, 0.075, mix(mix(*SKY[sky], 1 - y), glow, 0.3), lit=False)
    else:
        k.ellipse(x, y, 0.1, 0.1, (255, 226, 92) if sky == "day" else (255, 112, 74), lit=False)
    k.label = None


def draw_ground(k: Canvas, w: float, scene: Scene):
    """Draw far hills, then the ground from the horizon down."""
    ground, horizon, variant, haze = scene.ground, scene.horizon, scene.variant, SKY[scene.sky][1]
    if ground == "snow":
        peaks = [(w * i / 6, horizon + (0.13 if (i + variant) % 2 else 0.03)) for i in range(7)]
        k.polygon([(0, 0), *peaks, (w, 0)], mix(FAR["snow"], haze, 0.35))
    elif ground != "water":
        k.polygon(wavy(w, horizon + 0.03, 0.045, variant * 1.6, 1.5), mix(FAR[ground], haze, 0.35))
    k.label = CLASSES.index("ground")
    swell = 0.0 if ground == "water" else 0.015
    k.polygon(wavy(w, horizon, swell, 2.2 + variant * 1.6, 1.0), GROUND[ground][0])
    for depth, colour in ((0.4, mix(*GROUND[ground], 0.5)), (0.72, GROUND[ground][1])):
        k.polygon(wavy(w, horizon * (1 - depth), swell, variant + depth * 9, 1.0), colour)
    for i in range(12 if ground == "water" else 0):
        x, y = ((i * 0.618 + variant * 0.25) % 1.0) * w, horizon * (0.92 - 0.07 * i)
        length = 0.05 + 0.01 * (i % 3) + 0.002 * i
        k.line([(x - length, y), (x, y + 0.012), (x + length, y)], (255, 255, 255, 110), 0.014)


def draw_cloud(k: Canvas, x: float, y: float, size: float, colour: tuple):
    for dx, dy, r in ((-0.13, 0, 0.07), (0, 0.035, 0.1), (0.12, 0.005, 0.075)):
        k.ellipse(x + dx * size, y + dy * size, r * size, r * size, colour, lit=False)
    k.ellipse(x, y - 0.03 * size, 0.2 * size, 0.045 * size, colour, lit=False)


def draw_weather_behind(k: Canvas, w: float, scene: Scene):
    """Draw what stands behind the things: rainbow and clouds."""
    white = {"day": (255, 255, 255), "sunset": (255, 214, 190), "night": (96, 106, 158)}[scene.sky]
    if scene.weather == "rainbow":
        bands = ((238, 84, 84), (250, 164, 72), (252, 226, 98), (110, 198, 112), (92, 150, 236), (160, 104, 206))
        bend = min(0.56 * w, 0.86 - scene.horizon)
        for i, band in enumerate(bands):
            r = bend - 0.025 * i
            arc = [(w / 2 + 0.56 * w / bend * r * math.cos(a), scene.horizon + r * math.sin(a))
                   for a in (math.pi * j / 28 for j in range(29))]
            k.line(arc, band, 0.03, lit=False)
    elif scene.weather == "clouds":
        for x, y, size in ((0.2, 0.86, 1.1), (0.56, 0.77, 0.9), (0.86, 0.88, 1.2)):
            draw_cloud(k, ((x + 0.23 * scene.variant) % 1.0) * w, y, size, white)
    elif scene.weather in ("rain", "snowfall"):
        grey = mix(OVERCAST[scene.sky][0], white, 0.3 if scene.weather == "rain" else 0.5)
        for i in range(5):
            draw_cloud(k, w * (i + 0.2 * scene.variant) / 4.2, 0.95 - 0.025 * (i % 2), 1.25, grey)


def draw_weather_in_front(k: Canvas, w: float, scene: Scene):
    """Draw falling rain or snow, in a pattern that only shifts from scene to scene."""
    for i, (x, y) in enumerate(FLAKES if scene.weather in ("rain", "snowfall") else ()):
        x, y = (x + 0.27 * scene.variant) % 1.0 * w, 0.02 + 0.82 * y
        if scene.weather == "rain":
            k.line([(x, y + 0.06), (x - 0.018, y)], (206, 226, 250, 160), 0.013)
        else:
            r = (0.011, 0.015, 0.018)[i % 3]
            k.ellipse(x, y, r, r, (255, 255, 255), lit=False)


def paint(scene: Scene, height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene: its image (height, width, 3) and its semantic map (height, width) of CLASSES, both uint8."""
    h, w, aspect = height * SUPERSAMPLE, width * SUPERSAMPLE, width / height
    overcast = scene.weather in ("rain", "snowfall")
    k = Canvas(gradient(*(OVERCAST if overcast else SKY)[scene.sky], w, h).copy(), LIGHT[scene.sky])
    k.place(0, h, h, None)
    if not overcast:
        draw_sky(k, aspect, scene)
    draw_weather_behind(k, aspect, scene)
    k.light = DUSK[scene.sky]
    draw_ground(k, aspect, scene)
    k.light = LIGHT[scene.sky]
    for thing in scene.things:  # far to near
        x, y, unit = thing.x * w, h - thing.y * h, thing.scale * min(h, w)
        if thing.kind != "balloon":
            k.place(x, y, unit, None)
            k.ellipse(0, 0, 0.5, 0.07, (20, 24, 50, 60))  # its shadow
        k.place(x, y, unit, CLASSES.index(thing.kind))
        c = COLOURS[thing.colour]
        darker, lighter = mix(c, (30, 20, 60), 0.28), mix(c, (255, 255, 255), 0.45)
        PAINTERS[thing.kind](k, c, darker, lighter, scene.sky == "night")
    k.place(0, h, h, None)
    draw_weather_in_front(k, aspect, scene)
    half = SUPERSAMPLE // 2
    return np.asarray(k.image.reduce(SUPERSAMPLE)), np.asarray(k.map)[half::SUPERSAMPLE, half::SUPERSAMPLE]
