"""One loop: it learns, it repeats, it resumes to the bit, and several processes compute what one computes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_data, tiny_net

from ean_lib.data import Data, Split
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.training import NonFiniteLossError, TrainConfig, learning_rate, train
from ean_lib.networks import build_network
from ean_lib.runs import Run
from ean_lib.runs import run as runs
from ean_lib.schemes import Scheme

FAST = TrainConfig(epochs=2, batch_size=16, lr=0.05, augment=False)


def weights_after(config: TrainConfig, scheme: Scheme | str = "random", run: Run | None = None) -> dict:
    net = tiny_net("se")
    train(net, tiny_data(), config, scheme, run, device="cpu", progress=False)
    return net.state_dict()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_network_learns_its_training_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(128) % 2
    images = torch.randint(0, 120, (128, 3, 16, 16), generator=generator) + 100 * labels[:, None, None, None]
    part = Split.from_arrays(images.to(torch.uint8), labels)
    data = Data("bright", 2, ("dark", "bright"), (16, 16), part.mean, part.std, part, part, part)
    net = build_network("resnet20", "se", num_classes=2, width=8, blocks=(1, 1), seed=0)
    history = train(net, data, dataclasses.replace(FAST, epochs=4), Scheme.full((1, 1)), device="cpu", progress=False)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert evaluate(net, data.val, device="cpu") >= 95
    assert net.training


@pytest.mark.parametrize("sampler", ["uniform", "complementary", "sandwich"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(sampler: str) -> None:
    config = dataclasses.replace(FAST, sampler=sampler)
    assert equal(weights_after(config), weights_after(config))
    assert not equal(weights_after(config), weights_after(dataclasses.replace(config, seed=1)))


class Killed(Exception):
    """Stands for the process dying right after a checkpoint."""


def test_a_training_cut_off_after_an_epoch_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(FAST, epochs=3)
    whole = weights_after(config)
    save = Run.save_checkpoint

    def save_and_die(run: Run, *arguments: object) -> None:
        save(run, *arguments)
        raise Killed

    for _ in range(2):  # dies after epoch 1, then after epoch 2
        run = Run(tmp_path / "run", {"kind": "test"})
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Run, "save_checkpoint", save_and_die)
            weights_after(config, run=run)
        run.close()
    run = Run(tmp_path / "run", {"kind": "test"})
    assert len(run.read_metrics()) == 2
    assert equal(weights_after(config, run=run), whole)
    assert len(run.read_metrics()) == 3


@pytest.mark.parametrize("file", ["metrics.jsonl", "checkpoint.pt"])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_training_cut_off_between_two_files_resumes_to_the_same_files(
    file: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, write = dataclasses.replace(FAST, epochs=3), Run(tmp_path / "whole", {}), runs.write_atomically
    weights = weights_after(config, run=whole)
    written: list[str] = []

    def write_and_die(path: Path, content: bytes | str) -> None:
        write(path, content)
        written.append(path.name)
        if written.count(file) == epoch:
            raise Killed

    run = Run(tmp_path / "cut", {})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runs, "write_atomically", write_and_die)
        weights_after(config, run=run)
    run.close()
    run = Run(tmp_path / "cut", {})
    assert equal(weights_after(config, run=run), weights)
    assert run.read_metrics() == whole.read_metrics()


def test_a_warm_up_goes_over_into_a_sampler_that_draws_several_schemes_a_step() -> None:
    config = dataclasses.replace(FAST, sampler="sandwich", warmup=0.4)
    (first, second) = train(tiny_net("se"), tiny_data(), config, device="cpu", progress=False)
    assert 0 <= first["accuracy"] <= 100 and first["loss"] > 0 and second["loss"] > 0


def test_stand_alone_training_touches_only_the_connected_modules() -> None:
    before, after = (
        tiny_net("se").state_dict(),
        weights_after(dataclasses.replace(FAST, weight_decay=0.0), Scheme.parse("11-00-0")),
    )
    changed = {key.split(".")[0] for key in before if ".attention." in key and not torch.equal(before[key], after[key])}
    assert changed == {"layer1"}


def test_a_loss_that_is_not_finite_stops_with_the_step_and_what_to_try() -> None:
    net = tiny_net("se")
    with torch.no_grad():
        net.fc.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 0 .* try a lower lr"):
        train(net, tiny_data(), FAST, device="cpu", progress=False)


def test_the_step_of_a_blow_up_is_the_step_at_which_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    import ean_lib.learning.training as training

    seen = []

    def loss(scores: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
        seen.append(len(labels))
        return scores.square().mean() * (float("inf") if len(seen) == 5 else 1.0)

    monkeypatch.setattr(training.F, "cross_entropy", loss)
    with pytest.raises(NonFiniteLossError, match="at step 4 "):
        train(tiny_net("se"), tiny_data(), dataclasses.replace(FAST, epochs=3), device="cpu", progress=False)


def test_training_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be at most 60, the number of training images, .* got 64"):
        train(tiny_net("se"), tiny_data(), dataclasses.replace(FAST, batch_size=64), device="cpu", progress=False)
    with pytest.raises(ValueError, match="a supernet needs attention at every block"):
        train(tiny_net("se").prune("10-00-0"), tiny_data(), FAST, device="cpu", progress=False)
    with pytest.raises(ValueError, match="scheme must be a Scheme or 'random'"):
        train(tiny_net("se"), tiny_data(), FAST, "all", device="cpu", progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")},
        {"milestones": (1.5,)}, {"gamma": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"label_smoothing": 1.0},
        {"schedule": "cosine"},
        {"sampler": "fair"}, {"precision": "fp16"}, {"seed": -1}, {"epochs": 2.5}, {"augment": 1}, {"warmup": "0.4"},
    ],
)  # fmt: skip
def test_a_config_names_the_field_that_is_wrong(wrong: dict) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError) as error:
        TrainConfig(**wrong)
    shown = value[0] if isinstance(value, tuple) else value
    assert str(error.value).startswith((f"{name} must be", f"unknown {name}")) and repr(shown) in str(error.value)


@given(st.integers(1, 500), st.floats(1e-4, 10))
def test_one_cycle_stays_within_its_bounds_and_ends_near_zero(total: int, lr: float) -> None:
    config = TrainConfig(lr=lr)
    rates = [learning_rate(step, total, config) for step in range(total)]
    assert all(0 <= rate <= lr * (1 + 1e-9) for rate in rates)
    assert total < 2 or learning_rate(total, total, config) <= 1e-9 * lr


def test_step_schedule_drops_at_its_milestones() -> None:
    config = TrainConfig(lr=1.0, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    rates = [round(learning_rate(step, 8, config), 6) for step in range(8)]
    assert rates == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


WORKER = Path(__file__).resolve().parents[1] / "distributed_worker.py"


def run_processes(world: int, case: str, out: Path) -> None:
    """Run the worker in `world` gloo processes, which write into the folder."""
    out.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(WORKER.parent), str(WORKER.parent.parent)]),
    }
    command = [*(launcher if world > 1 else [sys.executable]), str(WORKER), case, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def trained_by(world: int, case: str, out: Path) -> dict:
    """What the first of `world` processes has trained."""
    run_processes(world, case, out)
    state, history = torch.load(out / "state.pt", weights_only=True), json.loads((out / "history.json").read_text())
    return {**state, "history": history}


@pytest.mark.parametrize("case", ["fixed", "uniform", "complementary", "none"])
def test_two_processes_compute_what_one_computes_on_the_joined_batch(case: str, tmp_path: Path) -> None:
    """First step's gradients, and the weights after an epoch; case none: all schemes off must not hang."""
    alone, together = trained_by(1, case, tmp_path / "one"), trained_by(2, case, tmp_path / "two")
    assert alone["gradients"].keys() == together["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        difference = (together["gradients"][name] - gradient).norm().item()
        assert difference <= 1e-5 * gradient.norm().item() + 1e-7, name
    for name, weight in alone["net"].items():
        assert torch.allclose(together["net"][name], weight, rtol=1e-4, atol=1e-5), name
    assert together["history"][0]["loss"] == pytest.approx(alone["history"][0]["loss"], rel=1e-4)
    assert together["history"][0]["accuracy"] == pytest.approx(alone["history"][0]["accuracy"], abs=1e-3)


def test_every_process_gets_the_results_of_the_pipeline_however_long_the_first_one_writes(tmp_path: Path) -> None:
    run_processes(2, "pipeline", tmp_path / "two")
    first, second = ((tmp_path / "two" / f"rank-{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    trained, found, retrained, scores, costs = json.loads(first)
    assert trained["epochs"] == 1 and retrained["scheme"] == found["scheme"]
    assert list(scores["own"]) == list(costs) == ["0-0", "0-1", "1-0", "1-1"]
