"""A Dataset, a DataLoader or an iterable of batches in the place of a Split, and what is said of those that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_data
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from ean_lib.data import DatasetSplit, LoaderSplit, as_split
from ean_lib.data.loaders import check_batch, take_exactly


def tensors(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of `tiny_data`, normalised, in order."""
    return next(tiny_data(count).train.batches(count))


def test_a_dataset_gives_the_batches_that_a_split_of_the_same_images_gives() -> None:
    for rank in (0, 1):
        for drop_last in (True, False):
            seed = {"rank": rank, "world": 2, "drop_last": drop_last}
            expected = tiny_data().train.batches(16, generator=torch.Generator().manual_seed(3), **seed)
            given = as_split(TensorDataset(*tensors())).batches(16, generator=torch.Generator().manual_seed(3), **seed)
            for (x, y), (x2, y2) in zip(given, expected, strict=True):
                assert torch.equal(x, x2) and torch.equal(y, y2)
                assert x.stride() == x2.stride()  # channels_last


def test_going_through_a_dataset_draws_nothing_from_the_callers_generator() -> None:
    before = torch.random.get_rng_state()
    assert len(list(as_split(TensorDataset(*tensors())).batches(20))) == 3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_batches_of_an_iterable_come_as_they_are_and_classes_are_counted() -> None:
    x, y = tensors()
    batches = [(x[:10], y[:10].int()), [x[10:13].numpy(), np.array([0, 7, 2])]]
    split = as_split(batches)
    (x0, y0), (x1, y1) = split.batches()
    assert torch.equal(x0, x[:10]) and torch.equal(y0, y[:10]) and y0.dtype == torch.int64
    assert torch.equal(x1, x[10:13]) and y1.tolist() == [0, 7, 2]
    assert split.classes == 8 and split.steps == 2
    assert as_split(split) is split
    part = tiny_data().val
    assert as_split(part) is part


def test_an_endless_generator_goes_on_where_it_stopped_and_loses_no_batch() -> None:
    def count_up():
        number = 0
        while True:
            yield torch.full((2, 3, 8, 8), float(number)), torch.zeros(2, dtype=torch.int64)
            number += 1

    split = LoaderSplit(count_up(), steps=3)
    epochs = [[int(x[0, 0, 0, 0]) for x, _ in split.batches()] for _ in range(2)]
    assert epochs == [[0, 1, 2], [3, 4, 5]]


def test_batches_that_end_early_are_an_error_after_the_last_one() -> None:
    taken = []
    with pytest.raises(
        ValueError, match=r"the batches ended after 2 of the 3 of an epoch\. An iterator, such as a gen"
    ):
        for number in take_exactly(iter([1, 2]), 3):
            taken.append(number)
    assert taken == [1, 2]


def test_a_generator_that_is_used_up_and_an_empty_loader_are_named() -> None:
    x, y = tensors()
    split = as_split((x[i : i + 10], y[i : i + 10]) for i in range(0, 60, 10))
    assert len(list(split.batches())) == 6
    with pytest.raises(ValueError, match=r"the generator gave no batches\. If it gave some before: an iterator"):
        list(split.batches())
    with pytest.raises(ValueError, match=r"a generator has no length, .* LoaderSplit\(batches, steps=100\)"):
        _ = split.steps
    with pytest.raises(ValueError, match="the list has no batches: it is empty"):
        _ = as_split([]).steps
    empty = DataLoader(TensorDataset(x[:5], y[:5]), batch_size=10, drop_last=True)
    with pytest.raises(ValueError, match="the DataLoader has no batches: it is empty, or drops its only batch"):
        _ = as_split(empty).steps
    with pytest.raises(ValueError, match="the length of the dataset must be at least 1: it is empty, got 0"):
        as_split(TensorDataset(x[:0], y[:0]))


class Endless(IterableDataset):
    def __iter__(self):
        x, y = tensors(8)
        yield from zip(x, y, strict=True)


class WithoutLength(Dataset):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("images", [3, "cifar10", {"x": 1}, None, torch.zeros(4, 3, 8, 8)])
def test_what_gives_no_batches_is_refused(images: object) -> None:
    with pytest.raises(ValueError, match="images must be a Split, a Dataset, a DataLoader, or an iterable of batches"):
        as_split(images)


