"""The program ``ean``: what its commands are, and what becomes of their results and their mistakes."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState

from ean_lib.checks import check_choice
from ean_lib.cli.options import parse
from ean_lib.cli.terminal import write_in_any_encoding
from ean_lib.experiments import steps
from ean_lib.experiments.bench import run_bench
from ean_lib.experiments.report import write_report
from ean_lib.experiments.run_all import run_all
from ean_lib.runs import to_json

# A command is a function: its arguments are the options, its docstring is the help. `ean_lib.cli.options` says how.
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
    with write_in_any_encoding():
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
            return 0 if argv else 2
        try:
            _run(*argv)
        except (ValueError, OSError, ArithmeticError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
            if os.environ.get("EAN_DEBUG"):
                raise
            return _fail(_in_a_sentence(error))
        except KeyboardInterrupt:
            return _fail("interrupted; give the same command again, and it goes on", 130)
    return 0


def _overview() -> str:
    lines = ["usage: ean COMMAND [options]", "", "Search where to plug attention into a network.", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:10}{(command.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "`ean COMMAND --help` shows the options and an example."])


def _run(name: str, *arguments: str) -> None:
    check_choice("command", name, COMMANDS)
    command = parse(name, COMMANDS[name], arguments)
    result = command()
    if PartialState().is_main_process:
        print(to_json(result).rstrip() if isinstance(result, dict) else result)


def _in_a_sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        reason = str(error).partition("\n")[0] or "no more of it"
        return f"the memory does not suffice ({reason}); try a smaller batch or network, or fewer --workers"
    return str(error) or type(error).__name__


def _fail(message: str, code: int = 2) -> int:
    print(f"ean: {message}", file=sys.stderr)
    return code
