"""Models without weights: built in no time, to be filled from a file."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Draws no initial weights. On the meta device drawing would import torch._dynamo, for seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model on the meta device: shapes only, no memory, no random numbers."""
    with torch.device("meta"), _Undrawn():
        return build()
