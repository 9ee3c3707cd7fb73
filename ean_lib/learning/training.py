"""The one training loop, for stand-alone networks and for supernets, on one CPU, one GPU or many machines.

A supernet differs from a stand-alone network in one thing only: the scheme changes at every step. So ``train`` takes
``scheme="random"`` (a supernet; the schemes come from a sampler of :mod:`ean_lib.supernet`) or a fixed ``Scheme``.
Several processes (``accelerate launch``) see together the images, augmentations and schemes that one process sees.

What is unusual here: a killed run goes on to the same bits. The learning rate is a pure function of the step. Images,
augmentations and schemes come from one CPU generator, whose state is in the checkpoint. The global generators of torch,
numpy and Python, which modules such as Dropout draw from, are seeded anew in each epoch, and put back at the end. And
the configuration alone decides: of accelerate only the processes are used, not what its environment variables say.
How far this holds for a `DataLoader` and other images that are not ours stands in :mod:`ean_lib.data.loaders`.
"""

import math
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from annotated_types import Ge, Gt, Interval, Le, Lt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ean_lib.attention.common import statistics_dtype
from ean_lib.checks import Count, Fraction, NotNegative, Positive, Seed, check, check_options, plain
from ean_lib.data import Data, DatasetSplit, Images, LoaderSplit, Split, as_split, num_classes
from ean_lib.data.loaders import check_batch, take_exactly
from ean_lib.data.splits import Batch
from ean_lib.devices import find_precision, find_processes
from ean_lib.learning.joined_batchnorm import joined_batchnorm
from ean_lib.networks import Network, as_classes, check_scheme, check_scores, eval_mode, network_dtype
from ean_lib.runs import Run
from ean_lib.schemes import Scheme
from ean_lib.supernet.samplers import SAMPLERS, SCHEMES_PER_STEP

CHECK_EVERY = 16  # steps between looks at the loss: each look waits for the device

# The one-cycle schedule of Smith & Topin (2018), with the shape of PyTorch's OneCycleLR:
RISE = 0.3  # the fraction of the training in which the learning rate rises
START = 0.04  # the learning rate of the first step, as a fraction of the highest


EpochRecord = dict[str, Any]  # epoch, step, lr, loss, accuracy
Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
BatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has Nesterov's momentum; adamw is Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    """The momentum of SGD, which Nesterov's form needs some of; with AdamW, the decay of the mean gradient."""
    weight_decay: NotNegative = 5e-4
    """The L2 penalty on all weights that are trained; with AdamW, their decay."""
    clip_norm: Positive | None = None
    """Scale gradients down to this norm where theirs, over all weights together, is larger."""
    label_smoothing: Fraction = 0.0
    """The share of the target that is spread over all classes."""
    augment: bool = True
    """Flip and crop at random, where the dataset allows it."""
    sampler: Literal["uniform", "complementary", "sandwich"] = "uniform"
    """How the schemes of a supernet's steps are drawn; see ean_lib.supernet."""
    warmup: Fraction = 0.0
    """The fraction of a supernet's training in which every block is connected, before the sampler draws schemes."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 computes in half the bits; auto chooses it where the device has instructions for it."""
    sync_batchnorm: bool = False
    """With several processes, take BatchNorm's statistics from the joined batch instead of each process's own part."""
    seed: Seed = 0
    """The seed of the order of images, the augmentations, the sampled schemes, and what modules draw (dropout)."""

    def __post_init__(self) -> None:
        check_options(self)


