"""The one training loop, for stand-alone networks and for supernets, on one CPU, one GPU or many machines.

A supernet differs from a stand-alone network in one thing only: the scheme changes at every step. So ``train`` takes
``scheme="random"`` (a supernet; the schemes come from a sampler of :mod:`ean_lib.supernet`) or a fixed ``Scheme``.
Several processes (``accelerate launch``) see together the images, augmentations and schemes that one process sees.

Everything random comes from one CPU generator whose state is in the checkpoint: a killed run goes on to the same bits.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from annotated_types import Ge, Gt, Interval, Le, Lt
from torch import Tensor
from tqdm import tqdm

from ean_lib.checks import Count, Fraction, NotNegative, Positive, Seed, check, check_options
from ean_lib.data import Data, Split
from ean_lib.learning.joined_batchnorm import synchronise_batchnorm
from ean_lib.networks import Network
from ean_lib.runs import Run
from ean_lib.schemes import Scheme
from ean_lib.supernet import SAMPLERS

CHECK_EVERY = 16  # steps between looks at the loss: each look waits for the device


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; training stopped at that step."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: Count = 6
    """Passes over the training images."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Images of a step, over all processes together; BatchNorm needs two."""
    lr: Positive = 0.1
    """The highest learning rate."""
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    """one_cycle rises to lr and falls to zero (Smith 2018); step multiplies by gamma at each milestone."""
    milestones: tuple[Annotated[float, Interval(gt=0, lt=1)], ...] = (0.5, 0.75)
    """The fractions of the training after which the step schedule drops."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    """The factor of each drop of the step schedule."""
    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    """The momentum of SGD; it is Nesterov's, which needs some."""
    weight_decay: NotNegative = 5e-4
    """The L2 penalty on all weights that are trained."""
    label_smoothing: Fraction = 0.0
    """The share of the target that is spread over all classes."""
    augment: bool = True
    """Flip and crop at random, where the dataset allows it."""
    sampler: Literal["uniform", "complementary", "sandwich"] = "uniform"
    """How the schemes of a supernet's steps are drawn; see ean_lib.supernet."""
    warmup: Fraction = 0.0
    """The fraction of a supernet's training in which every block is connected, before the sampler draws schemes."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in half the bits where the device can."""
    sync_batchnorm: bool = False
    """With several processes, take BatchNorm's statistics from the joined batch instead of each process's own part."""
    seed: Seed = 0
    """The seed of the order of images, the augmentations, the sampled schemes, and what modules draw (dropout)."""

    def __post_init__(self) -> None:
        check_options(self)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of a step: a pure function, so that a resumed run needs no scheduler state."""
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= m * total for m in config.milestones)
    peak = 0.3 * total
    if step < peak:
        return config.lr * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / peak)))
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - peak) / max(total - peak, 1)))


def train(
    net: Network, data: Data, config: TrainConfig, scheme: Scheme | Literal["random"] = "random",
    run: Run | None = None, *, split: Split | None = None, device: str = "auto", progress: bool = True,
) -> list[dict[str, float]]:  # fmt: skip
    """Train net in place and return one record per epoch.

    Args:
        net: moved to the device and trained in place.
        data: its augmentations, and its training part unless ``split`` is given.
        config: the recipe.
        scheme: ``"random"`` trains a supernet; a Scheme trains that one network (prune it first).
        run: a run folder that checkpoints are written to at each epoch, and resumed from.
        split: other training images, such as ``data.train.join(data.val)`` for a final training.
        device: ``"auto"`` (a GPU if there is one) or ``"cpu"``.
        progress: show a progress bar with the running accuracy.

    Returns:
        Records with epoch, step, lr, loss, and accuracy (%) on the augmented training images.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; the last checkpoint stays.
        ValueError: if there are fewer training images than one batch holds.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    world = accelerator.num_processes
    place = {"device": accelerator.device, "rank": accelerator.process_index, "world": world}
    augment = data.augment if config.augment else ()
    split = data.train if split is None else split
    fits = config.batch_size <= len(split) and config.batch_size % world == 0
    limits = f"at most {len(split)}, the number of training images, and a multiple of {world}, the number of processes"
    check("batch_size", config.batch_size, fits, limits)
    steps_per_epoch = len(split) // config.batch_size
    total = steps_per_epoch * config.epochs
    generator = torch.Generator().manual_seed(config.seed)

    net.to(accelerator.device, memory_format=torch.channels_last).train()
    if config.sync_batchnorm and world > 1:
        synchronise_batchnorm(net)
    optimizer = torch.optim.SGD(  # its learning rate is set at each step
        net.parameters(), momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True, fused=True
    )
    history: list[dict[str, float]] = []
    if run is not None and (saved := run.load_checkpoint()) is not None:
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        history = saved["history"]
    model = accelerator.prepare(net)
    for parameter in net.parameters():  # zeros, not None: a module that is skipped is treated as one that is gated off
        parameter.grad = torch.zeros_like(parameter)
    complete = all(module is not None for _, _, module in net.connections())
    draw = _schemes_of_a_step(net, config, scheme, generator, warm=config.warmup * total)

    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=total, initial=len(history) * steps_per_epoch, disable=hidden, unit="step", leave=False)
    with cudnn, bar:
        for epoch in range(len(history), config.epochs):
            meter = _Meter(accelerator, first_step=epoch * steps_per_epoch)
            batches = split.batches(config.batch_size, generator=generator, augment=augment, drop_last=True, **place)
            for step, (x, y) in enumerate(batches, start=epoch * steps_per_epoch):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, total, config)
                optimizer.zero_grad(set_to_none=False)
                schemes, parts = draw(step), []
                for k, choice in enumerate(schemes):
                    # Every k-th image: each process then gives a scheme the images that one process would give it.
                    images, labels = x[k :: len(schemes)], y[k :: len(schemes)]
                    # A tensor gate gives every process a gradient for every parameter, whatever the scheme.
                    gate = choice.as_tensor(accelerator.device) if world > 1 and complete else choice
                    with autocast:
                        scores = model(images, gate)
                        loss = F.cross_entropy(scores.float(), labels, label_smoothing=config.label_smoothing)
                    share = len(labels) / len(y)
                    with accelerator.no_sync(model) if k + 1 < len(schemes) else nullcontext():
                        accelerator.backward(loss * share)
                    correct = (scores.argmax(1) == labels).sum()
                    parts.append(torch.stack([loss.detach() * share, correct, correct.new_tensor(len(labels))]))
                meter.pending.append(torch.stack(parts).sum(0))
                if (step + 1) % CHECK_EVERY == 0 or (step + 1) % steps_per_epoch == 0:
                    meter.check()
                    bar.set_postfix(epoch=epoch + 1, loss=f"{meter.loss:.3f}", accuracy=f"{meter.accuracy:.1f}%")
                optimizer.step()
                bar.update()
            record = {"epoch": epoch + 1, "step": step + 1, "lr": optimizer.param_groups[0]["lr"]}
            history.append({**record, "loss": meter.loss, "accuracy": meter.accuracy})
            if run is not None:
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                run.save_checkpoint({**state, "generator": generator.get_state(), "history": history})
            accelerator.wait_for_everyone()
    return history


