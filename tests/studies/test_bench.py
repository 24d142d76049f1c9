"""The benchmark: which way its ratio goes, on a clock that the test turns; and that its commands run."""
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from ldm_edu.studies import bench
from ldm_edu.studies.__main__ import main
from ldm_edu.unet import UNet


def test_a_ratio_above_one_says_that_we_are_faster(monkeypatch):
    clock, calls = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(name, seconds):
        def call():
            calls.append(name)
            clock.now += seconds
        return call

    found = bench.side_by_side(takes("ours", 2.0), takes("theirs", 5.0), pairs=3)
    assert found == pytest.approx((2.0, 5.0, 2.5))
    assert calls == ["ours", "theirs"] + ["ours", "theirs", "theirs", "ours", "ours", "theirs"]    # one to warm up


def test_a_step_of_training_is_compared_in_every_precision(capsys, monkeypatch):
    """What the U-Net gives is rounded to bfloat16 where the row says so, and nowhere else."""
    threads, seen = torch.get_num_threads(), []
    monkeypatch.setattr(bench, "compare_training", partial(bench.compare_training, batch=4))
    hook = register_module_forward_hook(lambda module, _, out: seen.append(out.dtype) if type(module) is UNet else None)
    try:
        main(["bench", "--train", "--pairs", "1", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
        hook.remove()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["medium", "bfloat16"]
    assert all(row.startswith("| **") and row.count(" ms |") == 2 for row in rows)
    # of each comparison: both to warm up, then both
    assert seen[:4] == [torch.float32] * 4
    assert sorted(map(str, seen[4:])) == ["torch.bfloat16"] * 2 + ["torch.float32"] * 2
    assert torch.get_float32_matmul_precision() == "highest"
