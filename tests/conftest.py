"""Settings for every test, set before torch is imported; notebooks' kernels inherit them."""
import os
import sys

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin: on busy cores
os.environ.setdefault("GOMP_SPINCOUNT", "0")         # that makes torch 50 times slower
os.environ["HF_HUB_OFFLINE"] = "1"                   # whatever asks the network is a bug
os.environ.pop("MPLBACKEND", None)                   # notebooks draw inline
if os.environ.get("VIRTUAL_ENV", sys.prefix) != sys.prefix:
    del os.environ["VIRTUAL_ENV"]                    # IPython would import from that environment


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))
        if "gpu" in item.keywords and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def _cuda() -> bool:
    import torch
    return torch.cuda.is_available()
