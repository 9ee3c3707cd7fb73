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
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ean_lib.runs.files import Record, load_weights, read_json, save_weights, to_json, write_atomically
from ean_lib.runs.provenance import environment


class BusyError(ValueError):
    """Another process is working in the run folder."""


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


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name} was {old!r}, now {new!r}"]
