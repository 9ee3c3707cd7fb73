"""The names of the attention modules, and how to add one's own."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ean_lib.attention.by_import import create_imported, import_attention
from ean_lib.attention.timm_layers import create_timm, timm_names
from ean_lib.checks import check, check_choice, check_keywords, check_number

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_factories: dict[str, Callable[..., nn.Module]] = {}
_imported: set[str] = set()  # names of theirs that say where they are imported from, such as mypackage.mymodule:Mine
TIMM = "timm:"


def register_attention(name: str) -> Callable[[Factory], Factory]:
    """Decorator that makes a module class (or a function that returns a module) available by `name`.

    It is called as `factory(channels, **keywords)`, and the module as `y, state = module(x, state)`.

    Registering the same class of the same module again, as when a notebook's cell is run a second time, replaces it.

    Raises:
        ValueError: if the name is taken by another, empty, or begins with "timm:".
    """
    is_name = isinstance(name, str) and name != "" and not name.startswith(TIMM)
    check("an attention module's name", name, is_name, 'a text that does not begin with "timm:"')

    def register(factory: Factory) -> Factory:
        check(f"the attention module {name!r}", factory, callable(factory), "a class, or a function that makes one")
        owner = _factories.get(name)
        if owner is not None and _identity(owner) != _identity(factory):
            raise ValueError(f"The attention name {name!r} is taken by {_identity(owner)}: choose another.")
        _factories[name] = factory
        return factory

    return register


def _identity(factory: Callable[..., nn.Module]) -> str:
    """Where a factory is defined and what it is called there: the same for a cell that is run again."""
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", None)
    return repr(factory) if module is None or name is None else f"{module}.{name}"


def is_registered_elsewhere(name: str) -> bool:
    """Whether code outside ean_lib registered this name: a process that has not run that code does not know it."""
    factory = _factories.get(name)
    return (
        factory is not None
        and name not in _imported
        and not str(getattr(factory, "__module__", "")).startswith("ean_lib.")
    )


def list_attentions() -> list[str]:
    """The names that `create_attention` knows; among them `timm:<name>` where timm is installed."""
    return sorted(_factories) + [TIMM + name for name in timm_names()]


def create_attention(name: str, channels: int, **keywords: Any) -> nn.Module:
    """Build the attention module `name` for maps of `channels` channels.

    Args:
        name: one of `list_attentions()`; or ``mypackage.mymodule:MyAttention``, which is imported and registered.
        channels: C of the (B, C, H, W) maps that the module will see.
        **keywords: the module's own options, such as `rd_ratio`.

    Returns:
        A module to be called as `y, state = module(x, state)`, with `y` of `x`'s shape and dtype.

    Raises:
        ValueError: if the name or a keyword is unknown (with the close matches), or a value is out of range.
    """
    check("an attention module's name", name, isinstance(name, str), "a text such as 'se'")
    channels = check_number("channels", channels, low=1, whole=True)
    if name.startswith(TIMM):
        return create_timm(name.removeprefix(TIMM), channels, **keywords)
    if name not in _factories and ":" in name:
        register_attention(name)(import_attention(name))
        _imported.add(name)
    if name in _imported:
        return create_imported(name, _factories[name], channels, keywords)
    if name not in _factories:  # only then is timm looked for
        check_choice("attention module", name, list_attentions())
    check_keywords(f"The attention module {name!r}", _factories[name], keywords)
    return _factories[name](channels, **keywords)
