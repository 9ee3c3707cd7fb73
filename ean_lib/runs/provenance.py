"""Provenance: what a reader needs to judge or repeat a number."""

import os
import platform
import secrets
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ean_lib.devices import device_name


def environment() -> dict[str, Any]:
    """Versions, device, threads, command and git commit: what a reader needs to judge or repeat a number."""
    from ean_lib import __version__

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f"Z-{os.getpid()}.{PROCESS}",
        "python": platform.python_version(),
        "versions": {"ean_lib": __version__} | {name: version(name) for name in PACKAGES},
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "threads": torch.get_num_threads(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        return subprocess.run(describe, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


# Beside its id, as two containers can have processes of one id.
PROCESS = secrets.token_hex(2)
PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "optuna")
