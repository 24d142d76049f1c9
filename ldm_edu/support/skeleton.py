"""Models without weights: built in no time, to be filled from a file."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Skip `nn.init` and all random draws. On the meta device a draw would import torch._dynamo, for seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model on the meta device: shapes only, no memory, no random numbers."""
    with torch.device("meta"), _Undrawn():
        return build()
