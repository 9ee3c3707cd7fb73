"""The names of the attention modules, and how to add one's own."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ean_lib.attention.timm_layers import create_timm, timm_names
from ean_lib.checks import check, check_choice, check_keywords, check_number

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_factories: dict[str, Callable[..., nn.Module]] = {}
TIMM = "timm:"


def register_attention(name: str) -> Callable[[Factory], Factory]:
    """Decorator that makes a module class (or a function that returns a module) available by `name`.

    It is called as `factory(channels, **keywords)`, and the module as `y, state = module(x, state)`.

    Raises:
        ValueError: if the name is taken, empty, or begins with "timm:".
    """
    fine = isinstance(name, str) and name != "" and not name.startswith(TIMM)
    check("an attention module's name", name, fine, 'a text that does not begin with "timm:"')

    def register(factory: Factory) -> Factory:
        if name in _factories:
            owner = _factories[name].__qualname__
            raise ValueError(f"The attention name {name!r} is taken by {owner}: choose another.")
        _factories[name] = factory
        return factory

    return register


def list_attentions() -> list[str]:
    """The names that `create_attention` knows; among them `timm:<name>` where timm is installed."""
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
    check("an attention module's name", name, isinstance(name, str), "a text such as 'se'")
    check_number("channels", channels, low=1, whole=True)
    if name.startswith(TIMM):
        return create_timm(name.removeprefix(TIMM), channels, **keywords)
    if name not in _factories:  # only then is timm looked for
        check_choice("attention module", name, list_attentions())
    check_keywords(f"The attention module {name!r}", _factories[name], keywords)
    return _factories[name](channels, **keywords)