def resolve_precision(config: TrainConfig, device: str | torch.device = "auto") -> TrainConfig:
    """The configuration with the precision that "auto" stands for on this device, so that what is recorded names it."""
    if config.precision != "auto":
        return config
    return replace(config, precision=find_precision(device))


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of a step: a pure function, so that a resumed run needs no scheduler state."""
    if config.schedule == "step":
        drops = sum(step >= milestone * total for milestone in config.milestones)
        return config.lr * config.gamma**drops
    peak = RISE * total
    if step < peak:
        risen = 0.5 * (1 - math.cos(math.pi * step / peak))  # 0 to 1
        return config.lr * (START + (1 - START) * risen)
    left = 0.5 * (1 + math.cos(math.pi * (step - peak) / max(total - peak, 1)))  # 1 to 0
    return config.lr * left


def train(
    net: Network, data: Data | Images, config: TrainConfig, scheme: Scheme | Literal["random"] = "random",
    run: Run | None = None, *, split: Split | None = None, device: str = "auto", progress: bool = True,
    loss: Loss | None = None, optimizer: MakeOptimizer | None = None, batch_transform: BatchTransform | None = None,
    average: AveragedModel | None = None, validate: Callable[[Network], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:  # fmt: skip
    """Train net in place and return one record per epoch.

    What is set on the network is kept: its numbers' type, and parameters that need no gradient, which stay as they are
    to the bit. Modules that are in eval mode stay in it, such as the BatchNorms of a frozen part, unless the whole
    network is in eval mode: that means nothing here, and it is put into training mode.

    `loss`, `optimizer`, `batch_transform`, `average` and `validate` are code: they are no part of a run's
    configuration, and a training that goes on must be given them again. Mixup, an average of the weights, the F1 of
    each epoch (by torchmetrics), and a log that TensorBoard shows::

        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        f1 = MulticlassF1Score(num_classes=10)
        writer = SummaryWriter("logs")

        def log(record):
            for name in ("loss", "accuracy", "validation"):
                writer.add_scalar(name, record[name], record["epoch"])

        train(
            net, loader, TrainConfig(epochs=30), batch_transform=v2.MixUp(num_classes=10), average=average,
            validate=lambda net: 100 * evaluate(net, val_loader, metric=f1), on_epoch=log,
        )
        net = average.module

    Args:
        net: moved to the device and trained in place. It leaves as an ordinary network, in training mode.
        data: its augmentations, and its training part unless ``split`` is given. Or the training images themselves: a
            `Split`, a torch `Dataset`, a `DataLoader`, or any iterable of batches (images, labels), as they are in
            :mod:`ean_lib.data.loaders`. These are augmented by whoever made them; `augment` of the configuration has no
            effect, nor has `batch_size` where the batches are made already.
        config: the recipe.
        scheme: ``"random"`` trains a supernet; a Scheme trains that one network (prune it first).
        run: a run folder that checkpoints are written to at each epoch, and resumed from.
        split: other training images, such as ``data.train.join(data.val)`` for a final training.
        device: ``"auto"`` (a GPU if there is one), or the name of one.
        progress: show a progress bar with the running accuracy.
        loss: of class scores (B, classes), at least float32, and labels (B,): their mean over the images; None is
            cross-entropy with the configuration's label smoothing. With weights for the classes:
            ``nn.CrossEntropyLoss(weight=weights)``, a mean over what the images weigh.
        optimizer: makes the optimiser of the parameters that need a gradient; None is the configuration's. It may have
            groups of its own making, ``lambda _: SGD([{"params": net.fc.parameters(), "lr": 0.1}, ...])``. Each
            group's learning rate is its highest; the schedule gives the fraction, and `lr` of the configuration counts
            only in the records.
        batch_transform: makes other images and labels of each batch, on the device, such as v2.MixUp or v2.CutMix of
            torchvision. Labels may become shares of the classes, (B, classes); the accuracy counts the largest. It
            is seeded as modules are, on each process differently.
        average: is updated with the network after each step, such as an exponential moving average.
        validate: is called after each epoch with the network, or its average if there is one, in eval mode; its number
            is `validation` in the record. `evaluate` in it needs the same device as here.
        on_epoch: is called with each epoch's record, on every process, after the checkpoint; the network is `net`.

    Returns:
        Records with epoch, step, lr, loss, and accuracy (%) on the augmented training images; with the precision too,
        where the configuration left that to the device, and with the validation.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; the last checkpoint stays.
        ValueError: before anything is changed, if images, batches, scheme, network and device do not fit together; at
            the batch, if one that is given is not what it should be, or an epoch has fewer of them.
    """
    device, processes = find_processes(device)
    rank, world = processes.process_index, processes.num_processes
    precision = resolve_precision(config, device).precision
    split = _training_images(data, split)
    labelled = data if isinstance(data, Data) else split
    steps_per_epoch = _check_batches(config, split, world, is_supernet=not isinstance(scheme, Scheme))
    _check_network(net, precision)
    _warn_of_launcher(precision)
    total_steps = steps_per_epoch * config.epochs
    generator = torch.Generator().manual_seed(config.seed)
    draw_schemes = _schemes_of_a_step(net, config, scheme, generator, warm_steps=config.warmup * total_steps)

    # The network and its optimiser, as they are at first or as the checkpoint has them.
    net.to(device, memory_format=torch.channels_last)
    if not net.training:
        net.train()
    dtype = network_dtype(net)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    stepper = _make_optimizer(trained, config, optimizer)
    fractions = [group["lr"] / config.lr for group in stepper.param_groups]  # of the scheduled rate; 1 for our own
    loss_of = _make_loss(loss, config, device)
    parts_with_state = _parts_with_state(net, stepper, average, split, device)
    history: list[EpochRecord] = []
    if run is not None and (saved := run.load_checkpoint()) is not None:
        _restore(parts_with_state, saved, run)
        generator.set_state(saved["generator"])
        history = saved["history"]
    model = _on_all_processes(net, scheme, device, world)
    gate_all = world > 1 and _is_complete(net)

    augment = data.augment if isinstance(data, Data) and config.augment else ()
    batches_of = {"augment": augment, "drop_last": True, "device": device, "rank": rank, "world": world}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    bar = tqdm(
        total=total_steps,
        initial=len(history) * steps_per_epoch,
        disable=not (progress and processes.is_main_process),
        unit="step",
        leave=False,
    )
    with (
        nullcontext() if run is None else run,  # its folder is held as long as it is worked in
        bar,
        torch.enable_grad(),  # also in a notebook that has turned gradients off
        _callers_generators(device),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        joined_batchnorm(net, enabled=config.sync_batchnorm and world > 1),
        _zero_gradients(trained),
    ):
        for epoch in range(len(history), config.epochs):
            _seed_global_generators(device, config.seed, epoch, rank)
            _tell_sampler(split, epoch)
            first_step = epoch * steps_per_epoch
            meter = _Meter(first_step, world)
            batches = split.batches(config.batch_size, generator=generator, **batches_of)
            batches = _transformed(take_exactly(batches, steps_per_epoch), batch_transform)
            for step, (x, y) in enumerate(batches, start=first_step):
                rate = learning_rate(step, total_steps, config)
                for group, fraction in zip(stepper.param_groups, fractions, strict=True):
                    group["lr"] = rate * fraction
                stepper.zero_grad(set_to_none=False)

                schemes = draw_schemes(step)
                _check_share(len(y), len(schemes), config)
                parts = []
                for k, one_scheme in enumerate(schemes):
                    # Image i of the whole batch, over all processes, goes to scheme i modulo their number. So a scheme
                    # sees the same images however many processes divide the batch.
                    first = (k - rank * len(y)) % len(schemes)
                    images, labels = x[first :: len(schemes)].to(dtype), y[first :: len(schemes)]
                    # A bool tensor gives every process a gradient for every parameter, whatever the scheme.
                    connected = one_scheme.as_tensor(device) if gate_all else one_scheme
                    with autocast:
                        scores = model(images, connected)  # (B, classes)
                        check_scores(scores, len(labels), num_classes(labelled))
                        _check_shares(scores, labels)
                        scores = scores.to(statistics_dtype(scores))
                        part_loss = loss_of(scores, labels)
                    check("what `loss` returns", tuple(part_loss.shape), part_loss.dim() == 0, "one number, a mean: ()")
                    share = len(labels) / len(y)
                    is_last = k + 1 == len(schemes)
                    with model.no_sync() if world > 1 and not is_last else nullcontext():
                        (part_loss * share).backward()
                    correct = (scores.argmax(1) == as_classes(labels)).sum()
                    parts.append(torch.stack([part_loss.detach() * share, correct, correct.new_tensor(len(labels))]))

                meter.add(torch.stack(parts).sum(0))
                is_epoch_end = step + 1 == first_step + steps_per_epoch
                if (step + 1) % CHECK_EVERY == 0 or is_epoch_end:
                    mean_loss, accuracy = meter.read()  # raises where a loss was not finite, before the weights change
                    bar.set_postfix(epoch=epoch + 1, loss=f"{mean_loss:.3f}", accuracy=f"{accuracy:.1f}%")
                if config.clip_norm is not None:
                    nn.utils.clip_grad_norm_(trained, config.clip_norm)
                stepper.step()
                if average is not None:
                    average.update_parameters(net)
                bar.update()

            record = {"epoch": epoch + 1, "step": step + 1, "lr": rate, "loss": mean_loss, "accuracy": accuracy}
            if config.precision == "auto":
                record["precision"] = precision
            record |= _validation(validate, net if average is None else average.module, device)
            history.append(record)
            if run is not None:
                state = {name: part.state_dict() for name, part in parts_with_state.items()}
                run.save_checkpoint({**state, "generator": generator.get_state(), "history": history})
            processes.wait_for_everyone()
            if on_epoch is not None:
                on_epoch(record)
    return history


def _check_batches(
    config: TrainConfig, split: Split | DatasetSplit | LoaderSplit, world: int, is_supernet: bool
) -> int:
    """The batches of an epoch.

    Raises:
        ValueError: unless the images can be divided into batches, over processes, and over the schemes of a step.
    """
    schemes = SCHEMES_PER_STEP[config.sampler] if is_supernet else 1
    if isinstance(split, LoaderSplit):
        split.check_world(world)
        smallest = split.smallest_batch
        if smallest is not None:
            _check_share(smallest, schemes, config)
        return split.steps
    images = len(split)
    is_possible = config.batch_size <= images and config.batch_size % world == 0
    limits = f"at most {images}, the number of training images, and a multiple of {world}, the number of processes"
    check("batch_size", config.batch_size, is_possible, limits)
    if config.batch_size < schemes * world:
        why = f"the sampler {config.sampler!r} divides the images of a step over {schemes} schemes"
        on = f", on each of {world} processes" if world > 1 else ""
        raise ValueError(f"batch_size must be at least {schemes * world}, got {config.batch_size}: {why}{on}")
    return images // config.batch_size


def _check_share(images: int, schemes: int, config: TrainConfig) -> None:
    """`ValueError` unless each of a step's schemes gets an image of a batch that is given."""
    if images < schemes:
        why = f"the sampler {config.sampler!r} divides the images of a step over {schemes} schemes"
        advice = "make batches larger, and drop a last one that is smaller (drop_last=True of a DataLoader)"
        raise ValueError(f"a batch has only {images} image{'s' * (images > 1)}, but {why}: {advice}")


