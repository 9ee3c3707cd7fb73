"""What class scores and labels say together, added up batch by batch: the accuracy, or a metric of one's own.

A tally is one network's (or one scheme's) sum so far. The accuracy needs two numbers. A metric that is a function of
all scores has them kept on the CPU, 4 bytes for each image and class: 512 schemes of 5,000 images and 10 classes are
100 MB. A metric that is an object with `update` and `compute`, as those of torchmetrics, keeps what it needs.
"""

import copy
from collections.abc import Callable
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ean_lib.checks import check, plain


class UpdatedMetric(Protocol):
    """A metric that is given one batch after the other. `reset` is called before the first, where there is one."""

    def update(self, scores: Tensor, labels: Tensor) -> Any: ...

    def compute(self) -> Any: ...


Metric = Callable[[Tensor, Tensor], Any] | UpdatedMetric


class Tally:
    """The accuracy in %, and whether all scores were finite."""

    def __init__(self, device: torch.device) -> None:
        # Tensors, so that nothing waits for the GPU before the end.
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._images = 0

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: class scores (B, outputs) and labels, (B,) or (B, classes)."""
        self._finite &= scores.isfinite().all()
        self._images += len(labels)
        self._note(scores, labels)

    @property
    def is_finite(self) -> bool:
        """Whether no class score so far was NaN or infinite."""
        return bool(self._finite)

    def value(self) -> float:
        """What the scores and labels so far say."""
        return 100 * int(self._correct) / self._images

    def _note(self, scores: Tensor, labels: Tensor) -> None:
        self._correct += (scores.argmax(1) == as_classes(labels)).sum()


class _OfAll(Tally):
    """A function of all class scores and labels."""

    def __init__(self, device: torch.device, metric: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__(device)
        self._metric = metric
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def _note(self, scores: Tensor, labels: Tensor) -> None:
        self._scores.append(scores.cpu())
        self._labels.append(labels.cpu())

    def value(self) -> float:
        return _one_number(self._metric(torch.cat(self._scores), torch.cat(self._labels)))


class _Updated(Tally):
    """A copy of a metric that is updated by each batch."""

    def __init__(self, device: torch.device, metric: UpdatedMetric) -> None:
        super().__init__(device)
        self._metric = copy.deepcopy(metric)
        if isinstance(self._metric, nn.Module):
            self._metric.to(device)
        if hasattr(self._metric, "reset"):
            self._metric.reset()

    def _note(self, scores: Tensor, labels: Tensor) -> None:
        self._metric.update(scores, labels)

    def value(self) -> float:
        return _one_number(self._metric.compute())


def start_tally(metric: Metric | None, device: torch.device) -> Tally:
    """An empty tally of the metric; None is the accuracy in %.

    Raises:
        ValueError: if it is no metric.
    """
    if metric is None:
        return Tally(device)
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        return _Updated(device, metric)
    check("metric", metric, callable(metric), "a function of (scores, labels), or an object with update and compute")
    return _OfAll(device, metric)


def as_classes(labels: Tensor) -> Tensor:
    """Labels (B,) as they are; of shares (B, classes), such as mixup makes, the class with the largest."""
    return labels if labels.dim() == 1 else labels.argmax(1)


def _one_number(value: Any) -> float:
    number = plain(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    check("what the metric gives", value, is_number and isfinite(number), "one finite number")
    return float(number)
