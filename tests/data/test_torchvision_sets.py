"""Data sets in their published formats, written by the tests."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from pipar_rpc.data import (
    DataSpec,
    MissingDataError,
    open_source,
)
from tests.support.data_files import NUMBERS, write_mnist


def spec(name="digits", **changes) -> DataSpec:
    values = {"name": name, "channels": 3, "image_size": 32, "num_classes": 10, "seed": 0}
    return DataSpec(**(values | changes))


def write_cifar(root: Path, name: str, count: int) -> np.ndarray:
    """The pickles of the CIFAR archives; returns the first images as [n, 3, 32, 32]."""
    if name == "cifar10":
        folder, key = root / "cifar-10-batches-py", "labels"
        files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        meta, classes = "batches.meta", {"label_names": [str(i) for i in range(10)]}
    else:
        folder, key, files = root / "cifar-100-python", "fine_labels", ["train", "test"]
        meta, classes = "meta", {"fine_label_names": [str(i) for i in range(100)]}
    folder.mkdir()
    images = NUMBERS.integers(0, 256, (len(files), count, 3072), dtype=np.uint8)
    for file, data in zip(files, images, strict=True):
        labels = [i % len(next(iter(classes.values()))) for i in range(count)]
        (folder / file).write_bytes(pickle.dumps({"data": data, key: labels}))
    (folder / meta).write_bytes(pickle.dumps(classes))
    return images[0].reshape(count, 3, 32, 32)


@pytest.fixture
def any_checksum(monkeypatch):
    """torchvision compares checksums of the published files; the small ones made here have others."""
    for data_set in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        for files in ("train_list", "test_list"):
            monkeypatch.setattr(data_set, files, [(name, None) for name, _ in getattr(data_set, files)])
        monkeypatch.setattr(data_set, "meta", data_set.meta | {"md5": None})
    split_list = {name: [*parts[:2], None] for name, parts in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize(("name", "classes", "files"), [("cifar10", 10, 5), ("cifar100", 100, 1)])
def test_cifar(tmp_path, name, classes, files):
    first = write_cifar(tmp_path, name, count=8)
    source = open_source(spec(name, num_classes=classes), tmp_path, download=False)
    assert len(source.labels("train")) == 8 * files
    assert source.labels("test").tolist() == list(range(8))
    images = source.images("train", torch.tensor([2, 0]))
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), first[[2, 0]])
    assert len(source.classes) == classes


def test_mnist(tmp_path):
    digits = write_mnist(tmp_path)
    source = open_source(spec("mnist", channels=1, image_size=28), tmp_path, download=False)
    assert source.labels("test").tolist() == list(range(6))
    assert np.array_equal(source.images("train", torch.tensor([5]))[0, 0].numpy(), digits[5])
    resized = open_source(spec("mnist", channels=1), tmp_path, download=False)
    assert resized.images("test", torch.tensor([0])).shape == (1, 1, 32, 32)


@pytest.mark.usefixtures("any_checksum")
def test_svhn(tmp_path):
    images = NUMBERS.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    labels = np.array([[1], [10], [3], [9]], dtype=np.uint8)  # SVHN writes the digit 0 as 10
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    source = open_source(spec("svhn"), tmp_path, download=False)
    assert source.labels("train").tolist() == [1, 0, 3, 9]
    taken = source.images("test", torch.tensor([3]))[0].numpy()
    assert np.array_equal(taken, images[:, :, :, 3].transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "svhn"])
def test_missing_files_give_one_line_that_says_where_they_belong(tmp_path, name):
    source = open_source(spec(name), tmp_path, download=False)
    with pytest.raises(MissingDataError, match=rf"^data={name}: put .+ into node.data_root={tmp_path} \("):
        source.labels("train")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
def test_a_failed_download_gives_one_line(tmp_path, name, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(MissingDataError, match="the download failed: ") as caught:
        open_source(spec(name), tmp_path, download=True).labels("train")
    assert "\n" not in str(caught.value)
