"""Started by test_training.py in one or two processes.

"training": it trains one epoch of each case, and the first process writes gradients, weights and history of each.
"pipeline": each process writes what the functions of the pipeline gave it, while the first one takes its time to write
results.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from tiny import STAGES, tiny_data, tiny_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock

from ean_lib.experiments import bench, steps
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig, train
from ean_lib.networks import AttentionResNet, PluggedNetwork, plug
from ean_lib.runs import Run, Runtime
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig
from ean_lib.supernet import Scorer

DEVICE = "cpu" if torch.cuda.is_available() else "auto"  # two processes would need two GPUs
CONFIG = TrainConfig(epochs=1, batch_size=20, lr=0.01, sync_batchnorm=True)


def run_pipeline(out: Path) -> None:
    finish = Run.finish
    Run.finish = lambda run, *arguments: (time.sleep(1), finish(run, *arguments))
    task = Task(subset=64, blocks=(1, 1), width=8)
    config, runtime = TrainConfig(epochs=1, batch_size=32), Runtime(device="cpu", progress=False)
    trained = steps.run_supernet(task, config, 0, out / "supernet", runtime)
    found = steps.run_search(out / "supernet", SearchConfig(method="exhaustive"), 0, out / "search", runtime)
    retrained = steps.run_retrain(task, str(out / "search"), config, 0, out / "ean", runtime)
    scores = bench.run_scores(task, config, 0, out / "bench", runtime)
    costs = bench.run_costs(task, list(Scheme.all_of((1, 1))), out / "costs", runtime)
    rank = torch.distributed.get_rank()
    results = [trained, json.loads(found.to_json()), retrained, scores, costs]
    (out / f"rank-{rank}.json").write_text(json.dumps(results))


def frozen_net() -> AttentionResNet:
    net = tiny_net("dia")
    net.layer2.requires_grad_(False)
    return net


def plugged_net() -> PluggedNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = BasicBlock(8, 8), BasicBlock(8, 8)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return plug(net, "dia", example=torch.zeros(2, 3, 16, 16), seed=0)


def run_trainings(out: Path) -> None:
    """The networks are float64, so that only mistakes differ."""
    several = dataclasses.replace(CONFIG, sampler="complementary")
    cases = {
        "fixed": (tiny_net("dia"), CONFIG, Scheme.parse("10-01-1")),
        "none": (tiny_net("dia"), CONFIG, Scheme.none(STAGES)),
        "uniform": (tiny_net("dia"), CONFIG, "random"),
        "complementary": (tiny_net("dia"), several, "random"),
        # 3 images of 6 on each process for two schemes, 6 of 12 for four
        "complementary, uneven": (tiny_net("dia"), dataclasses.replace(several, batch_size=6), "random"),
        "sandwich, uneven": (tiny_net("dia"), dataclasses.replace(CONFIG, sampler="sandwich", batch_size=12), "random"),
        "frozen": (frozen_net(), several, "random"),
        "plugged": (plugged_net(), several, "random"),
        "dataset": (tiny_net("dia"), several, "random"),
        "skipping": (tiny_net("dia").prune("11-00-1"), CONFIG, Scheme.parse("00-00-1")),
    }
    images = TensorDataset(*next(tiny_data().train.batches(60)))
    for case, (net, config, scheme) in cases.items():
        data = images if case == "dataset" else tiny_data()
        gradients, history = train_noting_gradients(net.double(), data, config, scheme)
        # The first training joins the processes.
        is_first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        if is_first:
            folder = out / case
            folder.mkdir()
            torch.save({"gradients": gradients, "net": net.state_dict()}, folder / "state.pt")
            (folder / "history.json").write_text(json.dumps(history))
    if is_first:  # whatever waits for the other process would wait for ever
        net = cases["uniform"][0].train()
        kinds = sorted({type(module).__name__ for module in net.modules() if isinstance(module, nn.BatchNorm2d)})
        scores = Scorer(net, tiny_data(), recalibrate=20, device="cpu")([Scheme.full(STAGES)])
        (out / "after.json").write_text(json.dumps({"kinds": kinds, "scores": scores}))
    try:
        train(tiny_net("dia"), tiny_data(), dataclasses.replace(CONFIG, sampler="sandwich", batch_size=4), device="cpu")
    except ValueError as error:
        if is_first:
            (out / "refused.txt").write_text(str(error))
    try:
        train(tiny_net("dia"), DataLoader(images, batch_size=20), CONFIG, device="cpu")
    except ValueError as error:
        if is_first:
            (out / "loader.txt").write_text(str(error))


def train_noting_gradients(
    net: AttentionResNet, data: object, config: TrainConfig, scheme: Scheme | str
) -> tuple[dict, list]:
    """The gradients of the first step, and the history."""
    first: dict[str, torch.Tensor] = {}
    step = torch.optim.SGD.step

    def remember(optimizer: torch.optim.SGD, *arguments: object) -> object:
        if not first:
            first.update({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        return step(optimizer, *arguments)

    torch.optim.SGD.step = remember
    try:
        return first, train(net, data, config, scheme, device=DEVICE, progress=False)
    finally:
        torch.optim.SGD.step = step


def main() -> None:
    out = Path(sys.argv[2])
    {"training": run_trainings, "pipeline": run_pipeline}[sys.argv[1]](out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


main()
