"""What there is to compute on: which device to take, its name, its free memory."""
from __future__ import annotations

import platform
from pathlib import Path

import psutil
import torch


def pick_device() -> str:
    """Return the fastest device that PyTorch finds: "cuda", "mps" (a Mac's GPU, which has no float64) or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(device: str | torch.device) -> str:
    """Name what a device computes with."""
    if (kind := torch.device(device).type) != "cpu":
        return torch.cuda.get_device_name(device) if kind == "cuda" else "a Mac's GPU"
    info = Path("/proc/cpuinfo")    # platform.processor() knows no more than "x86_64" on Linux
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {torch.get_num_threads()} threads"


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
