"""Run folders: what was asked, what came out, and enough to go on after a crash.

    config.json          everything that decides the result; the same command finds its own folder again
    provenance.json      versions, device, threads, git commit, data checksum, and when it ran for how long
    metrics.jsonl        one JSON object per line: epochs of a training, rewards of a search
    checkpoint.pt        weights, optimiser and generator states; only while unfinished
    weights.safetensors  the final weights
    result.json          the outcome; its presence means the run is finished

Files are written beside their place and renamed into it, so a reader, or a crash, never sees half a file. All but
the provenance is a function of the configuration: an interrupted run ends with the same bits as an uninterrupted one.
Only a folder that a run made is written to, or an empty one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ean_lib.runs.config import FORMAT, as_read, differences, read_config
from ean_lib.runs.files import Record, load_weights, read_json, read_json_lines, save_weights, to_json, write_atomically
from ean_lib.runs.provenance import environment

FILES = (
    "config.json", "provenance.json", "metrics.jsonl", "checkpoint.pt", "weights.safetensors", "result.json",
    "measure.json",
)  # fmt: skip
BEGUN = ("checkpoint.pt", "metrics.jsonl", "result.json")  # a folder with one of them holds work
# What may lie in a folder that counts as empty: our lock, and what desktops and notebooks leave everywhere.
IGNORED = (".lock", ".DS_Store", ".ipynb_checkpoints", ".gitignore", ".gitkeep")


class BusyError(ValueError):
    """Another process is working in the run folder."""


class Run:
    """One run's folder: created for a configuration, or continued where the configuration is the same.

    Making one looks only. The folder is written to, and held against other processes, inside ``with run:``; that may
    be entered again inside itself. However the block ends, by an error or an interruption too, the folder is free
    again. `save_checkpoint` and `finish` enter it for themselves where nobody did.

    Args:
        path: the folder.
        config: all that decides the result; ``format`` is added to it.
        provenance: noted beside versions and hardware.
        writer: False in all processes of a distributed run but the first; they only read.
        parts: the dataclass of options that a part of the configuration was written from, such as ``{"task": Task}``:
            an older folder's part that lacks an option has its default.

    Raises:
        ValueError: if the folder holds a run of another configuration, or what is not a run.
        BusyError: on entering it, if the run is going on now, in another process.
        OSError: on entering it, if it cannot be written.
    """

    def __init__(
        self, path: Path | str, config: Record, provenance: Record | None = None, writer: bool = True,
        parts: Mapping[str, type] = {},
    ) -> None:  # fmt: skip
        self.path = Path(path).absolute()  # a later `os.chdir` does not move it
        self.config = as_read({"format": FORMAT, "kind": "run", **config})
        self._parts = parts
        self._writer = writer
        self._provenance = dict(provenance or {})
        self._lock: FileLock | None = None  # None: this process only reads
        self._depth = 0  # of `with` blocks
        self._check()

    def __enter__(self) -> Self:
        self._depth += 1
        try:
            if self._depth == 1 and self._writer:
                if self.finished:
                    self._tidy()
                else:
                    self._begin()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.close()

    def _begin(self) -> None:
        """Take the folder for this process, and note the configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._lock = None
            what = f"another process is working in {self.path}"
            raise BusyError(f"{what}; wait for it, or choose another --out") from None
        except NotImplementedError as error:  # a network file system without locks
            raise OSError(f"{self.path} cannot be locked ({error}); choose an --out on another file system") from None
        begun = self._check()  # again: somebody may have begun or ended it since
        for name in FILES:
            for litter in self.path.glob(f".{name}.*.part"):  # of a process that was killed while writing
                litter.unlink()
        if not begun:
            write_atomically(self.path / "config.json", to_json(self.config))
        self._started = time.monotonic()
        self._session = environment() | self._provenance
        if not self.finished:
            self._note_session()

    def _tidy(self) -> None:
        """Remove the checkpoint of a finished run, which a process that was killed at its end has left."""
        with contextlib.suppress(OSError):  # such as a folder that cannot be written
            (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def _check(self) -> bool:
        """Whether the folder holds work of this configuration; an error if it holds anything else."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"the run folder {self.path} is a file; choose another --out")
        names = os.listdir(self.path) if self.path.exists() else []  # at one moment: another process may be writing
        strangers = [name for name in names if not _ignored(name)]
        if "config.json" not in names:
            if strangers:
                what = f"{self.path} holds files but no config.json, such as {min(strangers)}"
                raise ValueError(f"{what}, so it is no run folder; choose another --out")
            return False
        config = read_config(self.path)
        begun = any(name in names for name in BEGUN)
        if not begun:  # it may be of another configuration then: nothing is lost
            return False
        changes = differences(config, self.config, self._parts, finished="result.json" in names)
        if changes:
            what = f"{self.path} holds a run of another configuration: {'; '.join(changes[:5])}"
            raise ValueError(f"{what}; choose another --out, or delete the folder; nothing was changed")
        return True

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def result(self) -> Any:
        return read_json(self.path / "result.json")

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the metrics so far, the state's `history`; then the state, which is what is needed to go on."""
        with self:
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
        return read_json_lines(path) if path.exists() else []

    def finish(self, result: Record, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights, then the result, which marks the run as finished; the checkpoint goes."""
        with self:
            if self._lock is None:
                return
            if weights is not None:
                save_weights(self.path / "weights.safetensors", weights)
            self._note_session()
            write_atomically(self.path / "result.json", to_json(result))
            (self.path / "checkpoint.pt").unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let go of the folder; at the latest, the end of the `with` block does."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _note_session(self) -> None:
        path = self.path / "provenance.json"
        sessions = read_json(path)["sessions"] if path.exists() else []
        sessions = [s for s in sessions if s["started"] != self._session["started"]]
        self._session["seconds"] = round(time.monotonic() - self._started, 1)
        write_atomically(path, to_json({"sessions": [*sessions, self._session]}))


def _ignored(name: str) -> bool:
    part = name.startswith(".") and name.endswith(".part") and any(name.startswith(f".{file}.") for file in FILES)
    return name in IGNORED or part