def _schemes_of_a_step(
    net: Network, config: TrainConfig, scheme: Scheme | str, generator: torch.Generator, warm: float
) -> Callable[[int], list[Scheme]]:
    if isinstance(scheme, Scheme):
        return lambda step: [scheme]
    check("scheme", scheme, scheme == "random", "a Scheme or 'random' (train a supernet)")
    if any(module is None for _, _, module in net.connections()):
        raise ValueError(f"a supernet needs attention at every block, but this network has it at {net.scheme} only")
    full, sampler = Scheme.full(net.stages), SAMPLERS[config.sampler]
    return lambda step: [full] if step < warm else sampler(net.stages, generator)


class _Meter:
    """Loss and accuracy of an epoch so far, over all processes, fetched from the device only now and then."""

    def __init__(self, accelerator: Accelerator, first_step: int) -> None:
        self.accelerator, self.first_step = accelerator, first_step
        self.pending: list[Tensor] = []  # (loss, correct, count) of each step
        self.rows = torch.empty(0, 3, dtype=torch.float64)  # the same, over all processes

    def check(self) -> None:
        """Take in what is pending; raise if a step's loss is not finite."""
        self.rows = torch.cat([self.rows, self.accelerator.reduce(torch.stack(self.pending), "sum").cpu()])
        self.pending.clear()
        bad = (~self.rows[:, 0].isfinite()).nonzero().flatten().tolist()
        if bad:
            advice = "try a lower lr (a tenth of it), precision fp32 instead of bf16, and look for broken values in the"
            loss, step = self.rows[bad[0], 0].item(), self.first_step + bad[0]
            what = f"the loss is {loss} at step {step} (finite until then)"
            raise NonFiniteLossError(f"{what}; {advice} images or weights")
        loss, correct, count = self.rows.sum(0).tolist()
        self.loss = loss / len(self.rows) / self.accelerator.num_processes
        self.accuracy = 100 * correct / count
