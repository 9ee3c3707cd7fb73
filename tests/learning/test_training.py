"""One loop: it learns, it repeats, it resumes to the bit, and several processes compute what one computes."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import STAGES, tiny_data, tiny_net
from torch import nn

from ean_lib import devices
from ean_lib.data import Data, Split
from ean_lib.experiments.steps import run_supernet
from ean_lib.experiments.task import Task
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.training import NonFiniteLossError, TrainConfig, learning_rate, train
from ean_lib.networks import build_network
from ean_lib.runs import Run, Runtime
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
        {"sampler": "fair"}, {"precision": "fp16"}, {"seed": -1}, {"optimizer": "adam"},
        {"clip_norm": 0.0}, {"epochs": 2.5}, {"augment": 1}, {"warmup": "0.4"},
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
TRAININGS = (
    "fixed", "none", "uniform", "complementary", "complementary, uneven", "sandwich, uneven", "frozen", "plugged",
    "dataset", "skipping",
)  # fmt: skip


def run_processes(world: int, case: str, out: Path, launched: bool = True) -> Path:
    """Run the worker in `world` gloo processes, which write into the folder."""
    out.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"] if launched else []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(WORKER.parent), str(WORKER.parent.parent)]),
    }
    command = [sys.executable, *launcher, str(WORKER), case, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    return run_processes(1, "training", tmp_path_factory.mktemp("trained") / "alone", launched=False)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes train."""
    return run_processes(2, "training", tmp_path_factory.mktemp("trained") / "together")


def read_training(folder: Path) -> tuple[dict, dict, dict]:
    """The first step's gradients, the weights at the end, and the record of the epoch."""
    state = torch.load(folder / "state.pt", weights_only=True)
    return state["gradients"], state["net"], json.loads((folder / "history.json").read_text())[0]


@pytest.mark.parametrize("case", TRAININGS)
def test_two_processes_compute_what_one_computes_on_the_joined_batch(case: str, alone: Path, together: Path) -> None:
    """First step's gradients, and the weights after an epoch; case none: all schemes off must not hang."""
    gradients, weights, record = read_training(alone / case)
    gradients_2, weights_2, record_2 = read_training(together / case)
    assert gradients_2.keys() == gradients.keys()
    for name, gradient in gradients.items():
        difference = (gradients_2[name] - gradient).norm().item()
        assert difference <= 1e-9 * gradient.norm().item() + 1e-12, name
    for name, weight in weights.items():
        assert torch.allclose(weights_2[name], weight, rtol=1e-7, atol=1e-9), name
    assert record_2["loss"] == pytest.approx(record["loss"], rel=1e-9)
    assert record_2["accuracy"] == pytest.approx(record["accuracy"], abs=1e-3)


def test_one_process_under_a_launcher_computes_what_one_without_computes(alone: Path, tmp_path: Path) -> None:
    launched = run_processes(1, "training", tmp_path / "launched")
    for case in TRAININGS:
        _, weights, record = read_training(alone / case)
        _, weights_2, record_2 = read_training(launched / case)
        assert equal(weights_2, weights), case
        assert record_2 == record, case


def test_a_network_that_two_processes_have_trained_waits_for_no_other_process(together: Path) -> None:
    """Its BatchNorms were joined; a scorer on one process alone re-estimates their statistics."""
    after = json.loads((together / "after.json").read_text())
    assert after["kinds"] == ["BatchNorm2d"]
    assert 0 <= after["scores"][0] <= 100


def test_two_processes_refuse_a_batch_that_leaves_a_scheme_without_images(alone: Path, together: Path) -> None:
    message = (together / "refused.txt").read_text()
    assert message.startswith("batch_size must be at least 8, got 4: the sampler 'sandwich' divides the images")
    assert not (alone / "refused.txt").exists()  # one process has an image for each of the four schemes


def test_two_processes_refuse_a_loader_that_is_not_divided_among_them(alone: Path, together: Path) -> None:
    message = (together / "loader.txt").read_text()
    assert message.startswith("2 processes work together, and these batches are made for 1")
    assert not (alone / "loader.txt").exists()


