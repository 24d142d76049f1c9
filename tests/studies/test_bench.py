"""The benchmark: which way its ratio goes, on a clock that the test turns; and that its commands run."""
from types import SimpleNamespace

import pytest

from ldm_edu.studies import bench


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
