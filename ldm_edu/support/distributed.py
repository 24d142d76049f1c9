"""Training in several processes under `torchrun`: rank, device, and the mean of all gradients."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that `torchrun` started, until the end of the block; without `torchrun` do nothing."""
    if "RANK" in os.environ:    # the first process may encode images for long while the others wait
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=2))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes: (0, 1) outside of `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def pick_device() -> torch.device:
    """Choose this process's GPU, or the CPU where there is none."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return torch.device("cpu")
    device = torch.device("cuda", processes()[0] % gpus)
    torch.cuda.set_device(device)    # for the barrier, which takes no device
    return device


def wait_for_all() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


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
