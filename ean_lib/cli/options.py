"""How a function's arguments become options: the only file that knows tyro.

The functions themselves know no command line. What it needs beyond their signatures and docstrings is decided here, by
the names and types of arguments:

- the fields of a task, of a runtime, and of the one configuration of a command are options without a prefix, such as
  ``--epochs``; where there are several configurations, their options have one, such as ``--supernet.epochs``;
- a command has one seed, and gives it to its configurations: theirs is no option;
- ``folders`` are given without a name;
- what is meant for callers in Python is hidden;
- a command that trains has ``--preset``, which sets its defaults together with ``--dataset`` and ``--attention``.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from ean_lib.experiments.recipes import Preset, bench_training, default_forms, recipe
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig

FLAT = ("task", "config", "runtime")
POSITIONAL = ("folders",)
HIDDEN = {"retrain": ("form", "hold_out")}
TYPED_AS = {Scheme | str: str}
PRESET = Annotated[
    Preset,
    tyro.conf.arg(
        help="quick takes a CPU minutes, full takes hours, paper is for GPUs. It sets the defaults that are shown here."
    ),
]


def parse(name: str, function: Callable[..., Any], arguments: Sequence[str]) -> Callable[[], Any]:
    """The function with its arguments from the command line, ready to be called: an error is then its own."""
    bind = _bind_later(name, function)
    with_defaults = partial(bind, **_defaults(name, arguments))
    return tyro.cli(with_defaults, prog=f"ean {name}", args=arguments, registry=ConfigsWithoutSeed())


def _bind_later(name: str, function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """What tyro sees of a function: its docstring, and its arguments as options."""
    parameters = [
        parameter.replace(annotation=_option_type(name, parameter))
        for parameter in signature(function).parameters.values()
    ]
    if any(parameter.name == "task" for parameter in parameters):
        parameters.append(Parameter("preset", Parameter.KEYWORD_ONLY, default="quick", annotation=PRESET))

    def bind(*positional: Any, preset: Preset = "quick", **options: Any) -> Callable[[], Any]:
        return partial(function, *positional, **options)  # the preset has done its work: it has set the defaults

    bind.__doc__ = function.__doc__
    bind.__signature__ = Signature(parameters)
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return bind


def _option_type(command: str, parameter: Parameter) -> Any:
    kind = TYPED_AS.get(parameter.annotation, parameter.annotation)
    if parameter.name in FLAT:
        return tyro.conf.OmitArgPrefixes[kind]
    if parameter.name in POSITIONAL:
        return tyro.conf.Positional[kind]
    if parameter.name in HIDDEN.get(command, ()):
        return tyro.conf.Suppress[kind]
    return kind


def _defaults(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The defaults of a command, which depend on the dataset, the preset and the attention asked for."""
    parser = argparse.ArgumentParser(f"ean {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", default=Task.dataset)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--attention", "--attention-module")
    parser.add_argument("--backbone")
    asked, _ = parser.parse_known_args(arguments)
    task, supernet, search, retrain = recipe(asked.dataset, asked.preset, asked.attention, asked.backbone)
    if name == "supernet":
        return {"task": task, "config": supernet}
    if name == "retrain":
        return {"task": task, "config": retrain}
    if name == "run":
        forms = default_forms(asked.dataset, task.attention, task.backbone)
        return {"task": task, "supernet": supernet, "search": search, "retrain": retrain, "forms": forms}
    if name == "bench":
        return {"task": task, "train": bench_training(asked.dataset, asked.preset), "supernet": supernet}
    return {}


class ConfigsWithoutSeed(ConstructorRegistry):
    """How tyro makes options of a configuration: of all of its fields but the seed."""

    def __init__(self) -> None:
        super().__init__()
        self.asks_tyro = False
        self.struct_rule(self.hide_seed)

    def hide_seed(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        if self.asks_tyro or info.type not in (TrainConfig, SearchConfig):
            return None  # tyro's own rule
        self.asks_tyro = True
        options = self.get_struct_spec(info)
        self.asks_tyro = False
        hidden = [
            dataclasses.replace(field, type=tyro.conf.Suppress[field.type]) if field.name == "seed" else field
            for field in options.fields
        ]
        return dataclasses.replace(options, fields=tuple(hidden))
