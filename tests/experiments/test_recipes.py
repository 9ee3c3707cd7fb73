"""The defaults of a dataset and a preset."""

import dataclasses
import inspect
import re

import pytest

from ean_lib import load_record
from ean_lib.attention import list_attentions
from ean_lib.attention.registry import is_registered_elsewhere
from ean_lib.data import DATASETS
from ean_lib.experiments import task
from ean_lib.experiments.recipes import PRESETS, recipe
from ean_lib.networks import BACKBONES
from ean_lib.runs import rebuild


def test_the_paper_preset_is_the_scale_of_the_paper() -> None:
    task, supernet, _, retrain = recipe("image_folder:imagenet", "paper")
    assert task.stages == (3, 4, 6, 3) and task.backbone == "resnet50" and task.stem_stride is None
    assert (supernet.epochs, supernet.batch_size, supernet.lr, supernet.weight_decay) == (50, 256, 0.1, 1e-4)
    assert (retrain.epochs, retrain.milestones) == (120, (0.25, 0.5, 0.75))
    task, _, _, retrain = recipe("cifar100", "paper")
    assert task.stages == (18, 18, 18) and (retrain.epochs, retrain.batch_size) == (180, 128)
    for dataset in ("cued_shapes", "cued_photos"):
        assert recipe(dataset, "paper") == recipe(dataset, "full"), f"the paper has no {dataset}"


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_longer_preset_trains_for_longer(dataset: str) -> None:
    costs = []
    for preset in PRESETS:
        _, supernet, _, retrain = recipe(dataset, preset)
        costs.append((supernet.epochs, retrain.epochs))
    (s_quick, r_quick), (s_full, r_full), (s_paper, r_paper) = costs
    assert s_quick < s_full <= s_paper and r_quick < r_full <= r_paper
    assert recipe(dataset, "full")[0] == recipe(dataset, "quick")[0], "on a CPU the network is the same, and small"


@pytest.mark.parametrize(("folder", "number"), [("supernet", 1), ("share-full", 3)])
def test_the_recorded_runs_are_of_the_quick_recipe(folder: str, number: int) -> None:
    """So the command beside their table still makes them."""
    config = load_record("cued_shapes").run(f"seed-0/{folder}").config
    chosen = recipe("cued_shapes")
    for ours, recorded in ((chosen[0], config["task"]), (chosen[number], config["train"])):
        assert rebuild(type(ours), recorded) == ours


def test_every_option_of_a_dataset_that_a_task_has_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "load_data", lambda name, **options: (name, options))
    of_data = {field.name for field in dataclasses.fields(task.Task)} - set(task.NOT_OF_THE_DATA)
    assert {"objects", "cue"} <= of_data
    for number, name in enumerate(sorted(of_data)):
        made = task.Task(subset=123)
        object.__setattr__(made, name, number)  # whatever its type
        assert made.data(root="nowhere") == ("cued_shapes", {"root": "nowhere", "subset": 123, name: number})


def test_the_help_of_a_task_names_every_dataset_module_and_backbone() -> None:
    source = inspect.getsource(task.Task)
    # Not timm:NAME, nor a module that another test has named by where it is.
    own = [name for name in list_attentions() if ":" not in name and not is_registered_elsewhere(name)]
    for name in (*DATASETS, *own):
        assert re.search(rf"\b{name}\b", source), name
    for name in BACKBONES:
        assert re.search(rf"\b{name}\b|resnet[\d/]*\b{name.removeprefix('resnet')}\b", source), name
