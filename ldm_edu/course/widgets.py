"""Things to play with in a notebook: sliders for any function, and an editor for semantic maps.

Built-in widgets with keyword arguments only: they work with ipywidgets 7 (Colab) and 8.
"""
from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..support.checks import expect
from ..tiny_worlds.landscapes import SUPERSAMPLE
from ..tiny_worlds.things import CLASSES, PAINTERS, Canvas


def explore(draw: Callable[..., Image.Image], **controls) -> widgets.VBox:
    """Make widgets for the arguments of `draw` and show its Pillow image, drawn again at every change.

    A control is a string (a text box), (low, high, start) (a slider, of floats if any is one) or a list (a menu). A
    ValueError of `draw` is shown under the picture.
    """
    boxes = {name: _control(name.replace("_", " "), value) for name, value in controls.items()}
    picture, complaint = widgets.Image(format="png"), widgets.HTML()

    def redraw(_=None):
        _fill(picture, complaint, lambda: draw(**{name: box.value for name, box in boxes.items()}))

    for box in boxes.values():
        box.observe(redraw, names="value")
    redraw()
    return widgets.VBox(children=[*boxes.values(), picture, complaint])


def stamp(semantic_map: Tensor, what: str, x: float, y: float, size: float = 16) -> Tensor:
    """Copy a semantic map, int64 (H, W), with one more shape in it, cut off at the borders.

    what: one of `things.CLASSES`. A thing, about `size` pixels tall, stands with its foot at (x, y), in pixels from the
    left and from the top; the sun is a disc around (x, y), sky and ground are squares. Raises ValueError for an unknown
    class and for a size of 0 or less.
    """
    expect(what in CLASSES, "what", repr(what), f"one of {', '.join(CLASSES)}")
    expect(size > 0, "size", size, "a number of pixels above 0")
    height, width = semantic_map.shape
    fine = SUPERSAMPLE    # as in `landscapes.paint`, so that outlines agree
    canvas = Canvas(Image.new("RGB", (width * fine, height * fine)))
    canvas.place(x * fine, y * fine, size * fine, 1)
    if what in PAINTERS:
        PAINTERS[what](canvas, *[(0, 0, 0)] * 3, False)    # any colours: only the outline counts
    elif what == "sun or moon":
        canvas.ellipse(0, 0, 0.5, 0.5, (0, 0, 0))
    else:
        canvas.box(-0.5, -0.5, 0.5, 0.5, (0, 0, 0))
    covered = torch.from_numpy(np.array(canvas.map)[fine // 2::fine, fine // 2::fine] > 0)
    return torch.where(covered.to(semantic_map.device), CLASSES.index(what), semantic_map)


class MapEditor:
    """Widgets around a semantic map, int64 (H, W): `widget` is what a notebook shows, `semantic_map` the current map.

    A click on a cell stamps what the menu says: a thing with its foot at the cell's lower edge, the rest around its
    centre. The button "draw" shows the Pillow image that `draw` makes of the map, or the text of its ValueError.
    colours: one #RRGGBB for each of `things.CLASSES`. cells: per side of the grid.
    """

    def __init__(self, semantic_map: Tensor, draw: Callable[[Tensor], Image.Image], colours: Sequence[str],
                 cells: int = 8):
        self.draw, self.colours, self.cells = draw, list(colours), cells
        self.history = [semantic_map.clone()]
        self.what = widgets.Dropdown(options=list(CLASSES), value="tree", description="paint")
        self.size = widgets.IntSlider(min=8, max=32, value=20, step=2, description="size")
        self.buttons = [_button("", 30, partial(self.paint, *divmod(i, cells))) for i in range(cells**2)]
        self.actions = {name: _button(name, 90, action) for name, action in (
            ("draw", self.redraw), ("undo", self.undo), ("start over", self.reset))}
        self.map_image, self.picture = (widgets.Image(format="png", width=240, height=240) for _ in range(2))
        self.complaint = widgets.HTML()
        grid = widgets.GridBox(children=self.buttons, layout=widgets.Layout(    # flex: it must not shrink
            grid_template_columns=f"repeat({cells}, 30px)", width=f"{30 * cells + 10}px", flex="none"))
        rows = [self.what, self.size, *self.actions.values()], [grid, self.map_image, self.picture]
        wrap = widgets.Layout(flex_flow="row wrap")
        self.widget = widgets.VBox(children=[*(widgets.HBox(children=r, layout=wrap) for r in rows), self.complaint])
        self.reset()

    @property
    def semantic_map(self) -> Tensor:
        """The current map, int64 (H, W)."""
        return self.history[-1]

    def paint(self, row: int, column: int) -> None:
        """Stamp what the menu says on a cell, counted from the upper left."""
        height, width = (side / self.cells for side in self.semantic_map.shape)
        down = 1.0 if self.what.value in PAINTERS else 0.5
        self.history.append(stamp(self.semantic_map, self.what.value, (column + 0.5) * width, (row + down) * height,
                                  self.size.value))
        self._show()

    def undo(self) -> None:
        """Take back the last stamp, if there is one."""
        del self.history[max(1, len(self.history) - 1):]
        self._show()

    def reset(self) -> None:
        """Go back to the first map and draw it."""
        del self.history[1:]
        self._show()
        self.redraw()

    def redraw(self) -> None:
        """Show the model's picture of the map, or its complaint."""
        _fill(self.picture, self.complaint, lambda: self.draw(self.semantic_map))

    def _show(self) -> None:
        height, width = (side // self.cells for side in self.semantic_map.shape)
        blocks = self.semantic_map.cpu().unfold(0, height, height).unfold(1, width, width).flatten(2)
        for button, number in zip(self.buttons, blocks.mode(2).values.flatten().tolist()):    # a cell's commonest class
            button.style.button_color, button.tooltip = self.colours[number], CLASSES[number]
        rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in self.colours], np.uint8)
        pixels = Image.fromarray(rgb[self.semantic_map.cpu().numpy()])
        _fill(self.map_image, self.complaint, lambda: pixels.resize((256, 256), Image.Resampling.NEAREST))


def _fill(picture: widgets.Image, complaint: widgets.HTML, draw: Callable[[], Image.Image]) -> None:
    """Show in `picture` what `draw` returns, or in `complaint` the ValueError that it raises."""
    try:
        buffer = io.BytesIO()
        draw().save(buffer, "PNG")
        picture.value, complaint.value = buffer.getvalue(), ""
    except ValueError as error:
        complaint.value = f"<b>{error}</b>"


def _control(name: str, value: str | list | tuple) -> widgets.Widget:
    if isinstance(value, str):
        layout = widgets.Layout(width="95%")
        return widgets.Text(value=value, description=name, continuous_update=False, layout=layout)
    if isinstance(value, list):
        return widgets.Dropdown(options=value, value=value[0], description=name)
    low, high, start = value
    slider = widgets.FloatSlider if any(isinstance(v, float) for v in value) else widgets.IntSlider
    return slider(min=low, max=high, value=start, description=name, continuous_update=False)


def _button(name: str, width: int, action: Callable[[], None]) -> widgets.Button:
    layout = widgets.Layout(width=f"{width}px", height="30px", margin="0px", padding="0px")
    button = widgets.Button(description=name, layout=layout)
    button.on_click(lambda _: action())
    return button
