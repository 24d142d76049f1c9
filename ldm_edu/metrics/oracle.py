"""The oracle: a classifier that reads from a picture everything that a caption could say of it."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import DATA
from ..blocks import ResBlock
from ..support.files import load_weights
from ..tiny_worlds.scenes import GROUNDS, KINDS, PLACES, SIZES, SKIES, WEATHERS, Scene
from ..tiny_worlds.things import COLOURS

ORACLE = DATA / "oracle" / "model.safetensors"
SLOTS = tuple((place, front) for place in PLACES for front in (False, True))  # where a thing may stand
HEADS = (len(SKIES), len(GROUNDS), len(WEATHERS), *(len(KINDS) + 1, len(COLOURS), len(SIZES)) * len(SLOTS))
NOTHING = -100  # the label of an attribute that is not there; cross_entropy ignores it


class Seen(NamedTuple):
    """One thing in a picture, as the oracle reads it."""
    kind: str
    colour: str
    size: str
    place: str
    front: bool


class Reading(NamedTuple):
    """Everything in one picture, as the oracle reads it."""
    sky: str
    ground: str
    weather: str
    things: tuple[Seen, ...]


def labels(scene: Scene) -> Tensor:
    """Number the attributes of a scene: int64 (21,), sky, ground, weather, then kind, colour and size of each slot.

    Kind 0 is "nothing here"; its colour and size are NOTHING.
    """
    answer = [SKIES.index(scene.sky), GROUNDS.index(scene.ground), WEATHERS.index(scene.weather)]
    by_slot = {(thing.place, thing.front): thing for thing in scene.things}
    for slot in SLOTS:
        thing = by_slot.get(slot)
        answer += [0, NOTHING, NOTHING] if thing is None else [
            KINDS.index(thing.kind) + 1, list(COLOURS).index(thing.colour), list(SIZES).index(thing.size)]
    return torch.tensor(answer)


def reading(answer: list[int]) -> Reading:
    """Invert `labels`."""
    things = [Seen(KINDS[kind - 1], list(COLOURS)[colour], list(SIZES)[size], *slot)
              for slot, kind, colour, size in zip(SLOTS, answer[3::3], answer[4::3], answer[5::3]) if kind]
    return Reading(SKIES[answer[0]], GROUNDS[answer[1]], WEATHERS[answer[2]], tuple(things))


class Oracle(nn.Module):
    """Read sky, ground, weather and the thing in each slot from pictures (B, 3, 64, 64) in [-1, 1].

    It is trained on renders alone and shares nothing with the models that it evaluates.
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
        """Compute logits, one (B, classes) per entry of `labels`."""
        h = F.silu(self.hidden(self.features(images)))
        return list(self.heads(h).split(HEADS, dim=1))

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 256) -> list[Reading]:
        """Read each picture."""
        device = self.hidden.weight.device
        best = [torch.stack([logits.argmax(1) for logits in self(part.to(device))], 1) for part in images.split(batch)]
        return [reading(answer) for answer in torch.cat(best).tolist()]

    @classmethod
    def load(cls, path: Path = ORACLE) -> Oracle:
        """Load the trained oracle. Raises FileNotFoundError or ValueError for a missing or damaged file."""
        return load_weights(cls(), path)
