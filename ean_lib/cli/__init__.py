"""The command ``ean``: each subcommand is a function, whose arguments tyro turns into options."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Signature, signature
from typing import Annotated, Any

import tyro
from accelerate import PartialState
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from ean_lib.checks import check_choice
from ean_lib.experiments import steps
from ean_lib.experiments.bench import run_bench
from ean_lib.experiments.forms import FORMS
from ean_lib.experiments.recipes import Preset, recipe
from ean_lib.experiments.report import write_report
from ean_lib.experiments.run_all import run_all
from ean_lib.experiments.task import Task
from ean_lib.learning.constant_gates import has_gate
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import to_json
from ean_lib.search import SearchConfig

PRESET_HELP = "quick takes a CPU minutes, full hours, paper is for GPUs; it sets the defaults shown here."


COMMANDS: dict[str, Callable[..., Any]] = {
    "supernet": steps.run_supernet,
    "search": steps.run_search,
    "retrain": steps.run_retrain,
    "measure": steps.run_measure,
    "run": run_all,
    "report": write_report,
    "bench": run_bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ean``. Bad input ends with one sentence on stderr and exit code 2; EAN_DEBUG=1 shows the traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: ean COMMAND [options]\n\nSearch where to plug attention into a network.\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}{(command.__doc__ or '').splitlines()[0]}")
        print("\n`ean COMMAND --help` shows the options and an example.")
        return 0 if argv else 2
    name, *rest = argv
    try:
        check_choice("command", name, COMMANDS)
        options = partial(_bound(COMMANDS[name]), **_defaults(name, rest))
        result = tyro.cli(options, prog=f"ean {name}", args=rest, registry=ConfigsWithoutSeed())()
        if PartialState().is_main_process:
            print(to_json(result).rstrip() if isinstance(result, dict) else result)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if os.environ.get("EAN_DEBUG"):
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; give the same command again, and it goes on", 130)
    return 0


class ConfigsWithoutSeed(ConstructorRegistry):
    """How tyro makes options of a configuration: all of its fields but the seed, as a command has one for all parts."""

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


def _bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """What tyro is to see of a function: its arguments, and a preset where it trains.

    It gives the function with its arguments bound, to be called when tyro is done: an error is then the function's own.
    """

    def bind(
        *args: Any, preset: Annotated[Preset, tyro.conf.arg(help=PRESET_HELP)] = "quick", **options: Any
    ) -> Callable[[], Any]:
        return partial(function, *args, **options)

    parameters = dict(signature(function).parameters)
    if "task" in parameters:
        parameters["preset"] = signature(bind).parameters["preset"]
    bind.__doc__ = function.__doc__
    bind.__signature__ = Signature(list(parameters.values()))
    bind.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return bind


def _defaults(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """What a command's dataset and preset, which are looked for in argv, set as its defaults."""
    parser = argparse.ArgumentParser(f"ean {name}", add_help=False, allow_abbrev=False)
    for option, default in {"dataset": Task.dataset, "preset": "quick", "attention": Task.attention}.items():
        parser.add_argument(f"--{option}", default=default)
    known, _ = parser.parse_known_args(argv)
    task, supernet, search, retrain = recipe(known.dataset, known.preset)
    if known.attention != task.attention:
        task = dataclasses.replace(task, rd_ratio=None)  # it is meant for the recipe's own module
    # Late connections are a control where they are known not to help: on the data with a cue.
    forms = FORMS[:-1]
    if known.dataset == "cued_shapes":
        forms = ("share-full", "ean", "constant", "late")
    elif known.dataset == "cued_photos":
        forms = FORMS
    if not has_gate(known.attention):
        forms = tuple(form for form in forms if form != "constant")
    shorter = dataclasses.replace(retrain, epochs=retrain.epochs - (known.preset == "quick"))  # it trains hundreds
    return {
        "supernet": {"task": task, "config": supernet},
        "retrain": {"task": task, "config": retrain},
        "run": {"task": task, "supernet": supernet, "search": search, "retrain": retrain, "forms": forms},
        "bench": {"task": task, "train": shorter, "supernet": supernet},
    }.get(name, {})


def _fail(message: str, code: int = 2) -> int:
    print(f"ean: {message}", file=sys.stderr)
    return code
