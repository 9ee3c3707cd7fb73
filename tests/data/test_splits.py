from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ean_lib.data.splits import Split, class_balanced_order, crop, hold_out, take


def random_split(count: int = 50, size: tuple[int, int] = (32, 32), classes: int = 5) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return Split.from_arrays(images, torch.arange(count) % classes, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_in_order_equal_the_normalised_images():
    split = random_split()
    x = torch.cat([x for x, _ in split.batches(16)])
    y = torch.cat([y for _, y in split.batches(16)])
    mean, std = torch.tensor(split.mean).view(3, 1, 1), torch.tensor(split.std).view(3, 1, 1)
    torch.testing.assert_close(x, (split.images / 255 - mean) / std)
    assert torch.equal(y, split.labels)


def test_batches_are_float32_and_channels_last():
    for augment in [(), ("flip",), ("crop",), ("flip", "crop")]:
        x, y = next(random_split().batches(8, generator=seeded(), augment=augment))
        assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=30, deadline=None)
@given(
    world=st.integers(1, 4),
    count=st.integers(1, 40),
    per_rank=st.integers(1, 6),
    drop_last=st.booleans(),
    augment=st.sampled_from([(), ("flip",), ("crop",), ("flip", "crop")]),
)
def test_ranks_together_see_exactly_what_one_process_sees(world, count, per_rank, drop_last, augment):
    split = random_split(count, size=(16, 12))

    def epoch(**share):
        kind = {"generator": seeded(7), "augment": augment, "drop_last": drop_last}
        return list(split.batches(per_rank * world, **kind, **share))

    alone = epoch()
    ranks = [epoch(rank=rank, world=world) for rank in range(world)]
    assert all(len(rank) == len(alone) for rank in ranks)
    for batch, shares in zip(alone, zip(*ranks, strict=True), strict=True):
        assert torch.equal(batch[0], torch.cat([x for x, _ in shares]))
        assert torch.equal(batch[1], torch.cat([y for _, y in shares]))


def test_shuffled_epoch_shows_each_image_once_and_depends_only_on_the_generator():
    split = Split.from_arrays(torch.zeros(50, 3, 4, 4, dtype=torch.uint8), torch.arange(50))
    first, again, other = (torch.cat([y for _, y in split.batches(8, generator=seeded(s))]) for s in (0, 0, 1))
    assert torch.equal(first.sort().values, torch.arange(50))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_generator_is_used_before_the_first_batch_and_not_after():
    generator = seeded()
    batches = random_split().batches(8, generator=generator, augment=("flip", "crop"))
    state = generator.get_state()
    list(batches)
    assert torch.equal(state, generator.get_state())


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    split = random_split(400, (4, 4))
    plain = torch.cat([x for x, _ in split.batches(100, generator=seeded())])
    flipped = torch.cat([x for x, _ in split.batches(100, generator=seeded(), augment=("flip",))])
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert (same | mirrored).all() and 150 < mirrored.sum() < 250


def test_crop_equals_slicing_the_padded_image():
    x = torch.randint(0, 256, (81, 32, 32, 3), dtype=torch.uint8)
    tops, lefts = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    padded = torch.nn.functional.pad(x, (0, 0, 4, 4, 4, 4))
    cropped = crop(x, tops.flatten(), lefts.flatten())
    for i, (top, left) in enumerate(zip(tops.flatten(), lefts.flatten(), strict=True)):
        assert torch.equal(cropped[i], padded[i, top : top + 32, left : left + 32])


def test_crop_offsets_cover_all_81_places_of_a_32_pixel_image():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[0, :, 16, 16] = 255
    split = Split.from_arrays(image.expand(5000, -1, -1, -1), torch.zeros(5000, dtype=torch.int64))
    x = torch.cat([x[:, 0] for x, _ in split.batches(500, generator=seeded(), augment=("crop",))])
    assert len(x.flatten(1).argmax(1).unique()) == 81


