"""The names of the attention modules, and how to add one's own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ean_lib.attention.common import check_positive

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_factories: dict[str, Callable[..., nn.Module]] = {}
TIMM = "timm:"


def register_attention(name: str) -> Callable[[Factory], Factory]:
    """Decorator that makes a module class (or a function that returns a module) available by `name`.

    It is called as `factory(channels, **keywords)`, and the module as `y, state = module(x, state)`.

    Raises:
        ValueError: if the name is taken, empty, or begins with "timm:".
    """
    if not isinstance(name, str) or not name or name.startswith(TIMM):
        raise ValueError(f'An attention module needs a name that does not begin with "timm:", not {name!r}.')

    def register(factory: Factory) -> Factory:
        if name in _factories:
            raise ValueError(
                f"The attention name {name!r} is taken by {_factories[name].__qualname__}: choose another."
            )
        _factories[name] = factory
        return factory

    return register


def list_attentions() -> list[str]:
    """The names that `create_attention` knows; among them `timm:<name>` where timm is installed."""
    from ean_lib.attention.timm_layers import timm_names

    return sorted(_factories) + [TIMM + name for name in timm_names()]


def create_attention(name: str, channels: int, **keywords: Any) -> nn.Module:
    """Build the attention module `name` for maps of `channels` channels.

    Args:
        name: one of `list_attentions()`.
        channels: C of the (B, C, H, W) maps that the module will see.
        **keywords: the module's own options, such as `rd_ratio`.

    Returns:
        A module to be called as `y, state = module(x, state)`, with `y` of `x`'s shape and dtype.

    Raises:
        ValueError: if the name or a keyword is unknown (with the close matches), or a value is out of range.
    """
    if not isinstance(name, str):
        raise ValueError(f"The name of an attention module must be a text such as 'se', but it is {name!r}.")
    check_positive("channels", channels)
    if name.startswith(TIMM):
        from ean_lib.attention.timm_layers import create_timm

        return create_timm(name.removeprefix(TIMM), channels, **keywords)
    if name not in _factories:
        known = list_attentions()
        raise ValueError(f"There is no attention module {name!r}. {suggest(name, known)}")
    check_keywords(f"The attention module {name!r}", _factories[name], keywords)
    return _factories[name](channels, **keywords)


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
