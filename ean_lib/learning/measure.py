"""What attention costs: parameters, multiply-accumulates (MACs), and inference time relative to the backbone.

Times of two networks are only comparable if they were taken together. So all networks, the backbone among
them, take turns: every round times each of them once, and a round in which the machine is busy slows all of
them. What is timed is what one would deploy: the pruned network with its BatchNorms folded into the
convolutions.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from ean_lib.checks import check, check_number, plain
from ean_lib.devices import device_name, find_device
from ean_lib.networks import Network, network_dtype

WARMUP = 3  # forward passes of each network before the first round
BLOCK_S = 0.02  # a timing repeats the pass for about so many seconds, and gives the mean
MOST_PASSES = 1000  # in one timing, of a network that takes next to no time


@dataclass(frozen=True)
class Measurement:
    """Cost of one network, pruned and fused, beside its backbone's."""

    parameters: int  # of the pruned network, BatchNorm's included
    extra_parameters: int  # beyond the backbone's
    macs: int  # for one image; see `count_macs`
    extra_macs: int
    median_ms: float  # time of one forward pass of a batch
    quartiles_ms: tuple[float, float]
    backbone_ms: float  # median, in the same rounds
    time_increment: float  # relative, of the medians (EAN, Eqn. 9)
    paired_increment: float  # median over the rounds of the increment within a round
    paired_quartiles: tuple[float, float]
    rounds: int
    input_shape: tuple[int, ...]
    device: str
    threads: int


def relative_time_increment(attention_ms: float | np.ndarray, backbone_ms: float | np.ndarray) -> float | np.ndarray:
    """Extra inference time that attention costs, as a fraction of the backbone's (EAN, Eqn. 9).

    Args:
        attention_ms: median time of the network with attention, milliseconds; or its times, one per round.
        backbone_ms: median time of the same backbone without it, positive; or its times in the same rounds.

    Raises:
        ValueError: if a time is not positive and finite.
    """
    for name, value in (("attention_ms", attention_ms), ("backbone_ms", backbone_ms)):
        check(name, value, np.all((value > 0) & np.isfinite(value)), "a positive, finite time in milliseconds")
    return (attention_ms - backbone_ms) / backbone_ms


def count_parameters(net: nn.Module) -> int:
    """Number of parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in net.parameters())


@torch.no_grad()
def count_macs(net: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of one image's forward pass, counted by torch: its FLOPs / 2.

    It sees convolutions and matrix products. Pooling, BatchNorm, ReLU and the product with a gate are
    not counted, as is usual; so SGE, which has neither convolution nor matrix product, adds none.

    Args:
        net: counted in eval mode, on a copy.
        input_shape: (B, C, H, W) of a batch; one image of it is counted.
    """
    _, *of_one_image = _check_shape(input_shape)
    net = copy.deepcopy(net).eval()
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    x = torch.zeros(1, *of_one_image, device=device, dtype=network_dtype(net))
    with FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops() // 2  # a multiplication and an addition are two operations, and one MAC


def latency(
    networks: Sequence[nn.Module], input_shape: Sequence[int], device: str | torch.device = "auto", *, rounds: int = 20
) -> np.ndarray:
    """Time the forward passes of networks in turn, as they are but in eval mode, on copies.

    Args:
        networks: the backbone should be one of them.
        input_shape: (B, C, H, W) of the random input, which is of each network's own type, in channels-last order.
        device: "auto" takes a GPU if there is one. GPU time is waited for.
        rounds: timings of each network. The order is shifted by one network from round to round.

    Returns:
        The times of a forward pass (networks, rounds), in milliseconds.

    Raises:
        ValueError: if a number is out of range, or there is no such device.
    """
    check_number("rounds", rounds, low=1, whole=True)
    input_shape = _check_shape(input_shape)
    target = find_device(device)
    x = torch.randn(input_shape, generator=torch.Generator().manual_seed(0))
    x = x.to(target, memory_format=torch.channels_last)
    timers = []
    for net in networks:
        copied = copy.deepcopy(net).eval().to(target, memory_format=torch.channels_last)
        names = {"net": copied, "x": x.to(network_dtype(copied))}
        timers.append(Timer("net(x)", globals=names, num_threads=torch.get_num_threads()))
    times = np.empty((len(timers), rounds))
    with torch.inference_mode():
        passes = []  # of each network in a timing
        for timer in timers:
            # timeit waits for the GPU before and after, and makes a few passes of its own first.
            seconds = timer.timeit(WARMUP).median
            passes.append(max(1, min(MOST_PASSES, round(BLOCK_S / seconds))))
        for number in range(rounds):
            in_turn = np.roll(range(len(timers)), -number)
            for i in in_turn:
                times[i, number] = 1000 * timers[i].timeit(passes[i]).median
    return times


def measure(
    networks: Mapping[str, nn.Module], backbone: nn.Module, input_shape: Sequence[int], *,
    device: str | torch.device = "auto", rounds: int = 20,
) -> dict[str, Measurement]:  # fmt: skip
    """Cost of networks beside their backbone: each is pruned to its scheme and fused, then they take turns.

    Args:
        networks: by name; a `Network` of ean_lib.networks, or any other module, which is taken as it is.
        backbone: the same network without attention.
        input_shape: (B, C, H, W) of the batch that is timed.
        device: "auto" takes a GPU if there is one.
        rounds: timings of each network.

    Raises:
        ValueError: if there is no network, and as `latency`.
    """
    check("the networks to measure", networks, bool(networks), "at least one, by name")
    pruned = [_pruned(net) for net in (backbone, *networks.values())]
    deployed = [net.fuse() if isinstance(net, Network) else net for net in pruned]
    target = find_device(device)
    times = latency(deployed, input_shape, target, rounds=rounds)  # (networks, rounds), the backbone first
    parameters = [count_parameters(net) for net in pruned]
    macs = [count_macs(net, input_shape) for net in deployed]
    _, backbone_ms, _ = quartiles(times[0])
    results = {}
    for i, name in enumerate(networks, start=1):
        low_ms, median_ms, high_ms = quartiles(times[i])
        low, increment, high = quartiles(relative_time_increment(times[i], times[0]))
        results[name] = Measurement(
            parameters=parameters[i],
            extra_parameters=parameters[i] - parameters[0],
            macs=macs[i],
            extra_macs=macs[i] - macs[0],
            median_ms=median_ms,
            quartiles_ms=(low_ms, high_ms),
            backbone_ms=backbone_ms,
            time_increment=relative_time_increment(median_ms, backbone_ms),
            paired_increment=increment,
            paired_quartiles=(low, high),
            rounds=rounds,
            input_shape=_check_shape(input_shape),
            device=device_name(target.type),
            threads=torch.get_num_threads(),
        )
    return results


def _pruned(net: nn.Module) -> nn.Module:
    return net.prune() if isinstance(net, Network) else net


def quartiles(values: Sequence[float]) -> list[float]:
    """The first quartile, the median and the third quartile."""
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist()


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A batch's shape in Python's own numbers; `ValueError` where it is none."""
    sizes = tuple(plain(size) for size in shape) if isinstance(shape, Sequence) else ()
    is_shape = len(sizes) == 4 and all(type(size) is int and size >= 1 for size in sizes)
    check("input_shape", shape, is_shape, "four positive integers (B, C, H, W), such as (64, 3, 32, 32)")
    return sizes
