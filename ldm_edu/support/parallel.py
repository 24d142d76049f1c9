"""One function on many items, on all CPU cores."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from tqdm.auto import tqdm

WORTH_IT = 4000    # items: a new process needs a second or two to start


def in_parallel(function: Callable, items: Sequence, chunk: int = 200) -> Iterator:
    """Yield `function(item)` of each item in order; many are shared out to as many processes as torch has threads.

    function: of a module, not of a notebook, because other processes import it.
    """
    workers = torch.get_num_threads()
    if len(items) < WORTH_IT or workers == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:    # forking threads may hang
        yield from tqdm(pool.map(function, items, chunksize=chunk), "scenes", total=len(items), leave=False)
