from __future__ import annotations

import io
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ean_lib.data.folder as module
from ean_lib.data import Split, load_data
from ean_lib.data.folder import LazySplit, random_box
from ean_lib.experiments.task import Task


def write_images(folder, count, seed, size=(40, 30)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size)
        image.save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of 12, 10 and 11 images directly in the folder."""
    root = tmp_path_factory.mktemp("pictures")
    for i, (name, count) in enumerate({"cat": 12, "dog": 10, "owl": 11}.items()):
        write_images(root / name, count, i)
    return root


@pytest.fixture
def copy(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / "copy")


def images_of(part):
    return {x.numpy().tobytes() for batch, _ in part.batches(7) for x in batch}


@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
def test_class_folders_are_carved_into_three_disjoint_balanced_parts(pictures, memory_gb):
    kind = {"size": 16, "val_per_class": 2, "memory_gb": memory_gb, "workers": 0}
    data = load_data(f"image_folder:{pictures}", **kind)
    assert data.class_names == ("cat", "dog", "owl") and data.image_size == (16, 16)
    assert data.train.labels.bincount().tolist() == [8, 6, 7]
    assert data.val.labels.bincount().tolist() == data.test.labels.bincount().tolist() == [2, 2, 2]
    assert len(set.union(*map(images_of, (data.train, data.val, data.test)))) == 33
    other = load_data(f"image_folder:{pictures}", subset=6, seed=9, **kind)
    assert images_of(other.val) == images_of(data.val) and images_of(other.test) == images_of(data.test)
    assert other.train.labels.bincount().tolist() == [2, 2, 2]


def test_images_in_memory_and_read_lazily_are_the_same(pictures):
    memory, lazy = (load_data(f"image_folder:{pictures}", size=16, memory_gb=gb, workers=2) for gb in (1, 0))
    assert isinstance(memory.train, Split) and isinstance(lazy.train, LazySplit)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    both = (part.train.batches(8, generator=g) for part, g in zip((memory, lazy), generators, strict=True))
    for (x, y), (lazy_x, lazy_y) in zip(*both, strict=True):
        assert torch.equal(y, lazy_y) and lazy_x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x, lazy_x)


@pytest.mark.parametrize("batch_size", [8, 26])  # of 27: one image is left for the last batch of two ranks
def test_lazy_batches_do_not_depend_on_workers_and_ranks(pictures, batch_size):
    def epoch(workers, rank=0, world=1):
        lazy = load_data(f"image_folder:{pictures}", size=16, memory_gb=0, workers=workers).train
        generator = torch.Generator().manual_seed(3)
        kind = {"generator": generator, "augment": ("flip", "crop"), "rank": rank, "world": world}
        return list(lazy.batches(batch_size, **kind))

    state = torch.get_rng_state()
    alone, first, second = epoch(0), epoch(2, 0, 2), epoch(1, 1, 2)
    for (x, y), (x0, y0), (x1, y1) in zip(alone, first, second, strict=True):
        assert torch.equal(x, torch.cat([x0, x1])) and torch.equal(y, torch.cat([y0, y1]))
    assert torch.equal(state, torch.get_rng_state())


def test_lazy_augmentation_differs_between_epochs(pictures):
    lazy = load_data(f"image_folder:{pictures}", size=16, memory_gb=0, workers=0).train
    generator = torch.Generator().manual_seed(3)
    kind = {"generator": generator, "augment": ("crop",)}
    first, second = (torch.cat([x for x, _ in lazy.batches(9, **kind)]) for _ in range(2))
    assert not {x.numpy().tobytes() for x in first} & {x.numpy().tobytes() for x in second}


def test_lazy_flips_mirror_some_images_and_leave_the_others(pictures):
    lazy = load_data(f"image_folder:{pictures}", size=16, memory_gb=0).train
    (plain, _), (flipped, _) = (
        next(lazy.batches(len(lazy), generator=torch.Generator().manual_seed(3), augment=augment))
        for augment in ((), ("flip",))
    )
    same, mirrored = ((other == flipped).flatten(1).all(1) for other in (plain, plain.flip(3)))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**63))
def test_a_random_box_lies_in_the_image_and_has_the_usual_area_and_shape(width, height, seed):
    left, top, right, bottom = random_box(width, height, random.Random(seed))
    assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
    ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top) / (width * height)
    assert 0.7499 < ratio < 1.3334 and area < 1.0001
    touches = max((right - left) / width, (bottom - top) / height) > 0.9999
    assert area > 0.0799 or touches  # as large as one of this shape can be
    image = Image.new("L", (width, height)).resize((8, 8), Image.Resampling.BILINEAR, (left, top, right, bottom))
    assert image.size == (8, 8)


def test_random_boxes_reach_all_areas_and_places():
    rng = random.Random(0)
    left, top, right, bottom = np.array([random_box(100, 100, rng) for _ in range(2000)]).T
    area = (right - left) * (bottom - top) / 100**2
    assert area.min() < 0.09 and area.max() > 0.95 and 0.45 < area.mean() < 0.5
    assert left.min() < 1 and right.max() > 99 and top.min() < 1 and bottom.max() > 99


@pytest.mark.parametrize("folders", [("train", "val"), ("train", "test"), ("train", "val", "test"), ("train",)])
def test_train_val_and_test_folders_are_used(pictures, tmp_path, folders):
    for name in folders:
        shutil.copytree(pictures, tmp_path / name)
    data = load_data(f"image_folder:{tmp_path}", size=8, workers=0)
    held_out = 3 * (3 - len(folders))
    assert len(data.train) == 33 - held_out
    assert len(data.test) == (33 if len(folders) > 1 else 3)
    assert len(data.val) == (33 if len(folders) == 3 else 3)


@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
def test_parts_can_be_joined_and_checksums_tell_them_apart(pictures, memory_gb):
    data = load_data(f"image_folder:{pictures}", size=8, memory_gb=memory_gb, workers=0)
    assert len(data.train.join(data.val)) == len(data.train) + len(data.val)
    again = load_data(f"image_folder:{pictures}", size=8, memory_gb=memory_gb, workers=0)
    assert data.train.checksum == again.train.checksum != data.val.checksum


def test_the_middle_of_the_image_is_kept_at_8_7_of_the_size(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = np.zeros((80, 160, 3), dtype=np.uint8)
            image[5:75, 45:115] = 255  # 70 of 80 pixels in the middle
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    images = load_data(f"image_folder:{tmp_path}", size=70, workers=0).train.images
    assert images.shape == (2, 3, 70, 70) and (images == 255).all()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_broken_image_is_named(copy, content, memory_gb, workers):
    broken = copy / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"^\S*3\.png cannot be read as an image \(.*\); repair it or delete it\.$"):
        data = load_data(f"image_folder:{copy}", size=8, memory_gb=memory_gb, workers=workers)
        for part in (data.train, data.val, data.test):
            list(part.batches(8))


def test_who_stops_early_does_not_wait_for_what_was_read_ahead(pictures, monkeypatch):
    train = load_data(f"image_folder:{pictures}", size=8, memory_gb=0, workers=1).train
    seen, read = [], module.read_image

    def slow(path, *arguments):
        seen.append(path)
        time.sleep(0.05)
        return read(path, *arguments)

    monkeypatch.setattr(module, "read_image", slow)
    batches = train.batches(9)
    next(batches)
    batches.close()
    assert 9 <= len(seen) <= 13  # of the 27 that the first batch and the two read ahead have


def test_folders_that_hold_no_dataset_are_refused(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; image_folder:PATH needs PATH/train"):
        load_data(f"image_folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty cannot be used"):
        load_data(f"image_folder:{tmp_path / 'empty'}")
    (copy / "yak").mkdir()
    with pytest.raises(ValueError, match="no valid file for the classes yak"):
        load_data(f"image_folder:{copy}")
    for name in ("yak", "dog", "owl"):
        shutil.rmtree(copy / name)
    with pytest.raises(ValueError, match="one class only, 'cat'"):
        load_data(f"image_folder:{copy}")


def test_a_test_part_of_other_classes_is_refused(pictures, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(pictures, tmp_path / name)
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "eagle")
    with pytest.raises(ValueError, match="different classes: only one has 'eagle'"):
        load_data(f"image_folder:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size must be a whole number of at least 8, got 4"),
        ({"workers": -1}, "workers must be a whole number of at least 0, got -1"),
        ({"memory_gb": float("nan")}, "memory_gb must be zero or positive, got nan"),
        ({"val_per_class": 10}, r"val_per_class must be in 1\.\.9, as the smallest class has 10 .* got 10"),
        ({"subset": 100}, "subset must be in 1..27"),
    ],
)
def test_wrong_options_are_refused(pictures, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(f"image_folder:{pictures}", **({"size": 8} | options))


def grey_folder(root, values, **save):
    """Two classes of three pictures of one grey value each."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(values).save(root / name / f"{i}.{save.get('ending', 'png')}")
    return load_data(f"image_folder:{root}", size=8, workers=0)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (32896, 128), (65535, 255), (65406, 254)])
