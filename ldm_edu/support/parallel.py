"""One function on many items, on all CPU cores."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tqdm.auto import tqdm

WORTH_IT = 4000    # items: a new process needs a second or two to start


def in_parallel(function: Callable, items: Sequence, chunk: int = 200) -> Iterator:
    """Yield `function(item)` of each item in order; many are shared out to as many processes as there are CPU cores.

    function: of a module, not of a notebook, because other processes import it.
    """
    if len(items) < WORTH_IT or os.cpu_count() == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:    # forking a process with threads may hang
        results = pool.map(function, items, chunksize=chunk)
        yield from tqdm(results, "scenes on all cores", total=len(items), leave=False)
