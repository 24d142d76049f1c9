"""How well semantic maps agree."""
import pytest
import torch
from torch import Tensor

from ldm_edu.metrics.segmenter import mean_iou
from ldm_edu.tiny_worlds.datasets import render
from ldm_edu.tiny_worlds.things import CLASSES


def iou_by_loops(found: Tensor, given: Tensor) -> float:
    ious = []
    for c in range(len(CLASSES)):
        pairs = [(f == c, g == c) for f, g in zip(found.flatten().tolist(), given.flatten().tolist())]
        either = sum(f or g for f, g in pairs)
        if either:
            ious.append(sum(f and g for f, g in pairs) / either)
    return sum(ious) / len(ious)


@pytest.mark.parametrize("classes", [2, 7, len(CLASSES)])
def test_mean_iou_equals_loops(classes):
    generator = torch.Generator().manual_seed(classes)
    given = torch.randint(classes, (3, 9, 7), generator=generator)
    found = torch.where(torch.rand(given.shape, generator=generator) < 0.7, given,
                        torch.randint(len(CLASSES), given.shape, generator=generator))
    assert mean_iou(found, given) == pytest.approx(iou_by_loops(found, given))
    assert mean_iou(given, given) == 1 and mean_iou(given.byte().long(), given) == 1


def test_a_shifted_map_agrees_less_the_further_it_is_shifted():
    given = render("validation", 4)[1].long()
    scores = [mean_iou(given.roll(shift, 2), given) for shift in (0, 1, 4, 16)]
    assert scores[0] == 1 and scores == sorted(scores, reverse=True) and scores[3] < 0.6
