"""The things of Tiny Worlds: flat shapes, drawn with Pillow on a picture and its semantic map at once."""
from __future__ import annotations

from PIL import Image, ImageDraw

COLOURS = {"red": (226, 44, 52), "orange": (250, 138, 24), "yellow": (253, 218, 42), "green": (52, 168, 72),
           "blue": (44, 104, 226), "purple": (138, 56, 178), "pink": (255, 140, 192), "white": (246, 246, 246)}
LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.94, 0.92), "night": (0.84, 0.84, 0.92)}  # falls on a thing
WOOD, CREAM, INK, GLASS, LAMP = (126, 82, 50), (250, 236, 208), (46, 40, 52), (190, 226, 246), (255, 226, 120)


def mix(a, b, amount: float) -> tuple:
    """Colour `a` moved towards colour `b` by `amount` in 0…1; uint8 triples."""
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b))


class Canvas:
    """A picture and its semantic map, drawn together. Points are (x right, y up) from `origin`, in `unit` pixels."""

    def __init__(self, image: Image.Image, light=(1.0, 1.0, 1.0)):
        self.image, self.light = image, light
        self.pen = ImageDraw.Draw(image, "RGBA")
        self.map = Image.new("L", image.size, 0)
        self.map_pen = ImageDraw.Draw(self.map)
        self.place(0.0, 0.0, 1.0, None)

    def place(self, x: float, y: float, unit: float, label: int | None):
        """Put the origin at pixel (x, y), with `unit` pixels to the unit; a label of None leaves the map alone."""
        self.origin, self.unit, self.label = (x, y), unit, label

    def _draw(self, shape: str, points, colour, lit: bool, **options):
        """Draw one of Pillow's shapes on the picture and, as a class number, on the map: so the two always agree."""
        (ox, oy), u = self.origin, self.unit
        points = [(ox + x * u, oy - y * u) for x, y in points]
        if lit and len(colour) == 3:
            colour = tuple(round(c * k) for c, k in zip(colour, self.light))
        getattr(self.pen, shape)(points, fill=colour, **options)
        if self.label is not None:
            options.pop("joint", None)    # bends are round on the picture alone
            getattr(self.map_pen, shape)(points, fill=self.label, **options)

    def polygon(self, points, colour, lit=True):
        self._draw("polygon", points, colour, lit)

    def box(self, x0, y0, x1, y1, colour, lit=True):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, lit)

    def ellipse(self, x, y, rx, ry, colour, lit=True, start=None, end=None):
        """Draw an ellipse about (x, y), or its slice from `start` to `end`, in degrees clockwise from the right."""
        angles = {} if start is None else {"start": start, "end": end}
        self._draw("pieslice" if angles else "ellipse", [(x - rx, y + ry), (x + rx, y - ry)], colour, lit, **angles)

    def line(self, points, colour, width: float, lit=True):
        self._draw("line", points, colour, lit, width=max(1, round(width * self.unit)), joint="curve")


# Each thing stands on the origin and is about one unit tall. c is its colour, d a darker, l a lighter one.

def draw_house(k: Canvas, c, d, l, night):
    k.box(0.16, 0.7, 0.28, 1.0, mix(d, INK, 0.3))
    k.box(-0.42, 0, 0.42, 0.56, c)
    k.polygon([(-0.54, 0.54), (0, 1.0), (0.54, 0.54)], mix(d, INK, 0.25))
    k.polygon([(-0.54, 0.54), (0, 1.0), (-0.16, 0.54)], mix(d, INK, 0.1))
    k.box(-0.1, 0, 0.12, 0.36, WOOD)
    for x in (-0.34, 0.2):
        k.box(x, 0.2, x + 0.16, 0.42, LAMP if night else GLASS, lit=False)


def draw_tree(k: Canvas, c, d, l, night):
    k.polygon([(-0.09, 0), (0.09, 0), (0.05, 0.5), (-0.05, 0.5)], WOOD)
    for x, y, r in ((-0.22, 0.56, 0.24), (0.22, 0.56, 0.24), (0, 0.74, 0.28)):
        k.ellipse(x, y - 0.03, r, r, d)
    for x, y, r in ((-0.2, 0.59, 0.21), (0.18, 0.6, 0.21), (-0.01, 0.77, 0.24)):
        k.ellipse(x, y, r, r, c)
    k.ellipse(-0.08, 0.84, 0.1, 0.08, l)


def draw_boat(k: Canvas, c, d, l, night):
    k.box(-0.04, 0.2, 0.02, 1.0, mix(WOOD, INK, 0.3))
    k.polygon([(0.04, 0.3), (0.04, 0.96), (0.46, 0.3)], c)
    k.polygon([(-0.07, 0.3), (-0.07, 0.82), (-0.4, 0.3)], l)
    k.polygon([(-0.54, 0.25), (0.56, 0.25), (0.38, 0), (-0.36, 0)], WOOD)
    k.polygon([(-0.54, 0.25), (0.56, 0.25), (0.52, 0.18), (-0.48, 0.18)], CREAM)


def draw_car(k: Canvas, c, d, l, night):
    k.polygon([(-0.34, 0.36), (-0.22, 0.64), (0.2, 0.64), (0.36, 0.36)], c)
    k.polygon([(-0.26, 0.37), (-0.17, 0.57), (-0.02, 0.57), (-0.02, 0.37)], GLASS)
    k.polygon([(0.04, 0.37), (0.04, 0.57), (0.15, 0.57), (0.26, 0.37)], GLASS)
    k.box(-0.58, 0.14, 0.58, 0.38, c)
    k.box(-0.58, 0.14, 0.58, 0.2, d)
    k.ellipse(0.54, 0.3, 0.05, 0.05, LAMP, lit=not night)
    for x in (-0.32, 0.32):
        k.ellipse(x, 0.13, 0.14, 0.14, INK)
        k.ellipse(x, 0.13, 0.06, 0.06, (190, 190, 196))


