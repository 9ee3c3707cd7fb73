"""How fast `train` is beside a plain PyTorch script: CIFAR-10, a DataLoader, the same network, in one run.

    python benchmarks/training.py                       # 20 steps of 128 images, five rounds, one process for all
    python benchmarks/training.py --workers 2           # the plain script reads its pictures in two more processes
    python benchmarks/training.py --synthetic           # without CIFAR-10: random pictures of its size

The plain script is what a tutorial shows: pictures one by one through torchvision's transforms (crop, flip, to tensor,
normalise), a DataLoader, SGD and a one-cycle schedule. All ways take turns, in an order that shifts from round to
round. Ratios are taken within a round; their median and extremes are printed. With no workers the processor's time is
compared too, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ean_lib.data import Data, Split, load_data
from ean_lib.devices import device_name, find_device, find_precision
from ean_lib.learning import TrainConfig, train
from ean_lib.networks import AttentionResNet, build_network
from ean_lib.schemes import Scheme


class Pictures(Dataset):
    """Pictures and labels, as torchvision's CIFAR10 gives them: each goes through the transforms by itself."""

    def __init__(self, split: Split) -> None:
        self.pictures = split.images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3), uint8
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(split.mean, split.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pictures[index])), self.labels[index]


def train_plainly(net: AttentionResNet, data: Data, config: TrainConfig, device: torch.device, workers: int) -> None:
    """The loop of a tutorial, in the configuration's precision."""
    net.to(device).train()
    loader = DataLoader(Pictures(data.train), config.batch_size, shuffle=True, drop_last=True, num_workers=workers)
    optimizer = torch.optim.SGD(
        net.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=len(loader) * config.epochs)
    for _ in range(config.epochs):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's time on the processor."""
    began, began_working = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - began_working


def synthetic_data(count: int) -> Data:
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    part = Split.from_arrays(images, torch.arange(count) % 10)
    names = tuple("0123456789")
    return Data("synthetic", 10, names, (32, 32), part.mean, part.std, part, part, part, ("flip", "crop"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", default="se")
    parser.add_argument("--stem-stride", type=int, default=2, help="2, as in the recipes for CPUs, or 1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes of the plain script's DataLoader")
    parser.add_argument("--synthetic", action="store_true")
    options = parser.parse_args()

    device = find_device("auto")
    images = options.batch_size * options.steps
    data = synthetic_data(images) if options.synthetic else load_data("cifar10", subset=images)
    single = TrainConfig(epochs=1, batch_size=options.batch_size)
    fast = TrainConfig(epochs=1, batch_size=options.batch_size, precision=find_precision(device))
    full = Scheme.full((3, 3, 3))

    def plain(config: TrainConfig) -> Callable[[], object]:
        return lambda: train_plainly(network(), data, config, device, options.workers)

    def ours(config: TrainConfig) -> Callable[[], object]:
        return lambda: train(network(), data, config, full, progress=False)

    def network() -> AttentionResNet:
        return build_network("resnet20", options.attention, stem_stride=options.stem_stride, seed=0)

    ways = {"plain fp32": plain(single), "train fp32": ours(single)}
    if fast.precision == "bf16":
        ways |= {"plain bf16": plain(fast), "train bf16": ours(fast)}
    for way in ways.values():
        way()  # warm-up: pictures are moved to the device, kernels are chosen
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(options.rounds):
        for name in order:
            seconds[name].append(seconds_of(ways[name]))
        order = order[1:] + order[:1]

    print(f"{images} images in steps of {options.batch_size}, ResNet-20 with {options.attention}, stem stride ", end="")
    print(f"{options.stem_stride}, {device_name(device.type)}, {torch.get_num_threads()} thread(s), ", end="")
    print(f"{options.workers} worker(s), {options.rounds} rounds")
    print(f"{'':12}{'images/s':>10}{'times plain fp32, by the clock':>36}{'by the processor':>28}")
    for name, taken in seconds.items():
        speed = statistics.median(images / clock for clock, _ in taken)
        columns = []
        for kind in (0, 1):
            ratios = [theirs[kind] / own[kind] for theirs, own in zip(seconds["plain fp32"], taken, strict=True)]
            columns.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        processor = columns[1] if options.workers == 0 and device.type == "cpu" else "-"
        print(f"{name:12}{speed:>10.0f}{columns[0]:>36}{processor:>28}")


if __name__ == "__main__":
    main()