def _check_shares(scores: Tensor, labels: Tensor) -> None:
    """`ValueError` if labels are shares of other classes than there are scores for."""
    if labels.dim() == 2 and labels.shape != scores.shape:
        what = f"the labels are shares of {labels.shape[1]} classes, and the network has {scores.shape[1]} outputs"
        raise ValueError(f"{what}: give the transform, or the loader, num_classes={scores.shape[1]}")


def _check_network(net: nn.Module, precision: str) -> None:
    """`ValueError` unless the network can be trained in that precision."""
    dtype = network_dtype(net)
    if dtype == torch.float16:
        advice = "use net.float(), with precision='bf16' for speed"
        raise ValueError(f"a float16 network cannot be trained, as its gradients would vanish: {advice}")
    if dtype == torch.float64 and precision == "bf16":
        raise ValueError(
            "precision bf16 is for float32 networks, this one is float64: use precision='fp32', or net.float()"
        )
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError("there is nothing to train: no parameter of the network has requires_grad")


def _warn_of_launcher(precision: str) -> None:
    """`accelerate launch` passes options by environment variables; what decides here is the configuration."""
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed not in ("no", precision):
        used = f"this training computes in {precision}, as TrainConfig.precision says"
        warnings.warn(f"ACCELERATE_MIXED_PRECISION={mixed} is not used: {used}", stacklevel=3)
    accumulated = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulated != "1":
        used = "every batch is a step here, of TrainConfig.batch_size images"
        warnings.warn(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={accumulated} is not used: {used}", stacklevel=3)


def _make_optimizer(
    parameters: list[nn.Parameter], config: TrainConfig, make: MakeOptimizer | None
) -> torch.optim.Optimizer:
    """The configuration's optimiser, or the one that `make` makes; its learning rates are set at each step."""
    if make is not None:
        made_by = "what `optimizer` returns"
        check("optimizer", make, callable(make), "a function of the parameters that makes a torch optimiser")
        optimizer = make(parameters)
        check(made_by, optimizer, isinstance(optimizer, torch.optim.Optimizer), "a torch.optim.Optimizer")
        return optimizer
    settings = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, betas=(config.momentum, 0.999), **settings)
    return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=True, **settings)


