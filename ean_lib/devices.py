"""Where the work is done: one function decides about devices for all."""

import os
import platform
from pathlib import Path

import torch


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one. A `ValueError` says where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        advice = "try 'cpu', or 'auto', which takes a GPU if there is one"
        raise ValueError(f"there is no device {str(device)!r} here ({reason}): {advice}") from None


def device_name(device: str) -> str:
    """The marketing name of the GPU, or of the CPU with its number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
