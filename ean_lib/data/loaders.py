"""Images that other code gives, in the place of a `Split`: a torch `Dataset`, a `DataLoader`, any iterable of batches.

`train`, `evaluate` and `Scorer` take them as they are; `as_split` decides which of the two forms below they get. What
a batch must be stands in `check_batch`. Images are used as they come: normalised and augmented by whoever made them.

How far a training that was killed goes on to the same bits:

- a `Dataset`: entirely, as the order of its examples comes from the training's own generator, and what its transforms
  draw from torch's global generator (as those of torchvision do) from the seed and the epoch. Transforms that draw from
  Python's or numpy's global generators are not seeded.
- a `DataLoader`: likewise; where it has a generator of its own, that one's state is in the checkpoint. Workers are
  seeded by torch anew in each epoch, unless they are persistent.
- another iterable: it is gone through anew for each epoch, and so after a resumption; that gives the same bits where
  it gives the same batches each time, or draws from torch's global generator. An iterator, such as a generator, is not
  rewound or advanced: it goes on where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ean_lib.checks import check, check_number
from ean_lib.data.splits import Batch, Data, Split, epoch_order, rank_slices

# One part of a dataset, in all forms that it can be given in; `Split` stands for `LazySplit` and `CuedPhotos` too.
Images = Split | Dataset | Iterable[Any]

ONCE = "an iterator, such as a generator, can be gone through only once"
AGAIN = "pass a list, a DataLoader, or an object whose __iter__ begins anew"


def as_split(images: Any) -> Any:
    """One part of a dataset as something with `batches`: a `Split` as it is, and other images in one of the forms here.

    Raises:
        ValueError: if they are nothing of which batches can be made.
    """
    if isinstance(images, Data):
        raise ValueError("one part of a dataset is needed here, not all three: pass data.val, for example")
    if hasattr(images, "batches"):
        return images
    if isinstance(images, Dataset) and not isinstance(images, IterableDataset):
        return DatasetSplit(images)
    return LoaderSplit(images)


def num_classes(images: Any) -> int:
    """How many classes the labels of a `Data` or a split need; of other images, those labels that were seen so far."""
    if isinstance(images, Data):
        return images.num_classes
    if isinstance(images, DatasetSplit | LoaderSplit):
        return images.classes
    return int(images.labels.max()) + 1


class DatasetSplit:
    """A torch `Dataset` of pairs (image, label), of which batches are made here, in this process.

    It is shuffled and divided among processes like a `Split`: any number of them sees the images that one would see.
    For worker processes that load ahead, make a `DataLoader` of it.

    Args:
        dataset: with a length; image tensors (C, H, W) of one size, normalised, and labels as in `check_batch`.

    Attributes:
        classes: how many the labels seen so far need.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.classes = 0
        try:
            self._length = len(dataset)
        except TypeError:
            raise ValueError(f"a {type(dataset).__name__} without a length cannot be divided into batches") from None
        check("the length of the dataset", self._length, self._length > 0, "at least 1: it is empty")

    def __len__(self) -> int:
        return self._length

    def batches(
        self, batch_size: int, *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None, augment: Sequence[str] = (), drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch, as `Split.batches`; a dataset augments its images itself, so that `augment` must be empty."""
        check("augment", augment, not augment, "empty: a dataset augments its images itself")
        shares = rank_slices(len(self), batch_size, drop_last, rank, world)
        order = epoch_order(len(self), (), generator).tolist()
        own_generator = torch.Generator()  # or it would draw from the caller's global one, of which it makes no use
        loader = DataLoader(
            self.dataset, batch_sampler=[order[share] for share in shares], collate_fn=_collate, generator=own_generator
        )

        def epoch() -> Iterator[Batch]:
            for batch in loader:
                x, y = check_batch(batch)
                self.classes = max(self.classes, _classes(y))
                yield _move(x, y, device)

        return epoch()


class LoaderSplit:
    """A `DataLoader`, or any iterable, that gives batches (images, labels): as they come, in its order and of its size.

    Args:
        loader: is gone through once for each epoch.
        steps: batches of an epoch, where the iterable has no length, or not all of them are wanted. An endless
            generator then goes on in the next epoch where it stopped.

    Attributes:
        classes: how many the labels seen so far need.
    """

    def __init__(self, loader: Iterable[Any], *, steps: int | None = None) -> None:
        kinds = "a Split, a Dataset, a DataLoader, or an iterable of batches (images, labels)"
        is_iterable = isinstance(loader, Iterable) and not isinstance(loader, Tensor | str | Mapping)
        check("images", loader, is_iterable, kinds)
        self.loader = loader
        self.classes = 0
        self._steps = None if steps is None else check_number("steps", steps, low=1, whole=True)

    @property
    def steps(self) -> int:
        """Batches of an epoch.

        Raises:
            ValueError: if there are none, or their number cannot be known.
        """
        if self._steps is not None:
            return self._steps
        try:
            steps = len(self.loader)
        except TypeError:
            what = f"a {type(self.loader).__name__} has no length, and the schedule of the learning rate needs to know"
            raise ValueError(f"{what} the batches of an epoch: pass LoaderSplit(batches, steps=100)") from None
        if steps == 0:
            raise ValueError(f"the {type(self.loader).__name__} has no batches: it is empty, or drops its only batch")
        return steps

    @property
    def smallest_batch(self) -> int | None:
        """The images of the last batch of an epoch, which can be a smaller one; None where that cannot be known."""
        is_known = isinstance(self.loader, DataLoader) and self._steps is None
        if not is_known or self.loader.batch_size is None or isinstance(self.loader.dataset, IterableDataset):
            return None
        rest = 0 if self.loader.drop_last else len(self.loader.sampler) % self.loader.batch_size
        return rest or self.loader.batch_size

    def check_world(self, world: int) -> None:
        """`ValueError` unless each of so many processes gets a share of the images."""
        replicas = getattr(getattr(self.loader, "sampler", None), "num_replicas", 1)  # of a DistributedSampler
        if replicas != world:
            what = f"{world} processes work together, and these batches are made for {replicas}"
            advice = "pass the Dataset itself, which is divided, or a DataLoader with a DistributedSampler"
            raise ValueError(f"{what}, so that each process would not get its own share of the images: {advice}")

    def begin_epoch(self, epoch: int) -> None:
        """Tell the sampler, where it wants to know, as a `DistributedSampler` does."""
        sampler = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the loader's own generator, where it has one."""
        own = getattr(self.loader, "generator", None)
        return {"generator": own.get_state()} if isinstance(own, torch.Generator) else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        own = getattr(self.loader, "generator", None)
        if isinstance(own, torch.Generator) and "generator" in state:
            own.set_state(state["generator"])

    def batches(
        self, batch_size: int | None = None, *, device: torch.device | str = "cpu", **_: Any
    ) -> Iterator[Batch]:
        """One epoch. All else that `Split.batches` takes is the loader's own affair, and has no effect.

        Raises:
            ValueError: for what is no batch; if there is none, or there are fewer than `steps`.
        """

        def epoch() -> Iterator[Batch]:
            is_empty = True
            for batch in self.loader if self._steps is None else take_exactly(self.loader, self._steps):
                is_empty = False
                x, y = check_batch(batch)
                self.classes = max(self.classes, _classes(y))
                yield _move(x, y, device)
            if is_empty:
                kind = type(self.loader).__name__
                raise ValueError(f"the {kind} gave no batches. If it gave some before: {ONCE}; {AGAIN}")

        return epoch()


def take_exactly(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """The first batches, and not one more, which an iterator would lose.

    Raises:
        ValueError: after the last of them, if there are fewer.
    """
    taken = 0
    for _, batch in zip(range(steps), batches, strict=False):
        yield batch
        taken += 1
    if taken < steps:
        raise ValueError(f"the batches ended after {taken} of the {steps} of an epoch. {ONCE.capitalize()}; {AGAIN}")


def check_batch(batch: Any) -> Batch:
    """The images and the labels of a batch, as tensors, wherever they are.

    Images are floating-point numbers (B, C, H, W); labels are whole numbers from 0, (B,), or the share of each class,
    floating-point (B, classes), as mixup makes them. Arrays of numpy count as tensors.

    Returns:
        Images as they came, labels as int64 (B,) or as they came (B, classes).

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"a {type(batch).__name__} with the keys {short(list(batch))}" if isinstance(batch, Mapping) else None
        what = what or f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
        raise ValueError(f"a batch must be a pair (images, labels), got {what}: give the pairs of what is needed of it")
    x, y = (torch.as_tensor(part) if _is_numeric_array(part) else part for part in batch)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 4 or len(x) == 0:
        advice = "scale and normalise them, and join them to batches, as a DataLoader does"
        raise ValueError(f"the images of a batch must be floating-point (B, C, H, W), got {_describe(x)}: {advice}")
    shares = isinstance(y, Tensor) and y.is_floating_point() and y.dim() == 2
    whole = isinstance(y, Tensor) and y.dim() == 1 and y.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    if not (shares or whole) or len(y) != len(x):
        expected = f"whole numbers ({len(x)},), one per image, or floating-point shares ({len(x)}, classes)"
        raise ValueError(f"the labels of a batch must be {expected}, got {_describe(y)}")
    lowest = y.min().item()
    check("the labels of a batch", lowest, lowest >= 0, "0 or more")  # also where it is NaN
    return x, y if shares else y.to(torch.int64)


def _is_numeric_array(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind in "fiu"


def _describe(part: Any) -> str:
    """A tensor's type and shape, or what else it is."""
    return f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"


def _classes(labels: Tensor) -> int:
    """How many classes the labels of a batch need, which still are where the loader made them."""
    return labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1


def _move(x: Tensor, y: Tensor, device: torch.device | str) -> Batch:
    return x.to(device, non_blocking=True, memory_format=torch.channels_last), y.to(device, non_blocking=True)


def _collate(examples: list[Any]) -> Any:
    """Examples as a batch, by torch's own rules."""
    try:
        return default_collate(examples)
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        what = f"the examples of the dataset cannot be joined to a batch ({reason})"
        advice = "its transform must make image tensors of one size, as v2.Resize, v2.ToImage and v2.ToDtype do"
        raise ValueError(f"{what}: {advice}") from None