def _make_loss(loss: Loss | None, config: TrainConfig, device: torch.device) -> Loss:
    """The loss that is given, on the device if it has weights there, or the configuration's."""
    if loss is None:
        return partial(F.cross_entropy, label_smoothing=config.label_smoothing)
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def _training_images(data: Data | Images, split: Images | None) -> Split | DatasetSplit | LoaderSplit:
    """The images to train on, as something with `batches`."""
    if split is None:
        split = data.train if isinstance(data, Data) else data
    return as_split(split)


def _tell_sampler(split: Split | DatasetSplit | LoaderSplit, epoch: int) -> None:
    """Tell the sampler of a loader which epoch begins."""
    if isinstance(split, LoaderSplit):
        split.begin_epoch(epoch)


def _transformed(batches: Iterator[Batch], transform: BatchTransform | None) -> Iterator[Batch]:
    """The batches, or what the transform makes of them."""
    for batch in batches:
        yield batch if transform is None else check_batch(transform(*batch))


def _parts_with_state(
    net: Network, optimizer: torch.optim.Optimizer, average: AveragedModel | None, split: Any, device: torch.device
) -> dict[str, Any]:
    """What a checkpoint holds the state of, beside the history and the generator."""
    parts: dict[str, Any] = {"net": net, "optimizer": optimizer}
    if average is not None:
        is_average = isinstance(average, AveragedModel)
        check("average", type(average).__name__, is_average, "an AveragedModel of torch.optim.swa_utils")
        parts["average"] = average.to(device)
    if isinstance(split, LoaderSplit):
        parts["loader"] = split
    return parts


