"""The forms of a network that a report compares: backbone, Org-full, Share-full, EAN, and controls."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ean_lib.checks import check_choice
from ean_lib.experiments.steps import read_scheme, run_retrain
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import Runtime
from ean_lib.schemes import Scheme

Form = Literal["backbone", "org-full", "share-full", "ean", "random", "late"]


FORMS: tuple[Form, ...] = get_args(Form)


def run_form(
    task: Task, form: str, found: str, config: TrainConfig, seed: int, index: int, out: Path, runtime: Runtime
) -> dict[str, Any]:
    """Retrain the scheme that a form stands for; random and late have as many connections as the scheme found."""
    check_choice("form", form, FORMS)
    found_scheme = read_scheme(found, task)
    stages, k, blocks = found_scheme.stages, found_scheme.connected, len(found_scheme)
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + index)
    scheme, share = {
        "backbone": (Scheme.none(stages), "stage"),
        "org-full": (Scheme.full(stages), "none"),
        "share-full": (Scheme.full(stages), "stage"),
        "ean": (found_scheme, "stage"),
        "random": (Scheme.random(stages, generator, connected=k), "stage"),
        "late": (Scheme.parse([i >= blocks - k for i in range(blocks)], stages), "stage"),
    }[form]
    return run_retrain(task, scheme, config, seed, out, runtime, share, form)
