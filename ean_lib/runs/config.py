"""What config.json says: whose folder it is, of which format, and whether two configurations are the same.

Configurations are compared after both have been brought to today's form: a key that one lacks means the default that
its option has now, so a new option with a neutral default leaves finished runs as they are.

Format 1 (no number in the file) knew of the data only the training part's checksum. Format 2 has a checksum of every
part that the result depends on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ean_lib.runs.files import Record, read_json, rebuild, to_json

FORMAT = 2  # raise it where a reader of the old form would be wrong about the new one
# What a run of format 1 did not note. Nothing can be said of it then; see `differences`.
NOT_NOTED = {"val_data", "test_data", "scoring", "supernet"}


def is_ours(config: Any) -> bool:
    """Whether a parsed config.json is a run's. Many programs call a file config.json."""
    if not isinstance(config, Mapping):
        return False
    if type(config.get("format", 1)) is not int:
        return False
    numbered = "format" in config and "kind" in config
    before_numbers = isinstance(config.get("task"), Mapping) and {"kind", "seed", "data"} <= set(config)
    return numbered or before_numbers


def read_config(folder: Path) -> Record:
    """The configuration of a run folder.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if it is another program's, or of a newer format.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.json")
    config = read_json(file)
    if not is_ours(config):
        raise ValueError(f"{folder} is no run folder: its config.json is not a run's; nothing was changed")
    if config.get("format", 1) > FORMAT:
        what = f"{folder} was written by a newer ean_lib, in format {config['format']}"
        raise ValueError(f"{what}; this one knows formats up to {FORMAT}: update ean_lib")
    return config


def differences(old: Record, new: Record, parts: Mapping[str, type] = {}, *, finished: bool = False) -> list[str]:
    """What two configurations differ in, as `name was …, now …`.

    Args:
        old: as a folder has it.
        new: as it is asked for.
        parts: the dataclass of options that each of these parts was written from.
        finished: whether the old run is finished. Then what its format did not note counts as the same; an unfinished
            run cannot go on if it is not known which images it saw.

    Raises:
        ValueError: if the old one has options that are not known.
    """
    old, new = _today(old, parts), _today(new, parts)
    if finished and old["format"] < FORMAT:
        new = {key: value for key, value in new.items() if key in old or key not in NOT_NOTED}
    return _differences(old | {"format": FORMAT}, new | {"format": FORMAT})


def _today(config: Record, parts: Mapping[str, type]) -> dict[str, Any]:
    """A configuration in today's form, with the default of every option that it lacks."""
    filled = {name: asdict(rebuild(kind, config[name])) for name, kind in parts.items() if name in config}
    return {"format": 1, **config, **as_read(filled)}


def as_read(value: Any) -> Any:
    """A value as it is after it was written as JSON and read again."""
    return json.loads(to_json(value))


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(set(old) | set(new)):
            found += _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if old == new else [f"{name} was {old!r}, now {new!r}"]
