"""The segmenter: reads a picture back into a semantic map, to compare it with the map it was drawn from."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import DATA
from ..blocks import Downsample, ResBlock, Upsample
from ..support.files import load_weights
from ..tiny_worlds.things import CLASSES

SEGMENTER = DATA / "segmenter" / "model.safetensors"


class Segmenter(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> logits of the classes of a semantic map, (B, 13, H, W); H, W divisible by 4.

    A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597), trained on renders alone. Like the oracle it shares
    nothing with the models that it evaluates.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 48, 96)):
        super().__init__()
        a, b, c = widths
        self.conv_in = nn.Conv2d(3, a, 3, padding=1)
        self.down = nn.ModuleList([ResBlock(a, a, groups=8), ResBlock(a, b, groups=8), ResBlock(b, c, groups=8)])
        self.shrink = nn.ModuleList([Downsample(a), Downsample(b)])
        self.middle = ResBlock(c, c, groups=8)
        self.grow = nn.ModuleList([Upsample(c), Upsample(b)])
        self.up = nn.ModuleList([ResBlock(c + b, b, groups=8), ResBlock(b + a, a, groups=8)])
        self.conv_out = nn.Conv2d(a, len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down[0](self.conv_in(x))                                              # (B, a, H, W)
        half = self.down[1](self.shrink[0](fine))                                         # (B, b, H/2, W/2)
        h = self.middle(self.down[2](self.shrink[1](half)))                               # (B, c, H/4, W/4)
        h = self.up[0](torch.cat([self.grow[0](h), half], 1))
        return self.conv_out(self.up[1](torch.cat([self.grow[1](h), fine], 1)))

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 64) -> Tensor:
        """Find the likeliest class of every pixel: (B, 3, H, W) -> int64 (B, H, W), on the CPU."""
        device = self.conv_in.weight.device
        return torch.cat([self(part.to(device)).argmax(1).cpu() for part in images.split(batch)])

    @classmethod
    def load(cls, path: Path = SEGMENTER) -> Segmenter:
        """Load the trained segmenter. Raises FileNotFoundError or ValueError for a missing or damaged file."""
        return load_weights(cls(), path)


def mean_iou(found: Tensor, given: Tensor, classes: int = len(CLASSES)) -> float:
    """Average the intersection over union of the classes that occur in two stacks of semantic maps (B, H, W): 0...1."""
    counts = torch.bincount((given * classes + found).flatten().cpu(), minlength=classes**2).double()
    counts = counts.view(classes, classes)
    both, either = counts.diag(), counts.sum(0) + counts.sum(1) - counts.diag()
    return (both / either)[either > 0].mean().item()


def map_overlap(heat: Tensor, mask: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Compare heat maps with true masks, bool, both (B, H, W): their IoU (B,), and whether the maximum hits (B,).

    A pixel is found if it lies above `threshold` of the way from the map's minimum to its maximum.
    """
    heat, mask = heat.flatten(1), mask.flatten(1)
    least, most = heat.amin(1, keepdim=True), heat.amax(1, keepdim=True)
    found = heat > least + threshold * (most - least)
    iou = (found & mask).sum(1) / (found | mask).sum(1)
    return iou, mask.gather(1, heat.argmax(1, keepdim=True))[:, 0]
