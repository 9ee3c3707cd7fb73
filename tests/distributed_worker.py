"""Started by test_training.py in one or two processes: train one epoch and write gradients, weights and history."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tiny import STAGES, tiny_data, tiny_net

from ean_lib.data import Split
from ean_lib.schemes import Scheme
from ean_lib.training import TrainConfig, train


def main() -> None:
    case, out = sys.argv[1], Path(sys.argv[2])
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
