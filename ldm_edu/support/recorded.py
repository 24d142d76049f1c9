"""Steps of training recorded as CUDA graphs: a GPU repeats the thousands of kernels of a step without Python."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Generator

WARM_UP = 3    # steps before a recording, in which libraries choose their kernels and optimizers make their state


class Recorded:
    """Do what `step(generator)` does, recorded after a few calls and replayed from then on.

    step: draws from `generator` alone, reads nothing back from the GPU, and its tensors keep their shapes and places.
    branch: names the way that its Python code takes for a generator; each way is recorded by itself. What is returned
    is written over by the next replay. PyTorch's notes on CUDA graphs: "whole-network capture".
    """

    def __init__(self, step: Callable[[Generator], tuple], branch: Callable[[Generator], Hashable]):
        self.step, self.branch = step, branch
        self.calls, self.recordings = Counter(), {}

    def __call__(self, generator: Generator) -> tuple:
        """Make a step with the numbers that `generator` draws."""
        branch, seed = self.branch(generator), generator.initial_seed()
        self.calls[branch] += 1
        if self.calls[branch] <= WARM_UP:
            return self._beside(generator)
        if branch not in self.recordings:
            self.recordings[branch] = self._record(seed)
        graph, own, result = self.recordings[branch]
        own.manual_seed(seed)
        graph.replay()
        return result

    def _beside(self, generator: Generator) -> tuple:
        """Make a step in another stream, as a recording does."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            result = self.step(generator)
        torch.cuda.current_stream().wait_stream(beside)
        return result

    def _record(self, seed: int) -> tuple:
        graph, own = torch.cuda.CUDAGraph(), Generator("cuda").manual_seed(seed)
        graph.register_generator_state(own)
        with torch.cuda.graph(graph):
            result = self.step(own)
        return graph, own, result
