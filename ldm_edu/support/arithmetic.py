"""How matrix products are computed while training: float32, oneDNN's "medium", bfloat16."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PRECISIONS = ("float32", "medium", "bfloat16")


@contextmanager
def arithmetic(precision: str, device: str = "cpu") -> Iterator[None]:
    """Compute forward and backward passes in one of PRECISIONS, on a "cpu" or "cuda" device.

    "medium" lets oneDNN multiply, which may round factors to bfloat16; on AMD's AVX-512 it is as exact as float32, and
    faster. "bfloat16" is autocast, which pays on GPUs and on CPUs with AMX. `studies bench --train` compares them.
    """
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        if precision == "medium":
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("medium")
        if precision != "float32" and device == "cpu":    # the fused attention kernel is several times slower there
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