def test_16_bit_grey_pictures_are_scaled_to_8_bits(tmp_path, value, expected):
    data = grey_folder(tmp_path, np.full((10, 10), value, dtype=np.uint16))
    assert (data.train.images == expected).all()


def test_16_bit_grey_tiffs_are_scaled_too(tmp_path):
    data = grey_folder(tmp_path, np.full((10, 10), 32896, dtype=np.uint16), ending="tiff")
    assert (data.train.images == 128).all()


@pytest.mark.parametrize(
    ("kind", "words"), [(np.int32, "32-bit whole numbers"), (np.float32, "floating-point numbers")]
)
def test_pictures_of_unknown_range_are_refused_by_name(tmp_path, kind, words):
    message = rf"0\.tiff cannot be read as an image \(its pixels are {words}, and which value is white is unknown"
    with pytest.raises(ValueError, match=message):
        grey_folder(tmp_path, np.full((10, 10), 1000, dtype=kind), ending="tiff")


def test_what_programs_leave_unseen_in_a_folder_is_skipped(copy):
    expected = load_data(f"image_folder:{copy}", size=8, workers=0)
    write_images(copy / ".ipynb_checkpoints", 2, seed=9)
    write_images(copy / "dog" / ".ipynb_checkpoints", 2, seed=9)
    write_images(copy / "__MACOSX", 2, seed=9)
    (copy / ".DS_Store").write_bytes(b"x")
    for name in ("._3.png", ".hidden.png", "Thumbs.db", "desktop.ini"):
        (copy / "cat" / name).write_bytes(b"no image")
    data = load_data(f"image_folder:{copy}", size=8, workers=0)
    assert data.class_names == ("cat", "dog", "owl")
    for part in ("train", "val", "test"):
        assert getattr(data, part).checksum == getattr(expected, part).checksum