def _restore(parts: dict[str, Any], saved: dict[str, Any], run: Run) -> None:
    """Give each part its state of the checkpoint."""
    for name, part in parts.items():
        if name not in saved:
            what = f"the checkpoint in {run.path} has no state of the {name}: its training began without one"
            raise ValueError(f"{what}; go on as it began, or delete the folder")
        part.load_state_dict(saved[name])


@torch.no_grad()
def _validation(validate: Callable[[Network], float] | None, net: Network, device: torch.device) -> EpochRecord:
    """What the function says of the network, which is left on the device and in the modes that it had."""
    if validate is None:
        return {}
    with eval_mode(net):
        value = plain(validate(net))
    net.to(device)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    check("what `validate` returns", value, is_number, "one finite number")
    return {"validation": float(value)}


def _schemes_of_a_step(
    net: Network, config: TrainConfig, scheme: Scheme | str, generator: torch.Generator, warm_steps: float
) -> Callable[[int], list[Scheme]]:
    """The function that gives the schemes which divide the images of a step among them."""
    if isinstance(scheme, Scheme):
        check_scheme(net, scheme)
        return lambda step: [scheme]
    check("scheme", scheme, scheme == "random", "a Scheme or 'random' (train a supernet)")
    if not _is_complete(net):
        raise ValueError(f"a supernet needs attention at every block, but this network has it at {net.scheme} only")
    full = Scheme.full(net.stages)
    sampler = SAMPLERS[config.sampler]
    return lambda step: [full] if step < warm_steps else sampler(net.stages, generator)


