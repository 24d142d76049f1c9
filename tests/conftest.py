"""Settings for every test, set before torch is imported; notebooks' kernels inherit them."""
import os
import sys
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin: on busy cores
os.environ.setdefault("GOMP_SPINCOUNT", "0")         # that makes torch 50 times slower
os.environ["HF_HUB_OFFLINE"] = "1"                   # whatever asks the network is a bug
os.environ.pop("MPLBACKEND", None)                   # notebooks draw inline
if os.environ.get("VIRTUAL_ENV", sys.prefix) != sys.prefix:
    del os.environ["VIRTUAL_ENV"]                    # IPython would import from that environment


ROWS = pytest.StashKey[list]()  # of the sampler parity table


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))
        if "gpu" in item.keywords and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def nothing_mapped_is_replaced(monkeypatch):
    """Windows refuses to replace a file that is still mapped into memory; Linux, which does not, tells what is."""
    replace, maps = os.replace, Path("/proc/self/maps")

    def guarded(source, target):
        mapped = maps.read_text() if maps.exists() else ""
        assert not any(f"{Path(path).resolve()}" in mapped for path in (source, target)), f"{target} is mapped"
        replace(source, target)
    monkeypatch.setattr(os, "replace", guarded)


@pytest.fixture(autouse=True)
def no_mac_gpu(monkeypatch):
    """It rounds otherwise than a CPU, which is what all figures and most references come from."""
    monkeypatch.setattr("torch.backends.mps.is_available", cache(lambda: False))    # torch expects a cached function


@pytest.fixture(scope="session")
def running():
    """One kernel for all tests; each cleans up before it begins."""
    from kernel import Kernel
    kernel = Kernel()
    yield kernel
    kernel.stop()


@pytest.fixture
def parity(request):
    """Asserts that error(n) <= tolerance for each number of steps, and gives the worst a row of the table below."""
    def compare(sampler: str, spacing: str, reference: str, steps, error, tolerance: float):
        errors = {n: error(n) for n in steps}
        worst = max(errors, key=lambda n: (errors[n] != errors[n], errors[n]))  # NaN is the worst of all
        verdict = "ok" if errors[worst] <= tolerance else "FAILED"
        counts = f"{len(errors)} from {min(errors)} to {max(errors)}" if len(errors) > 1 else str(worst)
        request.config.stash.setdefault(ROWS, []).append(
            f"{sampler:15} {spacing:10} {reference:30} {counts:17} {errors[worst]:8.1e} {tolerance:8.0e}  {verdict}")
        assert verdict == "ok", f"{errors[worst]} with {worst} steps"
    return compare


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash.get(ROWS, []):
        terminalreporter.section("samplers: largest error of any x, relative to its root mean square")
        terminalreporter.write_line(f"{'sampler':15} {'spacing':10} {'against':30} {'numbers of steps':17} "
                                    f"{'error':>8} {'allowed':>8}")
        for row in rows:
            terminalreporter.write_line(row)


def _cuda() -> bool:
    import torch
    return torch.cuda.is_available()
