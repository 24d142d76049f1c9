"""The chapters' measuring tools count what is computed by hand, and what torch's own profiler counts."""
import gc
import itertools

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from ldm_edu.course import measure
from ldm_edu.course.measure import PeakBytes, moving_average, seeded
from ldm_edu.course.sync import ROOT, definitions
from ldm_edu.samplers import ddpm
from ldm_edu.schedule import cosine_schedule, timesteps

KB = 1000 * 4    # bytes of 1000 float32 numbers


def test_one_seed_gives_the_same_numbers():
    assert torch.equal(torch.randn(9, generator=seeded(3)), torch.randn(9, generator=seeded(3)))
    assert not torch.equal(torch.randn(9, generator=seeded(3)), torch.randn(9, generator=seeded(4)))


def test_living_tensors_are_counted_once_and_only_while_they_live():
    before = torch.ones(1000)
    with PeakBytes() as memory:
        a = before + 1
        assert (memory.now, memory.peak) == (1 * KB, 1 * KB)
        views = before.view(10, 100).T, a[:500], a.detach()        # share what is there already
        before.mul_(2)                                             # in place
        assert (memory.now, memory.peak) == (1 * KB, 1 * KB)
        b = a * a + a                                              # a, a * a and the sum live at once
        assert (memory.now, memory.peak) == (2 * KB, 3 * KB)
        del a
        assert memory.now == 2 * KB, "views keep it alive"
        del views, b
        assert (memory.now, memory.peak) == (0, 3 * KB)
    with memory:
        assert (memory.now, memory.peak) == (0, 0)


def test_a_linear_layer_and_its_gradients():
    """Forward: 8 × 50 outputs. Backward: as many gradients of the outputs, then those of weight and bias."""
    net, x = torch.nn.Linear(100, 50), torch.ones(8, 100)
    with PeakBytes() as memory:
        y = net(x)
        assert memory.peak == 4 * 8 * 50
        y.backward(torch.ones_like(y))
        assert memory.now == 4 * (2 * 8 * 50 - 8 * 50 + 50 * 100 + 50), "the gradient of the outputs is gone"


def test_shapes_without_numbers_are_counted_as_numbers_are():
    def work(device):
        q, k, v = torch.zeros(3, 2, 4, 16, 8, device=device)
        with PeakBytes() as memory:
            (q @ k.mT).softmax(-1) @ v
        return memory.peak

    assert work("meta") == work("cpu") == 4 * 2 * 4 * 2 * 16 * 16    # scores and their softmax


def profiled_peak(work) -> int:
    """The largest sum of bytes that torch's CPU allocator had given out since the beginning of `work`."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        work()
    events = sorted((e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"),
                    key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize("gradient", [False, True])
def test_it_agrees_with_torchs_profiler(gradient):
    weights, x = torch.ones(64, 64, requires_grad=gradient), torch.ones(32, 64)

    def work():
        y = x
        for _ in range(5):
            y = F.silu(y @ weights)
        if gradient:
            y.square().mean().backward()

    expected = profiled_peak(work)
    weights.grad = None
    with PeakBytes() as memory:
        work()
    assert memory.peak == pytest.approx(expected, rel=0.01)


def test_sampling_is_flat_in_the_number_of_steps_unless_the_steps_are_kept():
    def peak(steps: int, work) -> int:
        schedule, x = cosine_schedule(100), torch.randn(4, 3, 32, 32, generator=seeded(0))
        with PeakBytes() as memory:
            work(ddpm(lambda x, t: torch.tanh(x), x, schedule, timesteps(steps, 100), generator=seeded(0)))
        return memory.peak

    def forgetting(run):
        for step in run:
            del step

    x = 4 * 4 * 3 * 32 * 32
    assert peak(50, forgetting) < 1.01 * peak(5, forgetting) < 10 * x
    assert peak(50, list) - peak(5, list) == pytest.approx(45 * 3 * x, rel=0.01)    # x, x0 and eps of each step


def test_a_moving_average_is_that_of_its_neighbours():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    assert np.allclose(moving_average(values, 2), [2.0, 2.5, 2.5, 3.0]) and len(moving_average(values, 5)) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_has_a_copy_of_them(path):
    ours = {name for name, value in vars(measure).items() if getattr(value, "__module__", "") == measure.__name__}
    assert ours == {"seeded", "PeakBytes", "moving_average"}
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert {definition.name for source in cells for definition in definitions(source)} & ours == set()
