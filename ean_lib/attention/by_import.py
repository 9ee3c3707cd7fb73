"""Attention modules of one's own by where they are: `mypackage.mymodule:MyAttention`.

Such a name can be written into a run folder, and every process that sees the package finds the module by it.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ean_lib.checks import check, check_keywords, suggest

SIMPLE = (bool, int, float, str)  # the types of options that are checked


def import_attention(name: str) -> type[nn.Module]:
    """The class that `package.module:Class` names; the current directory is looked in last.

    Raises:
        ValueError: if there is no such module or class, or it is no nn.Module.
    """
    where, _, class_name = name.partition(":")
    is_name = all(part.isidentifier() for part in [*where.split("."), class_name])
    check("an attention module's name", name, is_name, "like mypackage.mymodule:MyAttention")
    # Not `__main__`: in another process that is another module.
    check("an attention module's place", where, where != "__main__", "a module that can be imported")
    before = list(sys.path)
    sys.path.append(os.getcwd())  # the script `ean`, unlike `python -m`, does not look there
    try:
        module = importlib.import_module(where)
    except Exception as error:  # whatever the module's code raises
        what = f"{where} could not be imported for the attention module {name}"
        advice = "install its package, or start in the directory where it is"
        raise ValueError(f"{what} ({type(error).__name__}: {error}); {advice}") from error
    finally:
        sys.path[:] = before
    found = getattr(module, class_name, None)
    if found is None:
        known = [key for key, value in vars(module).items() if _is_module_class(value)]
        raise ValueError(f"{where} has no {class_name!r}. {suggest(class_name, known or ['no nn.Module'])}")
    check(f"{name}", found, _is_module_class(found), "a class that inherits from nn.Module")
    return found


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def create_imported(name: str, factory: Callable[..., nn.Module], channels: int, keywords: Mapping[str, Any]) -> Any:
    """Build it, and see that it is called as `y, state = module(x, state)` and keeps the map's shape.

    Raises:
        ValueError: if an option is unknown or of another type than its annotation, or the module does not serve.
    """
    what = f"the attention module {name}"
    check_keywords(what, factory, dict(keywords))
    _check_types(what, factory, keywords)
    try:
        module = factory(channels, **keywords)
    except Exception as error:  # whatever its code raises
        raise ValueError(f"{what} could not be built: {type(error).__name__}: {error}") from error
    _probe(what, module, channels)
    return module


def _check_types(what: str, factory: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """`ValueError` unless options whose annotation is a simple type have it."""
    try:
        hints = get_type_hints(factory.__init__)
    except (NameError, TypeError):  # annotations that cannot be looked up
        return
    parameters = inspect.signature(factory).parameters
    for key, value in keywords.items():
        hint = hints.get(key)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if key not in parameters or not all(kind in (*SIMPLE, type(None)) for kind in kinds):
            continue
        fits = type(value) in kinds or (float in kinds and type(value) is int)
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        check(f"{key} of {what}", value, fits, names)


@torch.no_grad()
def _probe(what: str, module: nn.Module, channels: int) -> None:
    """`ValueError` unless a call gives a map of the same shape and a state."""
    x = torch.zeros(1, channels, 8, 8)
    training = module.training
    module.eval()  # BatchNorm statistics must not see the probe
    try:
        result = module(x, None)
    except Exception as error:
        raise ValueError(f"{what} fails as module(x, state): {type(error).__name__}: {error}") from error
    finally:
        module.train(training)
    is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
    shapes = tuple(result[0].shape) if is_pair else type(result).__name__
    check(
        f"what {what} returns", shapes, is_pair and result[0].shape == x.shape, f"(y, state), y of shape {(*x.shape,)}"
    )
