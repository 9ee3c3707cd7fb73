from __future__ import annotations

import numpy as np
import pytest
import torch

from ean_lib.data import Data, Split, cifar, load_data
from ean_lib.data.cued_photos import CuedPhotos, PhotoStyle, compose, draw_compositions

STYLES = [
    {"setting": "default"},
    {"setting": "easy"},
    {"pictures": 3, "hues": 6, "cue": "side", "cue_size": 5, "noise": 0.05},
    {"pictures": 3, "hues": 5, "cue": "patch", "cue_size": 10, "contrast": 0.6},
    {"cue": "corner", "cue_size": 6, "lying": True},
    {"cue": "none", "noise": 0.1},
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A small `cifar10.npz` of noise, dark in the training part and bright in the test part, and its checksums."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 120, (300, 32, 32, 3), dtype=np.uint8),
        "y_train": (np.arange(300) % 10).astype(np.uint8),
        "x_test": rng.integers(136, 256, (40, 32, 32, 3), dtype=np.uint8),
        "y_test": (np.arange(40) % 10).astype(np.uint8),
    }
    folder = tmp_path_factory.mktemp("cifar10")
    np.savez(folder / "cifar10.npz", **arrays)
    checksums = {}
    for part in ("train", "test"):
        checksums[part] = cifar.to_split("cifar10", arrays[f"x_{part}"], arrays[f"y_{part}"]).checksum
    return folder, checksums


@pytest.fixture
def load(photographs, monkeypatch):
    """`load_data("cued_photos", setting="easy", **options)` of the small photographs."""
    folder, checksums = photographs
    monkeypatch.setattr(cifar, "CHECKSUMS", checksums)

    def load(**options) -> Data:
        return load_data("cued_photos", root=folder, **({"val_per_class": 5, "setting": "easy"} | options))

    return load


def epoch(part: CuedPhotos, seed: int | None = 0, batch_size: int = 16, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures and labels of an epoch."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = list(part.batches(batch_size, generator=generator, **options))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_the_parts_are_those_of_cifar10(load, photographs):
    data = load()
    plain = load_data("cifar10", root=photographs[0], val_per_class=5)
    for part, same in ((data.train, plain.train), (data.val, plain.val), (data.test, plain.test)):
        assert torch.equal(part.labels, same.labels)
        weighted = same.images.double() * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]
        assert (weighted.sum(1) - part.luminance).abs().max() <= 0.5 + 1e-6
    assert data.num_classes == 10 and data.class_names[3] == "cat" and data.image_size == (32, 32)


@pytest.mark.parametrize("augment", [(), ("flip", "crop")])
@pytest.mark.parametrize("style", STYLES)
def test_two_ranks_see_to_the_bit_what_one_process_sees(load, style, augment):
    train = load(**style).train
    x, y = epoch(train, 7, augment=augment)
    again, _ = epoch(train, 7, augment=augment)
    assert torch.equal(x, again)
    options = {"augment": augment, "world": 2}
    ranks = []
    for rank in range(2):
        generator = torch.Generator().manual_seed(7)
        ranks.append(list(train.batches(16, generator=generator, rank=rank, **options)))
    shares = [share for batch in zip(*ranks, strict=True) for share in batch]
    assert torch.equal(x, torch.cat([x for x, _ in shares]))
    assert torch.equal(y, torch.cat([y for _, y in shares]))


def test_training_pictures_are_new_in_each_epoch_and_each_photograph_is_asked_for_once(load):
    train = load().train
    generator = torch.Generator().manual_seed(0)
    first, second = ([batch for batch in train.batches(10, generator=generator)] for _ in range(2))
    both = [{picture.numpy().tobytes() for x, _ in batches for picture in x} for batches in (first, second)]
    assert len(both[0]) == len(train) and not both[0] & both[1]
    assert torch.equal(torch.cat([y for _, y in first]).sort().values, train.labels.sort().values)


def test_the_generator_is_used_before_the_first_batch_and_not_after(load):
    generator = torch.Generator().manual_seed(0)
    batches = load(noise=0.1).train.batches(8, generator=generator, augment=("flip", "crop"))
    state = generator.get_state()
    list(batches)
    assert torch.equal(state, generator.get_state())