def test_images_are_moved_to_a_device_once():
    split = random_split()
    assert split.on("cpu")[0] is split.on(torch.device("cpu"))[0]


def test_join_and_select_give_back_the_parts():
    split = random_split()
    first, second = split.select(torch.arange(20)), split.select(torch.arange(20, 50))
    joined = first.join(second)
    assert torch.equal(joined.images, split.images) and torch.equal(joined.labels, split.labels)
    assert joined.checksum == split.checksum != first.checksum


def test_join_refuses_another_dataset():
    with pytest.raises(ValueError, match="size, mean and std of the other part must be those of this one"):
        random_split().join(random_split(size=(16, 16)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 100))
def test_every_prefix_of_the_class_balanced_order_is_balanced(labels, prefix, seed):
    labels = torch.tensor(labels)
    order = class_balanced_order(labels, seeded(seed))
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    total, taken = labels.bincount(minlength=5), labels[order[:prefix]].bincount(minlength=5)
    most = int(taken.max())
    assert all(t == a or t >= most - 1 for t, a in zip(taken.tolist(), total.tolist(), strict=True))


def test_parts_that_cannot_be_held_out_or_taken_are_refused():
    split = random_split(200, size=(4, 4), classes=10)
    for per_class in (0, 20):
        with pytest.raises(
            ValueError, match=rf"val_per_class must be in 1\.\.19, .* smallest class has 20 .* got {per_class}"
        ):
            hold_out(split, per_class)
    for subset in (0, 201):
        with pytest.raises(ValueError, match=rf"subset must be in 1\.\.200, .* got {subset}"):
            take(split, subset, seed=0)


def test_float_images_are_rounded_to_8_bits():
    images = np.linspace(0, 1, 3 * 16, dtype=np.float32).reshape(1, 3, 4, 4)
    assert np.array_equal(Split.from_arrays(images, [0]).images, np.round(images * 255))


IMAGES = torch.zeros(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES.index_fill(0, torch.tensor([2]), float("nan")), [0] * 4, {}, "1 of 4 images hold NaN.*image 2"),
        (IMAGES + float("inf"), [0] * 4, {}, "4 of 4 images hold NaN or infinite"),
        (IMAGES + 255, [0] * 4, {}, r"must be in 0\.\.1 .* got \(255"),
        (IMAGES.to(torch.int16), [0] * 4, {}, "uint8.*or float.*got torch.int16"),
        (IMAGES[:, :1], [0] * 4, {}, r"\(N, 3, H, W\).*\(4, 1, 8, 8\)"),
        (IMAGES[:0], [], {}, "none of them 0"),
        (IMAGES, [0] * 3, {}, r"of shape \(4,\), one per image, got \(torch.int64, \(3,\)\)"),
        (IMAGES, [0.0] * 4, {}, r"whole numbers .* got \(torch.float32"),
        (IMAGES, [0, 1, 2, 3], {"num_classes": 3}, r"numbers from 0 to 2, got \(0, 3\)"),
        (IMAGES, [-1, 0, 0, 0], {}, r"numbers from 0 to 0, got \(-1, 0\)"),
        (IMAGES, [0] * 4, {"std": (1.0, 0.0, 1.0)}, "std positive"),
    ],
)
def test_wrong_arrays_are_refused_in_a_sentence(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        Split.from_arrays(images, labels, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive multiple .* got 0"),
        ({"batch_size": 9, "world": 2}, r"positive multiple .*\(world=2\), .* got 9"),
        ({"batch_size": 8, "rank": 2, "world": 2}, r"\(world=2\), and rank=2 below that"),
        ({"batch_size": 8, "augment": ("flop",)}, "unknown augmentation 'flop'. Did you mean 'flip'"),
        ({"batch_size": 8, "augment": ("flip",)}, "augment needs a generator"),
    ],
)
def test_wrong_batching_is_refused_before_the_first_batch(options, message):
    with pytest.raises(ValueError, match=message):
        random_split().batches(**options)
