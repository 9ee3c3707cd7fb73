"""Run folders: what was asked, what came out, and enough to go on after a crash.

    config.json          everything that decides the result; the same command finds its own folder again
    provenance.json      versions, device, threads, git commit, data checksum, and when it ran for how long
    metrics.jsonl        one JSON object per line: epochs of a training, rewards of a search
    checkpoint.pt        weights, optimiser and generator states; only while unfinished
    weights.safetensors  the final weights
    result.json          the outcome; its presence means the run is finished

Files are written beside their place and renamed into it, so a reader, or a crash, never sees half a file. All but
the provenance is a function of the configuration: an interrupted run ends with the same bits as an uninterrupted one.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "optuna")
Record = Mapping[str, Any]  # a JSON object


class BusyError(ValueError):
    """Another process is working in the run folder."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that at every moment either the old or the new content is there, and nothing half written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """JSON as it stands in a run folder: indented, ending with a newline."""
    return json.dumps(value, indent=1, default=str) + "\n"


def read_json(path: Path) -> Any:
    """Parse a JSON file; a ValueError names the file where it is not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}); restore it, or start in another folder") from None


def rebuild(kind: type, record: Record) -> Any:
    """A dataclass of options from its JSON form, which knows lists only where there were tuples."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()})


def save_weights(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors, which hold numbers only and run no code when loaded."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    write_atomically(path, to_safetensors(tensors))


def load_weights(path: Path | str, advice: str = "get it again, or redo the run") -> dict[str, Any]:
    """Read a file of weights, safetensors or PyTorch's own, to the CPU; code that may be in it is not run.

    Args:
        path: of the file.
        advice: what to do where it is broken, for the error.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is truncated, or holds more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}; is the path right, and the run finished?")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"{path} is not a whole file of plain weights ({reason}; code in it is not run)"
        raise ValueError(f"{what}: {advice}") from None


class Run:
    """One run's folder: created for a configuration, or continued where the configuration is the same.

    Args:
        path: the folder.
        config: all that decides the result.
        provenance: noted beside versions and hardware.
        writer: False in all processes of a distributed run but the first; they only read.

    Raises:
        ValueError: if the folder holds a run of another configuration, or other files.
        BusyError: if the run is going on now, in another process.
        OSError: if it cannot be written.
    """

    def __init__(self, path: Path | str, config: Record, provenance: Record | None = None, writer: bool = True) -> None:
        self.path = path = Path(path)
        self._lock: FileLock | None = None  # None: this process only reads
        config_file = path / "config.json"
        if path.exists() and not path.is_dir():
            raise ValueError(f"the run folder {path} is a file; choose another --out")
        begun = any((path / name).exists() for name in ("checkpoint.pt", "metrics.jsonl", "result.json"))
        if config_file.exists():
            differences = _differences(read_json(config_file), json.loads(to_json(config)))
            if begun and differences:
                what = f"{path} holds a run of another configuration: {'; '.join(differences[:5])}"
                raise ValueError(f"{what}; choose another --out, or delete the folder; nothing was changed")
        elif path.is_dir() and any(p for p in path.iterdir() if not p.name.startswith(".")):
            raise ValueError(f"{path} holds files but no config.json, so it is no run folder; choose another --out")
        if not writer or self.finished:
            return
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(f"another process is working in {path}; wait for it, or choose another --out") from None
        for litter in path.glob(".*.part"):  # of a process that was killed while writing
            litter.unlink()
        if not begun:
            write_atomically(config_file, to_json(config))
        self._started, self._session = time.monotonic(), environment() | dict(provenance or {})
        if not self.finished:
            self._note_session()

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def result(self) -> Any:
        return read_json(self.path / "result.json")

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the metrics so far, the state's `history`; then the state, which is what is needed to go on."""
        if self._lock is None:
            return
        self.write_metrics(state["history"])  # first: what a crash leaves too much of is written again
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getvalue())
        self._note_session()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """What :meth:`save_checkpoint` wrote last, on the CPU, or None. No code in the file is run."""
        path = self.path / "checkpoint.pt"
        return load_weights(path, "delete it to start this run anew") if path.exists() else None

    def write_metrics(self, records: Iterable[Record]) -> None:
        """Write all the records so far, a line for each."""
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records that :meth:`write_metrics` wrote last."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def finish(self, result: Record, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights, then the result, which marks the run as finished; the checkpoint goes."""
        if self._lock is None:
            return
        if weights is not None:
            save_weights(self.path / "weights.safetensors", weights)
        self._note_session()
        write_atomically(self.path / "result.json", to_json(result))
        (self.path / "checkpoint.pt").unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _note_session(self) -> None:
        path = self.path / "provenance.json"
        sessions = read_json(path)["sessions"] if path.exists() else []
        sessions = [s for s in sessions if s["started"] != self._session["started"]]
        self._session["seconds"] = round(time.monotonic() - self._started, 1)
        write_atomically(path, to_json({"sessions": [*sessions, self._session]}))


def environment() -> dict[str, Any]:
    """Versions, device, threads, command and git commit: what a reader needs to judge or repeat a number."""
    from ean_lib import __version__

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f"Z-{os.getpid()}",
        "python": platform.python_version(),
        "versions": {"ean_lib": __version__} | {name: version(name) for name in PACKAGES},
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "threads": torch.get_num_threads(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git_commit(),
    }


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


def _git_commit() -> str | None:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        return subprocess.run(describe, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name} was {old!r}, now {new!r}"]
