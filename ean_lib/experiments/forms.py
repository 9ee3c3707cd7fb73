"""The forms of a network that a report compares: backbone, Org-full, Share-full, EAN, and controls."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ean_lib.checks import check, check_choice
from ean_lib.experiments.steps import (
    load_network,
    open_run,
    read_finished_run,
    read_scheme,
    result_of,
    run_retrain,
    weights_checksum,
)
from ean_lib.experiments.task import Task
from ean_lib.learning.constant_gates import fold_constant_gates
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import Runtime, rebuild
from ean_lib.schemes import Scheme

Form = Literal["backbone", "org-full", "share-full", "ean", "random", "constant", "late"]

FORMS: tuple[Form, ...] = get_args(Form)
DEFAULT_FORMS: tuple[Form, ...] = FORMS[:-1]


def run_form(
    task: Task, form: str, scheme: str, config: TrainConfig, seed: int, index: int, out: Path, runtime: Runtime
) -> dict[str, Any]:
    """Retrain what a form stands for, where `scheme` was found.

    Args:
        task: images and network.
        form: one of `FORMS`; random and late have as many connections as the scheme found.
        scheme: the one that was found: bits, or the folder of its search.
        config: how it is retrained.
        seed: of the training, and of what random draws.
        index: of a random scheme, where a seed has several.
        out: the run folder.
        runtime: where, and what is shown.
    """
    check_choice("form", form, FORMS)
    check("form", form, form != "constant", "one that is retrained; constant is made of a retrained one by fold_run")
    share = "none" if form == "org-full" else "stage"
    chosen = scheme_of_form(form, read_scheme(scheme, task), seed, index)
    return run_retrain(task, chosen, config, seed, out, runtime, share, form)


def scheme_of_form(form: str, found: Scheme, seed: int, index: int) -> Scheme:
    """The scheme that a form connects, beside the scheme that was found."""
    stages, connected = found.stages, found.connected
    if form == "backbone":
        return Scheme.none(stages)
    if form in ("org-full", "share-full"):
        return Scheme.full(stages)
    if form == "random":
        # Far apart for different seeds, so that no two runs draw the same schemes.
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + index)
        return Scheme.random(stages, generator, connected=connected)
    if form == "late":
        first = len(found) - connected
        return Scheme.parse([block >= first for block in range(len(found))], stages)
    return found


def fold_run(retrained: Path, out: Path, runtime: Runtime) -> dict[str, Any]:
    """The form "constant" of a retrained network: its gates replaced by their means and folded, nothing trained anew.

    The run's configuration has the scheme that connects nothing, since that is the network whose weights it holds; its
    result names the scheme that was folded, so that it stands beside the network that it is the control of.

    Args:
        retrained: the folder of a finished retraining, with its weights.
        out: the run folder.

    Raises:
        ValueError: as `fold_constant_gates`, for example where the attention has no gate to average.
    """
    config, result = read_finished_run(retrained, "retrain")
    task, nothing = rebuild(Task, config["task"]), Scheme.none(Scheme.parse(config["scheme"]).stages)
    weights = weights_checksum(retrained)
    named = {"scheme": str(nothing), "share": "stage", "form": "constant", "folded": weights}
    sees = ("train", "val", "test")
    run, data = open_run(out, "retrain", task, runtime, config["seed"], sees, train=config["train"], **named)
    with run:
        if not run.finished:
            folded = load_network(retrained)
            if result["connected"]:
                folded = fold_constant_gates(folded, data.train.join(data.val), device=runtime.device)
            accuracy = evaluate(folded, data.test, device=runtime.device)
            of = {"scheme": config["scheme"], "connected": result["connected"], "last": result["last"]}
            outcome = {**named, **of, "test_accuracy": accuracy, "test_images": len(data.test)}
            run.finish(outcome, folded.state_dict())
    return result_of(run)