def test_a_dataset_in_a_hidden_folder_is_read(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / ".cache" / "pictures")
    assert len(load_data(f"image_folder:{tmp_path / '.cache' / 'pictures'}", size=8, memory_gb=0).train) == 27


def test_a_relative_folder_is_still_there_after_a_change_of_directory(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(copy.parent)
    data = load_data("image_folder:copy", size=8, memory_gb=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(list(data.train.batches(9))) == 3
    assert data.name == "image_folder:copy"


def test_a_task_does_not_take_another_folder_of_the_same_name_for_its_own(copy, tmp_path, monkeypatch):
    task = Task("image_folder:copy")
    monkeypatch.chdir(copy.parent)
    first = task.data()
    other = tmp_path / "elsewhere"
    shutil.copytree(copy, other / "copy")
    (other / "copy" / "cat" / "0.png").unlink()
    monkeypatch.chdir(other)
    assert len(task.data().train) == len(first.train) - 1


def test_a_home_directory_that_nobody_knows_is_a_sentence(monkeypatch):
    def unknown(_path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EAN_DATA", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    for name in ("cifar10", "cued_photos", "image_folder:~/pictures"):
        with pytest.raises(ValueError, match=r"cannot be found: Could not determine .* set the .* HOME, or name"):
            load_data(name)
    assert len(load_data("cued_shapes", subset=8).train) == 8


CONTENTS = st.sampled_from(["rgb", "grey", "grey 16", "grey 32", "palette", "alpha", "empty", "text", "cut", "folder"])
NAMES = st.sampled_from(["1.png", "2.PNG", "3.jpg", "é.png", ".x.png", "Thumbs.db", "a b.bmp", "no ending", "4.tiff"])
FOLDERS = st.sampled_from(
    ["a", "b", "c", "train/a", "train/b", "val/a", "val/b", "test/a", ".c", "a/deep", "train", ""]
)


def write_anything(file, content):
    modes = {
        "rgb": "RGB",
        "grey": "L",
        "grey 16": "I;16",
        "grey 32": "I",
        "palette": "P",
        "alpha": "RGBA",
        "cut": "RGB",
    }
    if content == "folder":
        file.mkdir(exist_ok=True)
    elif content in modes:
        buffer = io.BytesIO()
        Image.new(modes[content], (5, 7)).save(buffer, "TIFF" if content == "grey 32" else "PNG")
        written = buffer.getvalue()
        file.write_bytes(written[: len(written) // 2] if content == "cut" else written)
    else:
        file.write_bytes(b"" if content == "empty" else b"some text")


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(st.tuples(FOLDERS, NAMES), CONTENTS, max_size=12),
    memory_gb=st.sampled_from([0, 1]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "subset": st.sampled_from([0, 1, 2, 5, -1, 2.5, "three", np.int64(2)]),
            "val_per_class": st.sampled_from([0, 1, 2, 1.5, None]),
            "seed": st.sampled_from([0, 2**40, -1, "one", 2**70]),
        },
    ),
)
def test_any_small_folder_is_a_dataset_or_a_sentence(files, memory_gb, options):
    with tempfile.TemporaryDirectory() as root:
        for (folder, name), content in files.items():
            file = Path(root, folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_anything(file, content)
        try:
            data = load_data(f"image_folder:{root}", size=8, memory_gb=memory_gb, workers=1, **options)
            for part in (data.train, data.val, data.test):
                for x, y in part.batches(4):
                    assert x.shape[1:] == (3, 8, 8) and y.min() >= 0 and y.max() < data.num_classes
        except ValueError as error:
            assert len(str(error).split()) > 5
