"""Every picture of the series: grids, strips, animations, the map of the chapters, and widgets.

`python -m ldm_edu.viz data/tiny-worlds` draws the figures of the README into data/samples.
"""
from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..tiny_worlds.things import CLASSES, PAINTERS, Canvas


def explore(draw: Callable[..., Image.Image], **controls):
    """Widgets for the arguments of `draw`, whose Pillow image is shown and redrawn at every change.

    A control is a string (a text box), (low, high, start) (a slider: of floats if any is one) or a list (a menu).
    What `draw` raises as ValueError is shown under the picture. Works with ipywidgets 7 and 8.
    """
    import ipywidgets as widgets

    def widget(name: str, value):
        style = {"description": name.replace("_", " "), "continuous_update": False}
        if isinstance(value, str):
            return widgets.Text(value=value, layout=widgets.Layout(width="95%"), **style)
        if isinstance(value, list):
            return widgets.Dropdown(options=value, value=value[0], description=style["description"])
        low, high, start = value
        slider = widgets.FloatSlider if any(isinstance(v, float) for v in value) else widgets.IntSlider
        return slider(min=low, max=high, value=start, **style)

    boxes = {name: widget(name, value) for name, value in controls.items()}
    picture, complaint = widgets.Image(format="png"), widgets.HTML()

    def redraw(_=None):
        try:
            buffer = io.BytesIO()
            draw(**{name: box.value for name, box in boxes.items()}).save(buffer, "PNG")
            picture.value, complaint.value = buffer.getvalue(), ""
        except ValueError as error:
            complaint.value = f"<b>{error}</b>"

    for box in boxes.values():
        box.observe(redraw, names="value")
    redraw()
    return widgets.VBox(children=[*boxes.values(), picture, complaint])


_FINE = 4    # shapes are drawn so many times as large and then sampled, as `landscapes.paint` does


def stamp(semantic_map: Tensor, what: str, x: float, y: float, size: float = 16) -> Tensor:
    """A copy of a semantic map, int64 (H, W), with one more shape in it.

    what: one of `things.CLASSES`. A thing stands with its foot at (x, y), pixels from the left and from the top, and
    is about `size` pixels tall; the sun is a disc about (x, y), sky and ground are a square. What lies outside of the
    map is cut off. Raises ValueError for another shape or dtype, for an unknown class and for a size that is not above
    0.
    """
    if semantic_map.ndim != 2 or semantic_map.is_floating_point():
        raise ValueError(f"semantic_map: got {semantic_map.dtype} of shape {tuple(semantic_map.shape)}, expected "
                         "integers (height, width)")
    if what not in CLASSES:
        raise ValueError(f"what: got {what!r}, expected one of {', '.join(CLASSES)}")
    if isinstance(size, bool) or not isinstance(size, Real) or not 0 < size < float("inf"):
        raise ValueError(f"size: got {size!r}, expected a number of pixels above 0")
    height, width = semantic_map.shape
    canvas = Canvas(Image.new("RGB", (width * _FINE, height * _FINE)))
    canvas.place(x * _FINE, y * _FINE, size * _FINE, 1)
    if what in PAINTERS:
        PAINTERS[what](canvas, *[(0, 0, 0)] * 3, False)    # colours do not matter, only where they land
    elif what == "sun or moon":
        canvas.ellipse(0, 0, 0.5, 0.5, (0, 0, 0))
    else:
        canvas.box(-0.5, -0.5, 0.5, 0.5, (0, 0, 0))
    covered = torch.from_numpy(np.array(canvas.map)[_FINE // 2::_FINE, _FINE // 2::_FINE] > 0)
    return torch.where(covered.to(semantic_map.device), CLASSES.index(what), semantic_map)


class MapEditor:
    """Widgets around a semantic map; `widget` is what a notebook shows, `semantic_map` (H, W) the map as it is now.

    A click on a cell of the grid stamps what the menu says there, a thing with its foot at the cell's lower edge, the
    rest about the cell's centre. "draw" asks `draw`, a function of the map that gives a Pillow image; what it raises as
    ValueError is shown. colours: one for each of `things.CLASSES`, written #RRGGBB. cells: of the
    grid, along a side. Raises ValueError as `stamp` does, for another number of colours and
    for more cells than pixels.
    """

    def __init__(self, semantic_map: Tensor, draw: Callable[[Tensor], Image.Image], colours: Sequence[str],
                 cells: int = 8):
        import ipywidgets as widgets

        if len(colours) != len(CLASSES):
            raise ValueError(f"colours: got {len(colours)}, expected {len(CLASSES)}, one a class")
        stamp(semantic_map, "sky", 0, 0)    # raises for what is no map
        if isinstance(cells, bool) or not isinstance(cells, int) or not 1 <= cells <= min(semantic_map.shape):
            raise ValueError(f"cells: got {cells!r}, expected an integer from 1 to {min(semantic_map.shape)}")
        self.draw, self.colours, self.cells = draw, list(colours), cells
        self.history = [semantic_map.clone()]
        self.what = widgets.Dropdown(options=list(CLASSES), value="tree", description="paint")
        self.size = widgets.IntSlider(min=8, max=32, value=20, step=2, description="size")
        self.buttons = [_button("", 30, partial(self.paint, *divmod(i, cells))) for i in range(cells**2)]
        self.actions = {name: _button(name, 90, action) for name, action in (
            ("draw", self.redraw), ("undo", self.undo), ("start over", self.reset))}
        self.map_image, self.picture = (widgets.Image(format="png", width=240, height=240) for _ in range(2))
        self.complaint = widgets.HTML()
        columns = widgets.Layout(grid_template_columns=f"repeat({cells}, 30px)", width=f"{30 * cells + 10}px")
        grid = widgets.GridBox(children=self.buttons, layout=columns)
        self.widget = widgets.VBox(children=[
            widgets.HBox(children=[self.what, self.size, *self.actions.values()]),
            widgets.HBox(children=[grid, self.map_image, self.picture]), self.complaint])
        self._show()
        self.redraw()

    @property
    def semantic_map(self) -> Tensor:
        """The map as it is now, int64 (H, W)."""
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
        """Back to the map at the beginning."""
        del self.history[1:]
        self._show()

    def redraw(self) -> None:
        """The model's picture of the map, or what it complains about."""
        try:
            self.picture.value, self.complaint.value = _png(self.draw(self.semantic_map)), ""
        except ValueError as error:
            self.complaint.value = f"<b>{error}</b>"

    def _show(self) -> None:
        for button, number in zip(self.buttons, _commonest(self.semantic_map, self.cells)):
            button.style.button_color, button.tooltip = self.colours[number], CLASSES[number]
        rgb = [[int(colour[i:i + 2], 16) for i in (1, 3, 5)] for colour in self.colours]
        pixels = np.array(rgb, np.uint8)[self.semantic_map.cpu().numpy()]
        self.map_image.value = _png(Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST))


def _button(name: str, width: int, action: Callable[[], None]):
    import ipywidgets as widgets

    button = widgets.Button(description=name, layout=widgets.Layout(
        width=f"{width}px", height="30px", margin="0px", padding="0px"))
    button.on_click(lambda _: action())
    return button


def _commonest(semantic_map: Tensor, cells: int) -> list[int]:
    """The commonest class of each cell of a grid, row by row."""
    height, width = (side // cells for side in semantic_map.shape)
    blocks = semantic_map.cpu().unfold(0, height, height).unfold(1, width, width).flatten(2)
    return blocks.mode(2).values.flatten().tolist()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
