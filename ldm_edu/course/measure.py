"""Small tools with which the chapters measure: seeded noise, the peak of living tensors, a smoothed loss."""
from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def seeded(seed: int) -> torch.Generator:
    """Make a CPU generator that always draws the same numbers."""
    return torch.Generator().manual_seed(seed)


class PeakBytes(TorchDispatchMode):
    """Count the bytes of living tensors made inside a `with` block: `now` and the maximum, `peak`. Also on "meta"."""

    def __enter__(self) -> PeakBytes:
        self.now = self.peak = 0
        self._alive: set[int] = set()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = ([leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
                       for tree in ((args, kwargs), result))
        known = self._alive.union(storage._cdata for storage in given)    # _cdata: the address, one for all views
        for storage in made:
            key, size = storage._cdata, storage.nbytes()
            if key not in known:
                known.add(key)
                self._count(key, size)
                weakref.finalize(storage, self._count, key, -size)
        return result

    def _count(self, key: int, size: int) -> None:
        self._alive ^= {key}    # added when it is born, removed when it dies
        self.now += size
        self.peak = max(self.peak, self.now)


def moving_average(values: Sequence[float], width: int) -> np.ndarray:
    """Average each `width` neighbours of `values` (N,): (N - width + 1,), the first from values[:width]."""
    return np.convolve(values, np.ones(width) / width, mode="valid")
