"""Started by test_training.py in one or two processes.

It trains one epoch and writes gradients, weights and history; or, in the case "pipeline", each process writes what the
functions of the pipeline gave it, while the first one takes its time to write results.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from tiny import STAGES, tiny_data, tiny_net

from ean_lib.data import Split
from ean_lib.experiments import bench, steps
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig, train
from ean_lib.runs import Run, Runtime
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig


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


def main() -> None:
    case, out = sys.argv[1], Path(sys.argv[2])
    if case == "pipeline":
        run_pipeline(out)
        return torch.distributed.destroy_process_group()
    config = TrainConfig(
        epochs=1, batch_size=20, lr=0.01, sync_batchnorm=True, sampler=case if case == "complementary" else "uniform"
    )
    scheme = {"fixed": Scheme.parse("10-01-1"), "none": Scheme.none(STAGES)}.get(case, "random")
    net, first = tiny_net("dia").double(), {}
    batches = Split.batches
    Split.batches = lambda *a, **k: ((x.double(), y) for x, y in batches(*a, **k))  # so that only mistakes differ
    step = torch.optim.SGD.step

    def remember(optimizer: torch.optim.SGD, *arguments: object) -> object:
        if not first:
            first.update({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        return step(optimizer, *arguments)

    torch.optim.SGD.step = remember
    history = train(net, tiny_data(), config, scheme, device="cpu", progress=False)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save({"gradients": first, "net": net.state_dict()}, out / "state.pt")
        (out / "history.json").write_text(json.dumps(history))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


main()
