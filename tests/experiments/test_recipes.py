"""The defaults of a dataset and a preset."""

import pytest

from ean_lib import load_record
from ean_lib.experiments.recipes import PRESETS, recipe
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


@pytest.mark.parametrize("dataset", ["cued_shapes", "cued_photos", "cifar10", "cifar100", "image_folder:PATH"])
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