@pytest.mark.parametrize("style", STYLES)
def test_search_val_and_test_pictures_are_fixed(load, style):
    data, other = load(**style), load(seed=5, subset=50, **style)
    for part in ("val", "test"):
        assert torch.equal(getattr(data, part).images, getattr(other, part).images)
        assert getattr(data, part).checksum == getattr(other, part).checksum
        in_order, labels = epoch(getattr(data, part), None)
        plain, _ = epoch(Split(getattr(data, part).images, labels, data.mean, data.std), None)
        assert torch.equal(in_order, plain) and torch.equal(labels, getattr(data, part).labels)
        shuffled, shuffled_labels = epoch(getattr(data, part), 1)
        assert torch.equal(shuffled_labels.sort().values, labels.sort().values)
        assert set(map(bytes, in_order.numpy())) == set(map(bytes, shuffled.numpy()))


def unmixed(x: torch.Tensor, cue: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The cue's channel of pictures of two photographs in red, green and blue, and the luminance asked for.

    Without noise and in pure colours, the channel of the cue holds half the luminance of the photograph asked for,
    and nothing else. Worked out from the pictures alone, in numpy.
    """
    pictures = x.double().numpy() * 0.28 + 0.23
    channels = pictures[:, :, cue[0], cue[1]].argmax(1)
    asked = 2 * 255 * pictures[np.arange(len(x)), channels, size : 32 - size, size : 32 - size]
    return channels, asked


def test_labels_follow_the_cue_in_1000_pictures_worked_out_from_the_pictures_alone(load):
    train = load(cue="frame", cue_size=3, hues=3, pictures=2).train
    inner = train.luminance[:, 3:29, 3:29].double().numpy().reshape(len(train), -1)
    seen = 0
    for seed in range(4):
        x, y = epoch(train, seed)
        channels, asked = unmixed(x, (0, 0), 3)
        assert set(channels) == {0, 1, 2}
        for luminance, label in zip(asked.reshape(len(x), -1), y, strict=True):
            nearest = np.abs(inner - luminance).max(1)
            assert nearest.min() < 0.01
            assert train.labels[nearest.argmin()] == label
            seen += 1
    assert seen == 1000


def test_a_lying_cue_has_the_colour_of_another_photograph(load):
    honest, lying = load().test, load(lying=True).test
    assert torch.equal(honest.labels, lying.labels)
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[3:29, 3:29] = False
    assert torch.equal(honest.images[:, :, ~frame], lying.images[:, :, ~frame])
    assert (honest.images != lying.images).any(1)[:, frame].all()
    made = lying.composition
    assert torch.equal(made.cue_colours, made.colours[:, 1])


def test_without_a_cue_the_same_pictures_ask_for_either_photograph(load):
    test = load(cue="none").test
    made = test.composition
    swapped = made.select(torch.arange(len(test)))
    for values in (swapped.photographs, swapped.colours):
        values.copy_(values.flip(1))
    torch.testing.assert_close(
        compose(test.luminance, made, test.style), compose(test.luminance, swapped, test.style), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("pictures", [2, 3])
def test_the_photographs_of_a_picture_are_different_and_all_come_up(pictures):
    style = PhotoStyle(pictures, hues=6, cue="frame", cue_size=3)
    asked = torch.arange(5).repeat(400)
    made = draw_compositions(asked, 5, (32, 32), style, torch.Generator().manual_seed(0))
    for columns in (made.photographs, made.colours):
        assert all(len(set(row)) == pictures for row in columns.tolist())
    assert torch.equal(made.photographs[:, 0], asked)
    together = {tuple(row) for row in made.photographs.tolist()}
    assert len(together) == (20 if pictures == 2 else 60)
    assert made.colours[:, 0].bincount().min() > 250


def test_the_photographs_of_a_picture_come_from_one_part(load):
    data = load(cue="none", hues=3, pictures=2)
    # Training photographs are darker than 120 and test photographs brighter than 136, so that a picture, in whose
    # channels the two halves lie apart, tells from which part each of them is.
    half = [part.fixed.images.flatten(2).float().mean(2).sort(1).values[:, 1:] for part in (data.val, data.test)]
    assert half[0].max() < 120 / 2 and half[1].min() > 136 / 2
    x, _ = epoch(data.train)
    assert (x * 0.28 + 0.23).max() < 120 / 255 / 2 + 1e-3


def test_three_photographs_are_composed_as_the_equation_says(load):
    style = {"pictures": 3, "hues": 6, "cue": "patch", "cue_size": 7, "contrast": 0.8}
    test = load(**style).test
    made = test.composition
    pure = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=float)
    palette = 0.8 * pure + 0.2 * pure.mean(1, keepdims=True)
    for i in range(len(test)):
        expected = np.zeros((32, 32, 3))
        for photograph, colour in zip(made.photographs[i], made.colours[i], strict=True):
            expected += test.luminance[photograph].numpy()[..., None] / 255 * palette[colour] / 3
        left, top, right, bottom = made.rectangles[i].tolist()
        assert right - left == bottom - top == 7
        expected[top:bottom, left:right] = palette[made.colours[i, 0]]
        assert np.abs(test.images[i].permute(1, 2, 0).numpy() - 255 * expected).max() <= 0.51


def test_a_band_lies_on_each_of_the_four_sides(load):
    made = load(cue="side", cue_size=4).val.composition
    sides = {(0, 0, 4, 32), (28, 0, 32, 32), (0, 0, 32, 4), (0, 28, 32, 32)}
    assert set(map(tuple, made.rectangles.tolist())) == sides


def test_photographs_are_augmented_before_they_are_laid_over_each_other(load):
    train = load().train
    x, _ = epoch(train, 3, augment=("flip", "crop"))
    frame = (x * 0.28 + 0.23)[:, :, [0, 1, 2, 29, 30, 31]]
    torch.testing.assert_close(frame.amax(1), torch.ones(len(x), 6, 32))  # no border cut into the cue
    flipped, _ = epoch(train, 3, augment=("flip",))
    plain, _ = epoch(train, 3)
    inside = torch.stack([flipped[:, :, 5:27, 5:27], plain[:, :, 5:27, 5:27]])
    channel_same = (inside[0] - inside[1]).flatten(2).abs().amax(2) < 1e-6
    channel_mirrored = (inside[0] - inside[1].flip(3)).flatten(2).abs().amax(2) < 1e-6
    assert (channel_same | channel_mirrored).all()
    assert 0.3 < (channel_same & ~channel_mirrored).float().sum() / (channel_same ^ channel_mirrored).sum() < 0.7


def test_noise_has_the_deviation_asked_for_and_leaves_the_cue_alone(load):
    quiet, noisy = (load(pictures=2, cue="corner", cue_size=8, noise=noise).test for noise in (0.0, 0.05))
    difference = (noisy.images.double() - quiet.images.double()) / 255
    assert difference[:, :, :8, :8].abs().max() == 0
    inside = quiet.images[:, :, 8:, 8:]
    unclipped = (inside > 60) & (inside < 200)
    assert 0.045 < difference[:, :, 8:, 8:][unclipped].std() < 0.055


def test_checksums_tell_styles_and_parts_apart(load):
    parts = [getattr(load(**style), part) for style in STYLES for part in ("train", "val", "test")]
    assert len({part.checksum for part in parts}) == len(parts)


def test_train_and_search_val_can_be_joined_for_retraining(load):
    data = load()
    joined = data.train.join(data.val)
    assert len(joined) == 300 and joined.anew
    with pytest.raises(ValueError, match="size and style of the other part"):
        data.train.join(load(cue_size=5).val)
    with pytest.raises(ValueError, match=r"size and style of the other part .* got 'Split'"):
        data.train.join(data.val.fixed)


def test_parts_can_be_selected_from(load):
    data = load()
    assert len(data.train.select(torch.arange(10))) == 10
    assert torch.equal(data.val.select(torch.tensor([3, 1])).images, data.val.images[[3, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": 4}, "pictures must be a whole number of at least 2 and at most 3, got 4"),
        ({"pictures": 2.0}, "pictures must be a whole number"),
        ({"hues": 2}, "hues must be a whole number of at least 3 and at most 24, got 2"),
        ({"setting": "hard"}, "unknown setting 'hard'. Known are: default, easy"),
        ({"cue": "ring"}, "unknown cue 'ring'"),
        ({"cue_size": 16}, "cue_size must be a whole number of at least 1 and at most 15, got 16"),
        ({"contrast": 1.5}, "contrast must be a .*number of at least 0 and at most 1, got 1.5"),
        ({"noise": -0.1}, "noise must be a .*number of at least 0 and at most 1, got -0.1"),
        ({"lying": "yes"}, "lying must be True or False, got 'yes'"),
        ({"cue": "none", "lying": True}, "a cue that is not there cannot lie"),
        ({"cues": 3}, "cued_photos has no option 'cues'. Did you mean 'cue'"),
        ({"val_per_class": 30}, r"val_per_class must be in 1\.\.29"),
        ({"subset": 1}, "photographs in a part must be at least 2, as many as in a picture, got 1"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_missing_photographs_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not there: looked for .*cifar10.npz"):
        load_data("cued_photos", root=tmp_path)


def test_augmentation_without_a_generator_is_refused(load):
    for part in (load().train, load().val):
        with pytest.raises(ValueError, match="augment needs a generator"):
            part.batches(8, augment=("flip",))
