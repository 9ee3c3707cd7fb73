"""Files: written atomically, so that a reader or a crash never sees half of one, and read without running code."""

import contextlib
import json
import os
import platform
import re
import secrets
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

Record = Mapping[str, Any]  # a JSON object


class Fields(dict):
    """A JSON object out of a file: what it lacks is answered by a `ValueError` that names the file."""

    def __init__(self, values: Record, file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        has = ", ".join(map(str, self)) or "nothing"
        raise ValueError(f"{self.file} has no {key!r} where it should (it has {has}); restore it, or redo the run")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that at every moment either the old or the new content is there, and nothing half written.

    Raises:
        OSError: if it cannot be written, such as on a full disk; the old content is still there.
    """
    path = Path(path)
    part = path.with_name(part_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        advice = "mend that and give the same command again; it goes on from what is there"
        raise type(error)(error.errno, f"{path} could not be written ({error.strerror}); {advice}") from None
    finally:
        with contextlib.suppress(OSError):  # such as a folder that became read-only; the first error says more
            part.unlink(missing_ok=True)


def part_name(name: str) -> str:
    """A name for the half-written file: two processes have different ones, also in containers that share a folder."""
    host = re.sub(r"\W", "", platform.node())
    return f".{name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.part"


def to_json(value: Any) -> str:
    """JSON as it stands in a run folder: indented, ending with a newline."""
    return json.dumps(value, indent=1, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Python's own numbers for those of numpy and torch; the text of anything else, such as a path or a scheme."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_json(path: Path) -> Any:
    """Parse a JSON file; a ValueError names the file where it is not JSON, or lacks a key that is asked for."""
    path = Path(path)
    try:
        return json.loads(path.read_text(), object_hook=lambda values: Fields(values, path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}); restore it, or start in another folder") from None


def read_json_lines(path: Path) -> list[Any]:
    """Parse a file with a JSON object on each line; a ValueError names the file and the line that is not one."""
    values = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        try:
            values.append(json.loads(line, object_hook=lambda values: Fields(values, path)))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON ({error}); restore it, or redo the run") from None
    return values


def rebuild(kind: type, record: Record) -> Any:
    """A dataclass of options from its JSON form, which knows lists only where there were tuples.

    A key that the record lacks, because the option is newer, gets the option's default. A dataclass whose older
    records have other keys has a static method ``upgrade(record)``, which gives them in today's form.

    Raises:
        ValueError: if the record has a key that is no option, or lacks one without a default.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{kind.__name__} is made from a JSON object, got {record!r:.60}")
    if hasattr(kind, "upgrade"):
        record = kind.upgrade(record)
    known = [field.name for field in fields(kind)]
    unknown = [key for key in record if key not in known]
    if unknown:
        source = f"{record.file}: " if isinstance(record, Fields) else ""
        what = f"{source}{kind.__name__} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
        raise ValueError(f"{what}. It was written by a newer ean_lib, or changed by hand: update ean_lib, or mend it")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()})
    except TypeError as error:  # an option without a default is not there
        raise ValueError(f"{kind.__name__} cannot be made from {dict(record)!r:.200} ({error})") from None


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
