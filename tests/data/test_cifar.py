from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch

from ean_lib.data import cifar, data_directory, load_data

RNG = np.random.default_rng(0)
SMALL = {
    "x_train": RNG.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8),
    "y_train": (np.arange(200) % 10).astype(np.uint8),
    "x_test": RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
    "y_test": (np.arange(20) % 10).astype(np.uint8),
}
CHECKSUMS = {
    part: cifar.to_split("cifar10", SMALL[f"x_{part}"], SMALL[f"y_{part}"]).checksum for part in ("train", "test")
}


@pytest.fixture
def npz(tmp_path, monkeypatch):
    """A small `cifar10.npz` that stands for the real one, with its own checksums."""
    np.savez(tmp_path / "cifar10.npz", **SMALL)
    monkeypatch.setattr(cifar, "CHECKSUMS", CHECKSUMS)
    return tmp_path / "cifar10.npz"


def test_npz_gives_balanced_parts_that_together_are_the_training_images(npz):
    data = load_data("cifar10", root=npz.parent, val_per_class=5)
    assert data.val.labels.bincount().tolist() == [5] * 10
    assert data.train.labels.bincount().tolist() == [15] * 10
    joined = data.train.join(data.val).images.permute(0, 2, 3, 1).numpy()
    assert sorted(i.tobytes() for i in joined) == sorted(i.tobytes() for i in SMALL["x_train"])
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), SMALL["x_test"])
    assert data.class_names[3] == "cat" and data.num_classes == 10 and data.image_size == (32, 32)


def test_search_val_is_the_same_for_every_seed_and_subset(npz):
    parts = [
        load_data("cifar10", root=npz.parent, val_per_class=5, subset=subset, seed=seed)
        for subset, seed in ((50, 0), (50, 1), (None, 2))
    ]
    assert len({data.val.checksum for data in parts}) == len({data.test.checksum for data in parts}) == 1
    assert parts[0].train.checksum != parts[1].train.checksum
    assert parts[0].train.labels.bincount().tolist() == [5] * 10


def test_a_smaller_subset_is_the_beginning_of_a_larger_one(npz):
    small, large = (load_data("cifar10", root=npz.parent, val_per_class=5, subset=subset) for subset in (30, 70))
    assert torch.equal(small.train.images, large.train.images[:30])


def test_a_file_that_changes_after_it_was_right_is_refused(npz):
    cifar.read_npz(npz)
    changed = SMALL | {"y_test": SMALL["y_test"][::-1].copy()}
    np.savez(npz, **changed)
    with pytest.raises(
        ValueError, match=r"cifar10.npz cannot be read: .* \(SHA-256 of the test part must be .* Delete it"
    ):
        cifar.read_npz(npz)


@pytest.mark.parametrize("keep", [0, 100, 5000, 600_000])
def test_truncated_npz_is_named_with_the_fix(npz, keep):
    npz.write_bytes(npz.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cifar10.npz cannot be read: .* Delete it and get it again"):
        load_data("cifar10", root=npz.parent)


def test_npz_with_pickled_objects_is_refused_without_running_them(npz):
    np.savez(npz, **(SMALL | {"y_train": np.array([print], dtype=object)}))
    with pytest.raises(ValueError, match="cannot be read"):
        load_data("cifar10", root=npz.parent)


def test_npz_with_labels_in_words_is_refused(npz):
    np.savez(npz, **(SMALL | {"y_train": np.array(["cat"] * len(SMALL["y_train"]))}))
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be read"):
        load_data("cifar10", root=npz.parent)


def test_npz_of_other_shape_is_refused(npz):
    np.savez(npz, **(SMALL | {"x_test": SMALL["x_test"][:5]}))
    with pytest.raises(ValueError, match=r"cifar10.npz cannot be read: .* of shape \(5,\), .* got .* \(20,\)"):
        load_data("cifar10", root=npz.parent)


def test_npz_without_an_array_is_refused(npz):
    np.savez(npz, x_train=SMALL["x_train"])
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be read"):
        load_data("cifar10", root=npz.parent)


def test_missing_data_says_where_it_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10.npz and .*cifar-10-batches-py.*download=True"):
        load_data("cifar10", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"looked for [^ ]*cifar-100-python\. .*EAN_DATA"):
        load_data("cifar100", root=tmp_path)


def test_torchvision_folder_is_read(tmp_path, monkeypatch):
    def write(path, labels, key):
        data = RNG.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        path.write_bytes(pickle.dumps({"data": data, key: labels}))
        return data

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = write(folder / "train", list(range(100)) * 4, "fine_labels")
    write(folder / "test", list(range(100)), "fine_labels")
    names = [f"class {i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(cifar.CIFAR100, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(cifar.CIFAR100, "test_list", [["test", digests["test"]]])
    monkeypatch.setitem(cifar.CIFAR100.meta, "md5", digests["meta"])
    data = load_data("cifar100", root=tmp_path, val_per_class=1)
    assert (len(data.train), len(data.val), len(data.test)) == (300, 100, 100)
    assert data.class_names == tuple(names)
    joined = data.train.join(data.val).images.flatten(1).numpy()
    assert sorted(i.tobytes() for i in joined) == sorted(i.tobytes() for i in pixels)


def test_damaged_torchvision_folder_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or incomplete"):
        load_data("cifar10", root=tmp_path)


def test_failed_download_is_a_sentence(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(cifar.CIFAR10, "download", refuse)
    with pytest.raises(ConnectionError, match=r"cifar10 could not be got from https.*no route to host"):
        load_data("cifar10", root=tmp_path, download=True)
    assert "Downloading cifar10 from https" in capsys.readouterr().err


def test_the_data_directory_is_root_then_environment_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EAN_DATA", str(tmp_path / "here"))
    assert data_directory() == tmp_path / "here" and data_directory(tmp_path) == tmp_path
    monkeypatch.delenv("EAN_DATA")
    assert data_directory().parts[-2:] == (".cache", "ean_lib")


@pytest.mark.slow
def test_the_real_cifar10_has_the_published_mean_and_std():
    if not (data_directory() / "cifar10.npz").exists():
        pytest.skip("cifar10.npz is not on this machine")
    data = load_data("cifar10", subset=5000)
    images = data.train.images / 255
    assert len(data.val) == 5000 and len(data.test) == 10000
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(data.mean), atol=0.01, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor(data.std), atol=0.01, rtol=0)