def draw_mushroom(k: Canvas, c, d, l, night):
    k.polygon([(-0.14, 0), (0.14, 0), (0.1, 0.5), (-0.1, 0.5)], CREAM)
    k.ellipse(0, 0.46, 0.48, 0.1, mix(CREAM, WOOD, 0.35))
    k.ellipse(0, 0.46, 0.48, 0.48, c, start=180, end=360)
    k.ellipse(0, 0.46, 0.48, 0.06, d)
    spot = mix(c, (255, 255, 255), 0.9) if c != COLOURS["white"] else (214, 204, 196)
    for x, y, r in ((-0.24, 0.64, 0.08), (0.04, 0.78, 0.09), (0.28, 0.6, 0.07)):
        k.ellipse(x, y, r, r, spot)


def draw_rocket(k: Canvas, c, d, l, night):
    k.polygon([(-0.16, 0.34), (-0.34, 0.02), (-0.1, 0.1)], d)
    k.polygon([(0.16, 0.34), (0.34, 0.02), (0.1, 0.1)], d)
    k.ellipse(0, 0.52, 0.21, 0.52, c)
    k.ellipse(0.08, 0.5, 0.09, 0.4, mix(c, d, 0.4))
    k.ellipse(0, 0.52, 0.15, 0.48, c)
    k.polygon([(-0.14, 0.84), (-0.07, 0.98), (0, 1.06), (0.07, 0.98), (0.14, 0.84)], d)
    k.ellipse(0, 0.62, 0.11, 0.11, CREAM)
    k.ellipse(0, 0.62, 0.075, 0.075, LAMP if night else (96, 178, 226), lit=False)
    k.box(-0.1, 0, 0.1, 0.08, (120, 120, 130))


def draw_balloon(k: Canvas, c, d, l, night):
    for side in (-1, 1):
        k.line([(side * 0.24, 0.46), (side * 0.08, 0.14)], WOOD, 0.03)
    for rx, ry, x, y, mouth, shade in ((0.38, 0.38, 0.33, 0.46, 0.09, c), (0.22, 0.37, 0.19, 0.44, 0.05, d),
                                       (0.09, 0.37, 0.08, 0.44, 0.02, l)):
        k.ellipse(0, 0.64, rx, ry, shade)
        k.polygon([(-x, y), (x, y), (mouth, 0.22), (-mouth, 0.22)], shade)
    k.box(-0.11, 0, 0.11, 0.15, WOOD)


def draw_cactus(k: Canvas, c, d, l, night):
    for x, low, high, shade in ((-0.3, 0.34, 0.66, c), (0.3, 0.44, 0.8, d)):
        k.line([(0, low), (x, low), (x, high)], shade, 0.16)
        k.ellipse(x, high, 0.08, 0.08, shade)
        k.ellipse(x, low, 0.08, 0.08, shade)
    k.box(-0.14, 0, 0.14, 0.84, c)
    k.ellipse(0, 0.84, 0.14, 0.14, c)
    k.box(0.04, 0, 0.14, 0.84, d)
    for x in (-0.08, 0.0):
        k.line([(x, 0.08), (x, 0.86)], l, 0.025)
    k.ellipse(0, 0.98, 0.07, 0.05, (255, 250, 235))


def draw_cat(k: Canvas, c, d, l, night):
    k.line([(0.22, 0.08), (0.44, 0.14), (0.48, 0.4), (0.4, 0.52)], d, 0.1)
    k.ellipse(0, 0.26, 0.3, 0.28, c)
    k.box(-0.28, 0, 0.28, 0.2, c)
    k.ellipse(-0.02, 0.2, 0.14, 0.2, l)
    for side in (-1, 1):
        k.polygon([(side * 0.28, 0.7), (side * 0.3, 1.04), (side * 0.06, 0.86)], d)
    k.ellipse(0, 0.68, 0.32, 0.26, c)
    for side in (-1, 1):
        k.ellipse(side * 0.13, 0.71, 0.055, 0.075, INK)
        k.ellipse(side * 0.13 - 0.02, 0.74, 0.02, 0.025, (255, 255, 255))
    k.polygon([(-0.05, 0.61), (0.05, 0.61), (0, 0.56)], (240, 130, 140))


def draw_snowman(k: Canvas, c, d, l, night):
    snow, shade = (250, 252, 255), (206, 218, 234)
    for y, r in ((0.27, 0.29), (0.64, 0.2)):
        k.ellipse(0.02, y - 0.01, r, r, shade)
        k.ellipse(-0.02, y, r - 0.03, r - 0.02, snow)
    k.box(-0.2, 0.44, 0.2, 0.54, c)
    k.polygon([(0.06, 0.5), (0.2, 0.46), (0.22, 0.22), (0.1, 0.22)], d)
    k.box(-0.27, 0.76, 0.27, 0.83, d)
    k.box(-0.17, 0.8, 0.17, 1.08, c)
    for x in (-0.08, 0.08):
        k.ellipse(x, 0.69, 0.03, 0.035, INK)
    k.polygon([(0, 0.65), (0, 0.59), (0.19, 0.61)], (255, 130, 30))
    k.ellipse(-0.02, 0.3, 0.035, 0.035, INK)


PAINTERS = {"house": draw_house, "tree": draw_tree, "boat": draw_boat, "car": draw_car, "mushroom": draw_mushroom,
            "rocket": draw_rocket, "balloon": draw_balloon, "cactus": draw_cactus, "cat": draw_cat,
            "snowman": draw_snowman}
CLASSES = ("sky", "ground", "sun or moon", *PAINTERS)  # the semantic map's numbers, in this order
