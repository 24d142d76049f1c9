"""Training in several processes under `torchrun`: who am I, and the mean of everybody's gradients."""
from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes: (0, 1) outside of `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def match_layout(like: Tensor, value: Tensor) -> Tensor:
    """Copy `value` into the memory layout of `like`, for example channels last.

    Fused AdamW reads weights, gradients and moments from end to end: in different orders they would be mixed up.
    """
    return torch.empty_like(like).copy_(value)


def average_gradients(parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
    """Replace the gradients by their mean over all processes, in place; return the mean loss."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([loss.detach().view(1), *(grad.flatten() for grad in grads)])    # one message, not hundreds
    dist.all_reduce(flat)
    loss, *parts = (flat / dist.get_world_size()).split([1, *(p.numel() for p in parameters)])
    for p, part in zip(parameters, parts):
        p.grad = match_layout(p, part.view(p.shape))
    return loss[0]
