"""What options and arguments go through: a mistake is answered by what was expected and what came.

The type of an option says its limits, in the words of the package annotated-types: `Annotated[int, Ge(1)]` is a whole
number of at least 1. `check_options` reads them. A number out of a numpy array or a tensor is taken like Python's own,
and stored as Python's own, so that it can be compared, used as a key and written as JSON.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from math import isfinite
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

# Types of options; see `check_options`.
Count = Annotated[int, Ge(1)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
NotNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Whole = Annotated[int, Ge(0)]


def check(name: str, value: Any, condition: bool, expected: str) -> None:
    """`ValueError` "`name` must be `expected`, got `value`" unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {short(value)}")


def check_number(name: str, value: Any, low: float = 0, high: float | None = None, whole: bool = False) -> Any:
    """`ValueError` unless value is a finite number (a whole one, where asked) from low to high.

    Returns:
        The value as Python's own number, also where it came out of a numpy array or a tensor.
    """
    number = plain(value)
    in_limits = _is_number(number, whole) and low <= number and (high is None or number <= high)
    limits = f"of at least {low}" if high is None else f"in {low}..{high}"
    check(name, value, in_limits, f"a {'whole' if whole else 'finite'} number {limits}")
    return number


def plain(value: Any) -> Any:
    """Python's own number or truth value for one of numpy or torch; anything else as it is."""
    is_scalar = hasattr(value, "item") and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return whole or abs(value) <= sys.float_info.max
    return isinstance(value, float) and not whole and isfinite(value)


def check_options(options: Any) -> None:
    """`ValueError` unless every field of a dataclass holds what its type says.

    A field whose value is another form of what its type says, such as numpy's number or a list where a tuple is
    meant, holds Python's own afterwards.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = _checked(field.name, getattr(options, field.name), hints[field.name])
        object.__setattr__(options, field.name, value)  # the dataclass may be frozen


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value of an option in Python's own types."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # such as int | None
        assert NoneType in parts and len(parts) == 2, f"{name}: one type, or None"
        return None if value is None else _checked(name, value, next(part for part in parts if part is not NoneType))
    if origin is Literal:
        check_choice(name, value, parts)
        return value
    if origin is tuple:  # such as tuple[int, ...]
        items = value.tolist() if getattr(value, "ndim", 0) == 1 else value
        check(name, value, isinstance(items, list | tuple), "a tuple")
        return tuple(_checked(name, item, parts[0]) for item in items)
    if hint is str:
        check(name, value, isinstance(value, str), "a text")
        return value
    value = plain(value)
    if hint is bool:
        check(name, value, isinstance(value, bool), "True or False")
        return value
    kind, *limits = parts if origin is Annotated else (hint,)
    lower, upper = _limits(limits)
    is_number = _is_number(value, whole=kind is int)
    in_limits = is_number and all(_holds(value, limit) for limit in (*lower, *upper))
    # A number between two limits is finite anyhow.
    word = "whole" if kind is int else "" if lower and upper else "finite"
    words = " and ".join(_in_words(limit) for limit in (*lower, *upper))
    expected = " ".join(filter(None, ("a", word, "number", "of" if words.startswith("at") else "", words)))
    check(name, value, in_limits, expected)
    return value


def _limits(limits: Iterable[Any]) -> tuple[list[Ge | Gt], list[Le | Lt]]:
    """The lower and the upper ones; an interval is one of each."""
    single = [part for limit in limits for part in (limit if isinstance(limit, Interval) else (limit,))]
    return [x for x in single if isinstance(x, Ge | Gt)], [x for x in single if isinstance(x, Le | Lt)]


def _holds(value: float, limit: Ge | Gt | Le | Lt) -> bool:
    match limit:
        case Ge(least):
            return value >= least
        case Gt(bound):
            return value > bound
        case Le(most):
            return value <= most
        case Lt(bound):
            return value < bound


def _in_words(limit: Ge | Gt | Le | Lt) -> str:
    match limit:
        case Ge(least):
            return f"at least {least}"
        case Gt(bound):
            return f"above {bound}"
        case Le(most):
            return f"at most {most}"
        case Lt(bound):
            return f"below {bound}"


def check_odd(name: str, value: Any) -> int:
    """`ValueError` unless value is a positive odd number, as the size of a convolution that keeps its map's size is.

    Returns:
        The value as Python's own number.
    """
    number = plain(value)
    condition = _is_number(number, whole=True) and number > 0 and number % 2 == 1
    check(name, value, condition, "a positive odd number")
    return number


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """`ValueError`, with the close matches, unless value is one of the choices."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {name} {short(value)}. {suggest(str(value), known)}")


def suggest(name: str, known: list[str]) -> str:
    """The close matches of a wrong name, or all known names."""
    close = difflib.get_close_matches(name.lower(), known, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known are: {', '.join(known)}."


def check_keywords(what: str, factory: Callable[..., Any], keywords: dict[str, Any]) -> None:
    """`ValueError` for a keyword that `factory` does not take (timm's swallow-all `**_` does not count)."""
    parameters = list(inspect.signature(factory).parameters.values())
    if any(p.kind is p.VAR_KEYWORD and p.name != "_" for p in parameters):
        return
    known = [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for keyword in keywords:
        if keyword not in known:
            options = suggest(keyword, known) if known else "It has no options."
            raise ValueError(f"{what} has no option {keyword!r}. {options}")
