"""The benchmark: which way its ratio goes, on a clock that the test turns; and that its commands run."""
from types import SimpleNamespace

import pytest
import torch

from ldm_edu import bench


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


def test_a_step_of_training_is_compared(capsys):
    threads = torch.get_num_threads()
    try:
        bench.main(["--train", "--pairs", "1", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| **") and "a step of training" in last and last.count(" ms |") == 2
    assert torch.get_float32_matmul_precision() == "highest"
