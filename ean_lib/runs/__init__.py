"""Run folders: what was asked, what came out, and enough to go on after a crash."""

from ean_lib.runs.config import read_config
from ean_lib.runs.files import load_weights, read_json, rebuild, save_weights, to_json, write_atomically
from ean_lib.runs.provenance import environment
from ean_lib.runs.run import BusyError, Run
from ean_lib.runs.runtime import Runtime

__all__ = [
    "BusyError",
    "Run",
    "Runtime",
    "environment",
    "load_weights",
    "read_config",
    "read_json",
    "rebuild",
    "save_weights",
    "to_json",
    "write_atomically",
]
