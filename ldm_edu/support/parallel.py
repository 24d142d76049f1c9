"""One function on many items, on all CPU cores."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
from tqdm.auto import tqdm

WORTH_IT = 4000    # items: a new process needs a second or two to start


def in_parallel(function: Callable, items: Sequence, chunk: int = 200) -> Iterator:
    """Yield `function(item)` of each item in order; many are shared out to as many processes as torch has threads.

    function: of a module, not of a notebook, because other processes import it. Close it to stop early, after Ctrl-C.
    """
    workers, few = torch.get_num_threads(), len(items) < WORTH_IT
    show = partial(tqdm, desc="scenes", total=len(items), leave=False, disable=few)
    if few or workers == 1:
        yield from show(map(function, items))
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"))    # forking threads may hang
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)    # the new processes inherit it: Ctrl-C is for this one
    try:
        results = pool.map(function, items, chunksize=chunk)
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        yield from show(results)
    finally:
        for process in [*pool._processes.values()]:    # Python 3.14 has terminate_workers()
            process.terminate()
        pool.shutdown(cancel_futures=True)