def _is_complete(net: Network) -> bool:
    """Whether every block has an attention module that it can be connected to."""
    return all(module is not None for _, _, module in net.connections())


def _on_all_processes(net: Network, scheme: Scheme | str, device: torch.device, world: int) -> nn.Module:
    """The network, whose gradients are averaged over all processes where there are several."""
    if world == 1:
        return net
    # Where every block has a module, they are gated, and each parameter gets a gradient. Otherwise modules that the
    # scheme does not connect are skipped, and must not be waited for.
    is_skipping = False
    if isinstance(scheme, Scheme) and not _is_complete(net):
        connections = list(zip(net.connections(), scheme.bits, strict=True))
        used = {module for (_, _, module), connected in connections if connected}
        is_skipping = any(module is not None and module not in used for (_, _, module), _ in connections)
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=is_skipping)


@contextmanager
def _callers_generators(device: torch.device) -> Iterator[None]:
    """The global generators are the caller's: afterwards they are as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _seed_global_generators(device: torch.device, *numbers: int) -> None:
    """Seed what modules draw from. It is done anew in each epoch, so that no state need be in a checkpoint.

    Args:
        device: its generator is seeded beside the CPU's.
        numbers: what the seed is a function of.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


@contextmanager
def _zero_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gradients begin as zeros, not None: a module that a step skips is treated as one that is gated off."""
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        yield
    finally:
        for parameter in parameters:
            parameter.grad = None


class _Meter:
    """Loss and accuracy of an epoch so far, over all processes.

    Each step's numbers stay on the device until they are read, as each reading waits for the device.
    """

    def __init__(self, first_step: int, world: int) -> None:
        self.first_step = first_step
        self.world = world
        self.unread: list[Tensor] = []  # (loss, correct, images) of each step on this process
        self.steps = torch.empty(0, 3, dtype=torch.float64)  # the same, summed over all processes

    def add(self, numbers: Tensor) -> None:
        """Note a step's (loss, correct answers, images), a tensor (3,)."""
        self.unread.append(numbers)

    def read(self) -> tuple[float, float]:
        """The mean loss of the steps so far, and the accuracy in %.

        Raises:
            NonFiniteLossError: if a step's loss is not finite.
        """
        unread = torch.stack(self.unread)  # (steps, 3)
        self.unread.clear()
        if self.world > 1:
            unread = reduce(unread, "sum")
        self.steps = torch.cat([self.steps, unread.cpu()])
        broken = (~self.steps[:, 0].isfinite()).nonzero().flatten().tolist()
        if broken:
            loss, step = self.steps[broken[0], 0].item(), self.first_step + broken[0]
            what = f"the loss is {loss} at step {step} (finite until then)"
            advice = "try a lower lr (a tenth of it), precision fp32 instead of bf16, and look for broken values in the"
            raise NonFiniteLossError(f"{what}; {advice} images or weights")
        loss, correct, images = self.steps.sum(0).tolist()
        return loss / len(self.steps) / self.world, 100 * correct / images
