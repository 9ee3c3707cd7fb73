"""Whether weights fit a network, and if not, where."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ean_lib.checks import check

KEYS_SHOWN = 3


def check_state_dict(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ValueError that names the keys in which the weights differ from what is expected, in name or in shape."""
    problems = mismatches(weights, expected)
    if problems:
        advice = "build the network with the backbone, width, classes and attention that the weights were saved from"
        raise ValueError(f"{what} do not fit this network: {problems}; {advice}")


def mismatches(weights: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """The keys in which the weights differ from what is expected, in name or shape, in words; empty where none does."""
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in weights.items()}
    wanted = {key: tuple(value.shape) for key, value in expected.items()}
    missing = [key for key in wanted if key not in shapes]
    unknown = [key for key in shapes if key not in wanted]
    wrong = []
    for key, shape in wanted.items():
        if key in shapes and shapes[key] != shape:
            wrong.append(f"{key} is {shapes[key]}, expected {shape}")
    problems = []
    for keys, kind in ((missing, "missing"), (unknown, "unknown"), (wrong, "of another shape")):
        if keys:
            problems.append(f"{len(keys)} {kind} ({_some(keys)})")
    return "; ".join(problems)


def named_tensors(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A file's weights by name, without what people wrap around them: a dictionary of a training, DataParallel's names.

    Raises:
        ValueError: if they are no mapping.
    """
    expected = "a mapping from names to tensors, as `load_weights` gives"
    check("weights", weights, isinstance(weights, Mapping), expected)
    for key in ("state_dict", "model"):
        if isinstance(weights.get(key), Mapping):
            weights = weights[key]
    return {str(key).removeprefix("module."): value for key, value in weights.items()}


def _some(keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more
