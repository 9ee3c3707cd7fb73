"""Defaults per dataset: ``quick`` takes two CPU cores minutes, ``full`` hours; ``paper`` is the paper's scale."""

from functools import partial
from typing import Literal, get_args

from ean_lib.checks import check_choice
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig
from ean_lib.search import SearchConfig

Preset = Literal["quick", "full", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


def recipe(dataset: str, preset: Preset = "quick") -> tuple[Task, TrainConfig, SearchConfig, TrainConfig]:
    """(task, supernet training, search, retraining) for a dataset.

    The paper preset follows the paper's code, but for Nesterov's momentum: supernet 50 epochs, lr 0.1 (a tenth at
    epoch 40), batch 256, weight decay 1e-4; retraining 120 epochs, lr a tenth at each quarter. DIANet's CIFAR recipe
    gives the retraining on CIFAR: 180 epochs, batch 128, lr a tenth after one and two thirds. cued_shapes and
    cued_photos are not in the paper: there it is the full preset.
    """
    check_choice("preset", preset, PRESETS)
    by_steps = partial(TrainConfig, schedule="step", weight_decay=1e-4)
    quick, cifar = preset == "quick", dataset in ("cifar10", "cifar100")
    if dataset == "cued_shapes":
        # SE's usual C/16 would leave stage 1 a single unit to tell three colours apart. Learning that takes a number of
        # steps, whatever the number of images in each: so small batches. The supernet needs no warm-up with this
        # bottleneck (book/results/cued_shapes_tuning.md); it has one because the recorded runs have.
        task = Task(dataset, "resnet20", rd_ratio=1 / 2, blocks=(2, 2, 2), stem_stride=2)
        supernet = TrainConfig(epochs=4 if quick else 20, batch_size=32, warmup=0.4, augment=False, weight_decay=1e-4)
        retrain = TrainConfig(epochs=4 if quick else 12, batch_size=16, augment=False, weight_decay=1e-4)
    elif dataset == "cued_photos":
        # A supernet that draws schemes from the start never learns the gate (book/results/cued_photos_tuning.md).
        task = Task(dataset, "resnet20", rd_ratio=1 / 2, stem_stride=2)
        supernet = TrainConfig(epochs=10 if quick else 30, lr=0.2, warmup=0.4, precision="bf16")
        retrain = TrainConfig(epochs=6 if quick else 24, lr=0.2, precision="bf16")
    elif preset == "paper":
        task = Task(dataset, "resnet164" if cifar else "resnet50")
        supernet = by_steps(epochs=50, batch_size=256, milestones=(0.8,))
        on_imagenet = by_steps(epochs=120, batch_size=256, milestones=(0.25, 0.5, 0.75))
        retrain = by_steps(epochs=180, milestones=(1 / 3, 2 / 3)) if cifar else on_imagenet
    else:
        task = Task(dataset, "resnet20" if cifar else "resnet18", stem_stride=2)
        supernet, retrain = (TrainConfig(epochs=n) for n in ((8, 6) if quick else (20, 20)))
    return task, supernet, SearchConfig(), retrain
