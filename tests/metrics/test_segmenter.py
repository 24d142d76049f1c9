"""Overlaps of maps against sets of pixels."""

import pytest
import torch

from ldm_edu.metrics.segmenter import map_overlap


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_overlap_against_sets(threshold):
    heat, mask = randn(3, 8, 8).exp(), randn(3, 8, 8, seed=1) > 0.5
    iou, hit = map_overlap(heat, mask, threshold)
    for i in range(3):
        pixels = [(y, x) for y in range(8) for x in range(8)]
        values = {pixel: heat[i][pixel].item() for pixel in pixels}
        least, most = min(values.values()), max(values.values())
        found = {pixel for pixel in pixels if values[pixel] > least + threshold * (most - least)}
        true = {pixel for pixel in pixels if mask[i][pixel]}
        assert iou[i].item() == pytest.approx(len(found & true) / len(found | true))
        assert hit[i].item() == (max(values, key=values.get) in true)


def test_overlap_of_easy_maps():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :2] = True
    assert [value.item() for value in map_overlap(mask.float(), mask)] == [1, True]
    assert [value.item() for value in map_overlap(1 - mask.float(), mask)] == [0, False]
    half = torch.zeros(1, 4, 4)
    half[0, 0, :] = 0.01    # two pixels on the mask, two beside it: small weights count as much
    assert map_overlap(half, mask)[0].item() == pytest.approx(2 / 6)
