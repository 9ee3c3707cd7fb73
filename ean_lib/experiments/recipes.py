"""What is done by default with a dataset: the network, the trainings, the search, the forms that are compared.

The preset ``quick`` takes two CPU cores minutes, ``full`` hours; ``paper`` is the paper's scale. All that depends on
the dataset or the preset is decided here, for the command line as for a chapter.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple, get_args

from ean_lib.checks import check_choice
from ean_lib.experiments.forms import DEFAULT_FORMS, FORMS, Form
from ean_lib.experiments.task import Task
from ean_lib.learning.constant_gates import has_gate
from ean_lib.learning.training import TrainConfig
from ean_lib.networks.foreign import is_foreign
from ean_lib.search import SearchConfig

Preset = Literal["quick", "full", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
CIFAR = ("cifar10", "cifar100")


class Recipe(NamedTuple):
    """A task, and how its supernet is trained, how that is searched, and how the schemes are retrained."""

    task: Task
    supernet: TrainConfig
    search: SearchConfig
    retrain: TrainConfig


def recipe(dataset: str, preset: Preset = "quick", attention: str | None = None, backbone: str | None = None) -> Recipe:
    """The recipe of a dataset.

    Args:
        dataset: one that `ean_lib.load_data` knows.
        preset: one of `PRESETS`. cued_shapes and cued_photos are not in the paper: there, ``paper`` is ``full``.
        attention: the module; None: the recipe's own. A bottleneck that is meant for the recipe's own module is left
            out for another one.
        backbone: another library's network; None, or one of ours: the recipe's own. What is meant for that one, its
            depth, strides and bottleneck, is left out.

    Raises:
        ValueError: if there is no such preset.
    """
    check_choice("preset", preset, PRESETS)
    if dataset == "cued_shapes":
        chosen = _cued_shapes(quick=preset == "quick")
    elif dataset == "cued_photos":
        chosen = _cued_photos(quick=preset == "quick")
    elif preset == "paper":
        chosen = _paper(dataset)
    else:
        chosen = _photographs(dataset, quick=preset == "quick")
    if backbone is not None and is_foreign(backbone):
        plain = {"blocks": None, "width": None, "stem_stride": None, "rd_ratio": None}
        chosen = chosen._replace(task=dataclasses.replace(chosen.task, backbone=backbone, **plain))
    if attention in (None, chosen.task.attention):
        return chosen
    return chosen._replace(task=dataclasses.replace(chosen.task, attention=attention, rd_ratio=None))


def default_forms(dataset: str, attention: str, backbone: str = Task.backbone) -> tuple[Form, ...]:
    """The forms that `ean run` makes of a dataset, an attention module and a backbone."""
    if dataset == "cued_shapes":
        forms: tuple[Form, ...] = ("share-full", "ean", "constant", "late")
    elif dataset == "cued_photos":
        forms = FORMS
    else:
        forms = DEFAULT_FORMS  # late connections are a control where a cue asks for early ones
    if has_gate(attention) and not is_foreign(backbone):  # not all of those have a BatchNorm to fold a gate into
        return forms
    return tuple(form for form in forms if form != "constant")


def bench_training(dataset: str, preset: Preset = "quick") -> TrainConfig:
    """How a truth table trains a network: as `ean run` retrains, but an epoch less in quick: it trains hundreds."""
    retrain = recipe(dataset, preset).retrain
    if preset != "quick":
        return retrain
    return dataclasses.replace(retrain, epochs=retrain.epochs - 1)


def _cued_shapes(quick: bool) -> Recipe:
    # SE's usual C/16 would leave stage 1 a single unit to tell three colours apart. Learning that takes a number of
    # steps, whatever the number of images in each: so small batches. The supernet needs no warm-up with this
    # bottleneck (book/results/cued_shapes_tuning.md); it has one because the recorded runs have.
    task = Task("cued_shapes", "resnet20", rd_ratio=1 / 2, blocks=(2, 2, 2), stem_stride=2)
    supernet = TrainConfig(epochs=4 if quick else 20, batch_size=32, warmup=0.4, augment=False, weight_decay=1e-4)
    retrain = TrainConfig(epochs=4 if quick else 12, batch_size=16, augment=False, weight_decay=1e-4)
    return Recipe(task, supernet, SearchConfig(), retrain)


def _cued_photos(quick: bool) -> Recipe:
    # A supernet that draws schemes from the start never learns the gate (book/results/cued_photos_tuning.md).
    task = Task("cued_photos", "resnet20", rd_ratio=1 / 2, stem_stride=2)
    supernet = TrainConfig(epochs=10 if quick else 30, lr=0.2, warmup=0.4, precision="auto")
    retrain = TrainConfig(epochs=6 if quick else 24, lr=0.2, precision="auto")
    return Recipe(task, supernet, SearchConfig(), retrain)


def _photographs(dataset: str, quick: bool) -> Recipe:
    task = Task(dataset, "resnet20" if dataset in CIFAR else "resnet18", stem_stride=2)
    supernet = TrainConfig(epochs=8 if quick else 20)
    retrain = TrainConfig(epochs=6 if quick else 20)
    return Recipe(task, supernet, SearchConfig(), retrain)


def _paper(dataset: str) -> Recipe:
    """The scale of the paper's code, but for Nesterov's momentum.

    Supernet: 50 epochs, lr 0.1 (a tenth at epoch 40), batch 256, weight decay 1e-4. Retraining: 120 epochs, lr a tenth
    at each quarter; on CIFAR by DIANet's recipe, 180 epochs, batch 128, lr a tenth after one and two thirds.
    """
    by_steps = partial(TrainConfig, schedule="step", weight_decay=1e-4)
    supernet = by_steps(epochs=50, batch_size=256, milestones=(0.8,))
    if dataset in CIFAR:
        task, retrain = Task(dataset, "resnet164"), by_steps(epochs=180, milestones=(1 / 3, 2 / 3))
    else:
        task = Task(dataset, "resnet50")
        retrain = by_steps(epochs=120, batch_size=256, milestones=(0.25, 0.5, 0.75))
    return Recipe(task, supernet, SearchConfig(), retrain)
