"""What options and arguments go through: a mistake is answered by what was expected and what came."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from math import inf, isfinite
from numbers import Integral, Real
from reprlib import repr as short
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

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


def check_number(name: str, value: Any, low: float = 0, high: float | None = None, whole: bool = False) -> None:
    """`ValueError` unless value is a finite number (a whole one, where asked) from low to high."""
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    in_limits = is_number and low <= value < inf and (high is None or value <= high)
    limits = f"of at least {low}" if high is None else f"in {low}..{high}"
    check(name, value, in_limits, f"a {'whole' if whole else 'finite'} number {limits}")


def check_options(options: Any) -> None:
    """`ValueError` unless every field of a dataclass holds what its type says.

    The type of a number also says its limits, by `annotated_types`: `Annotated[float, Ge(0), Lt(1)]` is one in [0, 1).
    Every number is finite.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        _check_option(name, getattr(options, name), hint)


def _check_option(name: str, value: Any, hint: Any) -> None:
    parts = get_args(hint)
    if NoneType in parts:  # such as int | None
        if value is not None:
            _check_option(name, value, parts[0])
    elif get_origin(hint) is Literal:
        check_choice(name, value, parts)
    elif get_origin(hint) is tuple:  # such as tuple[int, ...]
        check(name, value, isinstance(value, tuple), "a tuple")
        for item in value:
            _check_option(name, item, parts[0])
    elif hint is bool:
        check(name, value, isinstance(value, bool), "True or False")
    elif get_origin(hint) is Annotated:
        _check_limited_number(name, value, parts[0], parts[1:])


def _check_limited_number(name: str, value: Any, kind: type, limits: Iterable[Any]) -> None:
    """`ValueError` unless value is a finite number, a whole one where kind is int, within all limits."""
    low, low_is_in, high, high_is_in = -inf, False, inf, False
    for limit in limits:
        for bound in limit if isinstance(limit, GroupedMetadata) else [limit]:  # an Interval is a group of bounds
            match bound:
                case Ge(ge=low):
                    low_is_in = True
                case Gt(gt=low):
                    low_is_in = False
                case Le(le=high):
                    high_is_in = True
                case Lt(lt=high):
                    high_is_in = False
    whole = kind is int
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    is_inside = (
        is_number
        and isfinite(value)
        and (value >= low if low_is_in else value > low)
        and (value <= high if high_is_in else value < high)
    )
    interval = f"{'[' if low_is_in else '('}{low}, {high}{']' if high_is_in else ')'}"
    check(name, value, is_inside, f"a {'whole ' if whole else ''}number in {interval}")


def check_odd(name: str, value: Any) -> None:
    """`ValueError` unless value is a positive odd number, as the size of a convolution that keeps its map's size is."""
    check(name, value, type(value) is int and value > 0 and value % 2 == 1, "a positive odd number")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """`ValueError`, with the close matches, unless value is one of the choices."""
    if value not in (known := list(choices)):
        raise ValueError(f"unknown {name} {value!r}. {suggest(str(value), known)}")


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