def test_a_whole_dataset_and_one_without_a_length_are_refused_and_examples_are_no_batches() -> None:
    with pytest.raises(ValueError, match=r"one part of a dataset is needed here, not all three: pass data\.val"):
        as_split(tiny_data())
    with pytest.raises(ValueError, match="a WithoutLength without a length cannot be divided into batches"):
        as_split(WithoutLength())
    with pytest.raises(ValueError, match=r"must be floating-point \(B, C, H, W\), got torch.float32 \(3, 16, 16\)"):
        list(as_split(Endless()).batches())
    assert sum(len(y) for _, y in as_split(DataLoader(Endless(), batch_size=3)).batches()) == 8


X, Y = torch.zeros(4, 3, 8, 8), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"a batch must be a pair \(images, labels\), got a Tensor"),
        ((X, Y, Y), r"a pair \(images, labels\), got a tuple of 3"),
        ({"pixel_values": X, "labels": Y}, r"got a dict with the keys \['pixel_values', 'labels'\]"),
        ((X.to(torch.uint8), Y), r"images of a batch must be floating-point .*, got torch.uint8 \(4, 3, 8, 8\)"),
        ((X[:0], Y[:0]), r"images of a batch must be .*, got torch.float32 \(0, 3, 8, 8\)"),
        (([X], Y), "images of a batch must be .*, got a list"),
        ((X, Y.float()), r"whole numbers \(4,\), one per image, or .* \(4, classes\), got torch.float32 \(4,\)"),
        ((X, Y[:3]), r"labels of a batch must be .*, got torch.int64 \(3,\)"),
        ((X, Y[:, None]), r"labels of a batch must be .*, got torch.int64 \(4, 1\)"),
        ((X, Y > 1), r"labels of a batch must be .*, got torch.bool \(4,\)"),
        ((X, ("cat", "dog", "cat", "cat")), "labels of a batch must be .*, got a tuple"),
        ((X, np.array(["cat"] * 4)), "labels of a batch must be .*, got a ndarray"),
        ((X, Y - 1), "the labels of a batch must be 0 or more, got -1"),
        ((X, torch.full((4, 2), torch.nan)), "the labels of a batch must be 0 or more, got nan"),
    ],
)
def test_what_is_no_batch_is_answered_with_what_it_should_be(batch: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(batch)


def test_examples_that_cannot_be_joined_are_answered_with_what_to_do() -> None:
    sizes = [(torch.zeros(3, 8, 8 + i), 0) for i in range(4)]
    pictures = [(object(), 0)] * 4
    for examples in (sizes, pictures):
        dataset = type("Examples", (Dataset,), {"__len__": lambda _: 4, "__getitem__": lambda _, i, e=examples: e[i]})()
        with pytest.raises(ValueError, match=r"cannot be joined to a batch \(.*\): its transform must make image tens"):
            list(DatasetSplit(dataset).batches(4))


def test_batches_are_for_as_many_processes_as_their_sampler_says() -> None:
    dataset = TensorDataset(*tensors())
    with pytest.raises(
        ValueError, match=r"2 processes work together, and these batches are made for 1.*: pass the Data"
    ):
        as_split(DataLoader(dataset, batch_size=10)).check_world(2)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=1)
    divided = as_split(DataLoader(dataset, batch_size=10, sampler=sampler))
    divided.check_world(2)
    with pytest.raises(ValueError, match="made for 2"):
        divided.check_world(1)
    divided.begin_epoch(4)
    assert sampler.epoch == 4


def test_the_smallest_batch_is_known_beforehand_where_it_can_be() -> None:
    dataset = TensorDataset(*tensors())
    assert as_split(DataLoader(dataset, batch_size=16)).smallest_batch == 12
    assert as_split(DataLoader(dataset, batch_size=16, drop_last=True)).smallest_batch == 16
    assert as_split(DataLoader(dataset, batch_size=20)).smallest_batch == 20
    assert as_split([tensors()]).smallest_batch is None
