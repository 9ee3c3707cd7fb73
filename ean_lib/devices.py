"""Where the work is done: one place decides about devices, and about processes that work together, for all."""

import os
import platform
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

# Instructions for bf16 in the words of /proc/cpuinfo, on x86 and on ARM.
CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one.

    ``accelerate launch --cpu`` makes "auto" the CPU.

    Raises:
        ValueError: if there is no such device here, or it holds no numbers (torch's "meta").
    """
    if isinstance(device, str) and device == "auto":
        wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")
        device = "cuda" if torch.cuda.is_available() and not wants_cpu else "cpu"
    try:
        found = torch.empty(1, device=device).device  # "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise _no_device(device, reason) from None
    if found.type == "meta":
        raise _no_device(device, "its tensors hold no numbers")
    return found


def _no_device(device: object, reason: str) -> ValueError:
    advice = "try 'cpu', or 'auto', which takes a GPU if there is one"
    return ValueError(f"there is no device {str(device)!r} here ({reason}): {advice}")


def find_processes(device: str | torch.device) -> tuple[torch.device, PartialState]:
    """This process's device, and the processes that work together: one, or as many as the launcher has started.

    Args:
        device: as in `find_device`. Where several processes work together, each has a GPU of its own, or all have the
            CPU, so only the kind of device counts.

    Raises:
        ValueError: as `find_device`, and if the processes have joined on another kind of device before.
    """
    own = find_device(device)
    processes = PartialState(cpu=own.type == "cpu")  # the first call joins the processes, later ones look that up
    if processes.num_processes == 1:
        return own, processes
    if processes.device.type != own.type:
        kinds = f"on {processes.device.type}, and cannot change to {own.type}"
        raise ValueError(f"this program's processes have joined {kinds}: use one device for all, or start it anew")
    return processes.device, processes


def find_precision(device: str | torch.device) -> Literal["bf16", "fp32"]:
    """bf16 where the device has instructions for it, so that it pays: a rule, as a timing would differ from day to day.

    CPUs: AVX512-BF16, AMX or ARM's BF16, as Linux lists them. GPUs: from NVIDIA's Ampere on.
    """
    device = find_device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and CPU_BF16_FLAGS & set(_cpu_info("flags", "Features").split()):
        return "bf16"
    return "fp32"


def device_name(device: str) -> str:
    """The marketing name of the GPU, or of the CPU with its number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = _cpu_info("model name") or platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _cpu_info(*keys: str) -> str:
    """What Linux says of the first processor under one of the keys; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""
