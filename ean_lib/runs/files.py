"""Files: written atomically, so that a reader or a crash never sees half of one, and read without running code."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

Record = Mapping[str, Any]  # a JSON object


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
