"""What options and arguments go through: a mistake is answered by what was expected and what came."""

from collections.abc import Iterable
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

from ean_lib.attention.registry import suggest


def check(name: str, value: Any, fine: bool, expected: str) -> None:
    """`ValueError` "`name` must be `expected`, got `value`" unless fine."""
    if not fine:
        raise ValueError(f"{name} must be {expected}, got {short(value)}")


def check_number(name: str, value: Any, low: float = 0, high: float | None = None, whole: bool = False) -> None:
    """`ValueError` unless value is a finite number (a whole one, where asked) from low to high."""
    kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    fine = kind and low <= value < float("inf") and (high is None or value <= high)
    limits = f"of at least {low}" if high is None else f"in {low}..{high}"
    check(name, value, fine, f"a {'whole' if whole else 'finite'} number {limits}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """`ValueError`, with the close matches, unless value is one of the choices."""
    if value not in (known := list(choices)):
        raise ValueError(f"unknown {name} {value!r}. {suggest(str(value), known)}")