def test_every_process_gets_the_results_of_the_pipeline_however_long_the_first_one_writes(tmp_path: Path) -> None:
    run_processes(2, "pipeline", tmp_path / "two")
    first, second = ((tmp_path / "two" / f"rank-{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    trained, found, retrained, scores, costs = json.loads(first)
    assert trained["epochs"] == 1 and retrained["scheme"] == found["scheme"]
    assert list(scores["own"]) == list(costs) == ["0-0", "0-1", "1-0", "1-1"]


def train_tiny(net: nn.Module, config: TrainConfig = FAST, scheme: Scheme | str = "random", **options: object) -> list:
    return train(net, tiny_data(), config, scheme, **({"device": "cpu", "progress": False} | options))


def test_frozen_parameters_stay_as_they_are_to_the_bit_and_the_others_learn() -> None:
    net = tiny_net("se")
    net.conv1.requires_grad_(False)
    net.layer1.attention.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    train_tiny(net, dataclasses.replace(FAST, epochs=4))
    after = net.state_dict()
    frozen = [name for name in before if name.startswith(("conv1.", "layer1.attention."))]
    assert frozen
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert not torch.equal(after["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])
    assert [p.requires_grad for p in net.conv1.parameters()] == [False]


def test_a_network_without_a_parameter_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train: no parameter of the network has requires_grad"):
        train_tiny(tiny_net("se").requires_grad_(False))


def test_modules_that_are_in_eval_mode_stay_in_it_unless_the_whole_network_is() -> None:
    net = tiny_net("se")
    net.bn1.eval()
    before = copy.deepcopy(net.state_dict())
    train_tiny(net)
    assert not net.bn1.training and net.layer1.training
    assert torch.equal(net.bn1.running_mean, before["bn1.running_mean"])
    assert not torch.equal(net.layer1.get_submodule("0").bn1.running_mean, before["layer1.0.bn1.running_mean"])
    loaded = tiny_net("se").eval()  # as load_network gives it
    train_tiny(loaded)
    assert all(module.training for module in loaded.modules())
    assert equal(loaded.state_dict(), weights_after(FAST))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_is_trained_and_evaluated_in_it(dtype: torch.dtype) -> None:
    net = tiny_net("se").to(dtype)
    history = train_tiny(net)
    assert all(value.dtype == dtype for value in net.state_dict().values() if value.is_floating_point())
    assert math.isfinite(history[-1]["loss"])
    assert evaluate(net, tiny_data().val, device="cpu") in {100 * n / 60 for n in range(61)}


def test_float64_computes_what_float32_computes() -> None:
    single, double = tiny_net("se"), tiny_net("se").double()
    one_step = dataclasses.replace(FAST, epochs=1, batch_size=60)
    losses = [train_tiny(net, one_step)[0]["loss"] for net in (single, double)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("dtype", "precision", "message"),
    [
        (torch.float16, "fp32", "a float16 network cannot be trained"),
        (torch.float64, "bf16", "precision bf16 is for float32 networks, this one is float64"),
    ],
)
def test_a_type_that_cannot_be_trained_is_refused(dtype: torch.dtype, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tiny(tiny_net("se").to(dtype), dataclasses.replace(FAST, precision=precision))


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_batch_that_leaves_a_scheme_without_images_is_refused(batch_size: int) -> None:
    config = dataclasses.replace(FAST, epochs=1, batch_size=batch_size)
    expected = f"batch_size must be at least 4, got {batch_size}: the sampler 'sandwich' divides .* over 4 schemes"
    with pytest.raises(ValueError, match=expected):
        train_tiny(tiny_net("se"), dataclasses.replace(config, sampler="sandwich"))
    train_tiny(tiny_net("se"), dataclasses.replace(config, sampler="complementary"))
    train_tiny(tiny_net("se"), config, Scheme.full(STAGES))  # it draws no schemes


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", *(["cuda"] if not torch.cuda.is_available() else [])])
def test_a_device_that_is_not_there_is_refused_before_anything_is_changed(device: str) -> None:
    net = tiny_net("se").eval()
    for use in (lambda: train_tiny(net, device=device), lambda: evaluate(net, tiny_data().val, device=device)):
        with pytest.raises(ValueError, match=f"there is no device '{device}' here .* try 'cpu', or 'auto'"):
            use()
    assert not net.training
    assert equal(net.state_dict(), tiny_net("se").state_dict())


def test_fewer_outputs_than_classes_are_answered_with_what_to_do() -> None:
    net = build_network("resnet20", "se", num_classes=3, width=8, blocks=STAGES, seed=0)
    for use in (lambda: train_tiny(net), lambda: evaluate(net, tiny_data().val, device="cpu")):
        with pytest.raises(ValueError, match=r"has 3 outputs, but the labels go up to class 3: .* num_classes=4"):
            use()


def test_weights_that_are_not_finite_have_no_accuracy() -> None:
    """The highest of eight NaN is the first, which would be right for one picture of eight."""
    net = tiny_net("se")
    with torch.no_grad():
        net.layer2.get_submodule("0").conv1.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"no accuracy: the network's layer2\.0\.conv1\.weight holds such values"):
        evaluate(net, tiny_data().val, device="cpu")
    assert net.training


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_MIXED_PRECISION", "fp16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8"),
    ],
)
def test_the_configuration_decides_and_not_the_launcher(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights_after(FAST)
    monkeypatch.setenv(variable, value)
    with pytest.warns(UserWarning, match=f"{variable}={value} is not used"):
        assert equal(weights_after(FAST), expected)


@pytest.mark.parametrize("variable", ["ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_other_variables_of_the_launcher_change_nothing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights_after(FAST)
    monkeypatch.setenv(variable, "INDUCTOR" if variable.endswith("BACKEND") else "true")
    assert equal(weights_after(FAST), expected)


class Noise(nn.Module):
    """Draws from the global generators of Python and numpy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * random.random()) * (1 + 0.1 * float(np.random.rand()))


def net_with_dropout() -> nn.Module:
    net = tiny_net("se")
    net.fc = nn.Sequential(nn.Dropout(0.5), net.fc, Noise())  # dropout draws from torch's global generator
    return net


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def draw_from_all() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def test_a_module_that_draws_random_numbers_repeats_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(FAST, epochs=3)
    nets = [net_with_dropout() for _ in range(3)]
    seed_all(1)
    train_tiny(nets[0], config)
    seed_all(2)  # what the caller draws from makes no difference
    train_tiny(nets[1], config)
    assert equal(nets[0].state_dict(), nets[1].state_dict())
    save = Run.save_checkpoint

    def save_and_die(run: Run, *arguments: object) -> None:
        save(run, *arguments)
        raise Killed

    run = Run(tmp_path / "run", {})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "save_checkpoint", save_and_die)
        train_tiny(net_with_dropout(), config, run=run)
    run.close()
    train_tiny(nets[2], config, run=Run(tmp_path / "run", {}))
    assert equal(nets[0].state_dict(), nets[2].state_dict())
    other = net_with_dropout()
    train_tiny(other, dataclasses.replace(config, seed=1))
    assert not equal(nets[0].state_dict(), other.state_dict())


def test_training_leaves_what_is_not_its_own_as_it_was_also_after_an_error() -> None:
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    for is_broken in (False, True):
        net = net_with_dropout()
        if is_broken:
            net.fc[1].weight.data.fill_(float("nan"))
        seed_all(7)
        expected = draw_from_all()
        seed_all(7)
        with pytest.raises(NonFiniteLossError) if is_broken else nullcontext():
            train_tiny(net)
        assert draw_from_all() == expected
        assert all(parameter.grad is None for parameter in net.parameters())
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_auto_is_the_one_that_the_device_has_instructions_for_and_is_recorded(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"bf16": "fpu avx512_bf16 amx_tile", "fp32": "fpu avx512f"}[precision]
    monkeypatch.setattr(devices, "_cpu_info", lambda *keys: flags)
    named, chosen = tiny_net("se"), tiny_net("se")
    assert "precision" not in train_tiny(named, dataclasses.replace(FAST, precision=precision))[0]
    history = train_tiny(chosen, dataclasses.replace(FAST, precision="auto"))
    assert [record["precision"] for record in history] == [precision] * 2
    assert equal(named.state_dict(), chosen.state_dict())


def test_the_folder_of_a_run_names_the_precision_that_auto_stood_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu_info", lambda *keys: "fpu avx512_bf16")
    task, config = Task(subset=64, blocks=(1, 1), width=8), TrainConfig(epochs=1, batch_size=32, precision="auto")
    run_supernet(task, config, out=tmp_path / "run", runtime=Runtime(device="cpu", progress=False))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["precision"] == "bf16"


def test_a_scheme_of_another_network_is_refused_before_anything_is_changed() -> None:
    net = tiny_net("se").eval()
    with pytest.raises(ValueError, match="stages of"):
        train_tiny(net, scheme=Scheme.full((3, 3, 3)))
    assert not net.training


def test_adamw_takes_the_step_that_torch_takes() -> None:
    config = dataclasses.replace(FAST, epochs=1, batch_size=60, optimizer="adamw", momentum=0.8, weight_decay=0.1)
    net, by_hand = tiny_net("se"), tiny_net("se")
    train_tiny(net, config, Scheme.full(STAGES))
    x, y = next(tiny_data().train.batches(60, generator=torch.Generator().manual_seed(0)))
    rate = learning_rate(0, 1, config)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=rate, betas=(0.8, 0.999), weight_decay=0.1)
    torch.nn.functional.cross_entropy(by_hand(x), y).backward()
    optimizer.step()
    for name, weight in by_hand.state_dict().items():
        assert torch.allclose(net.state_dict()[name], weight, rtol=1e-4, atol=1e-5), name


def test_gradients_are_scaled_down_to_the_norm_and_smaller_ones_left() -> None:
    config = dataclasses.replace(FAST, epochs=1, batch_size=60, weight_decay=0.0)
    start = tiny_net("se").state_dict()

    def step_of(clip_norm: float | None) -> torch.Tensor:
        net = tiny_net("se")
        train_tiny(net, dataclasses.replace(config, clip_norm=clip_norm), Scheme.full(STAGES))
        moved = [(weight - start[name]).flatten() for name, weight in net.named_parameters()]
        return torch.cat(moved).detach()

    free, loose, tight = step_of(None), step_of(1e6), step_of(1e-2)
    assert torch.equal(free, loose)
    # The first step of Nesterov's momentum is lr (1 + momentum) times the gradient.
    assert tight.norm().item() == pytest.approx(learning_rate(0, 1, config) * 1.9 * 1e-2, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(free, tight, dim=0) > 0.999


def test_another_loss_and_what_is_done_after_each_epoch() -> None:
    seen = []
    history = train_tiny(tiny_net("se"), loss=lambda scores, labels: 0 * scores.sum() + 2.5, on_epoch=seen.append)
    assert [record["loss"] for record in history] == [2.5, 2.5]
    assert seen == history
    assert equal(weights_after(FAST), trained_with(torch.nn.functional.cross_entropy))
    with pytest.raises(ValueError, match=r"what `loss` returns must be one number, a mean: \(\), got \(16,\)"):
        trained_with(lambda scores, labels: scores.sum(1))


def trained_with(loss: Callable) -> dict:
    net = tiny_net("se")
    train_tiny(net, loss=loss)
    return net.state_dict()


def test_evaluate_takes_another_metric_and_any_module() -> None:
    net, split = tiny_net("se"), tiny_data().val
    accuracy = evaluate(net, split, device="cpu")
    by_hand = evaluate(net, split, device="cpu", metric=lambda s, y: 100 * (s.argmax(1) == y).double().mean())
    assert by_hand == pytest.approx(accuracy)
    best_of_all = evaluate(
        net, split, device="cpu", metric=lambda s, y: (s.topk(4).indices == y[:, None]).any(1).double().mean()
    )
    assert best_of_all == 1
    foreign = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    assert 0 <= evaluate(foreign, split, device="cpu") <= 100


def test_it_trains_also_where_the_caller_has_turned_gradients_off() -> None:
    with torch.no_grad():
        weights = weights_after(FAST)
        assert not torch.is_grad_enabled()
    assert equal(weights, weights_after(FAST))
