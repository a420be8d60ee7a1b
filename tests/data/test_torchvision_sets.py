"""Data sets in their real formats, written by the tests; who gets which sample; augmentation."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.data import (
    Batches,
    DataSpec,
    Images,
    MissingDataError,
    Transform,
    load_held_out,
    load_train_part,
    open_source,
    split_held_out,
)
from tests.support.data_files import NUMBERS, write_folder, write_mnist


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


@pytest.mark.parametrize("archived", [False, True])
def test_imagefolder_and_zip(tmp_path, archived):
    root = tmp_path / "images"
    write_folder(root)
    if archived:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path, Path("wrapped") / path.relative_to(root))
        root = tmp_path / "images.zip"
    source = open_source(spec("imagefolder", image_size=16, num_classes=None), root, download=False)
    assert source.classes == ("cat", "dog")
    assert source.labels("train").tolist() == [0, 0, 0, 1, 1, 1]
    images = source.images("test", torch.tensor([4]))
    assert images.shape == (1, 3, 16, 16)
    assert images[0, :, 0, 0].tolist() == [200, 10, 0]


def test_imagefolder_uses_the_servers_numbering_of_classes(tmp_path):
    write_folder(tmp_path)
    asked = spec("imagefolder", classes=("bird", "cat", "dog"))
    assert open_source(asked, tmp_path, False).labels("train").tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(UserError, match="class folder dog, which the server does not have"):
        open_source(spec("imagefolder", classes=("bird", "cat")), tmp_path, False)


def test_a_damaged_archive_is_one_line(tmp_path):
    write_folder(tmp_path / "images")
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, not deflated: the pixels can be found and changed
        for file in sorted((tmp_path / "images").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IDAT", b"IDAX", 1))
    source = open_source(spec("imagefolder"), path, False)
    with pytest.raises(UserError, match=r"0\.png is not a readable image \(BadZipFile\)"):
        source.images("test", torch.tensor([0]))


def test_imagefolder_errors(tmp_path):
    with pytest.raises(MissingDataError, match="does not exist"):
        open_source(spec("imagefolder"), tmp_path / "nowhere", False)
    (tmp_path / "file.zip").write_text("no archive")
    with pytest.raises(MissingDataError, match=r"is not a \.zip"):
        open_source(spec("imagefolder"), tmp_path / "file.zip", False)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "0.png").write_text("broken")
    source = open_source(spec("imagefolder"), tmp_path, False)
    with pytest.raises(MissingDataError, match="no images in train/"):
        source.labels("train")
    with pytest.raises(UserError, match=r"0\.png is not a readable image"):
        source.images("test", torch.tensor([0]))


def test_digits_are_real_and_split_apart():
    source = open_source(spec(channels=1), Path(), False)
    train, test = source.labels("train"), source.labels("test")
    assert (len(train), len(test)) == (1438, 359)
    images = source.images("train", torch.arange(10))
    assert images.shape == (10, 1, 32, 32)
    assert images.max() > 200


def test_synthetic_is_the_same_for_every_device():
    one = open_source(spec("synthetic", train_size=50), Path(), False)
    other = open_source(spec("synthetic", train_size=50), Path(), False)
    indices = torch.tensor([7, 3])
    assert torch.equal(one.images("train", indices), other.images("train", indices.flip(0)).flip(0))
    assert not torch.equal(one.images("train", indices), one.images("test", indices))


def test_unknown_data_set():
    with pytest.raises(ConfigError, match=r"data.name=cifar: must be .+ did you mean cifar10"):
        open_source(spec("cifar"), Path(), False)


@given(st.integers(2, 400), st.integers(0, 300), st.none() | st.integers(1, 300), st.integers(0, 3))
def test_validation_and_test_never_overlap(num_held_out, val_size, test_size, seed):
    asked = spec(seed=seed, val_size=val_size, test_size=test_size)
    if val_size >= num_held_out or val_size + (test_size or 1) > num_held_out:
        with pytest.raises(ConfigError):
            split_held_out(num_held_out, asked)
        return
    val, test = (indices.tolist() for indices in split_held_out(num_held_out, asked))
    assert set(val).isdisjoint(test)
    assert len(val) == val_size
    assert len(test) == (num_held_out - val_size if test_size is None else test_size)
    again = split_held_out(num_held_out, asked)
    assert [again[0].tolist(), again[1].tolist()] == [val, test]


def test_a_device_holds_its_own_part_only():
    asked = spec(channels=1, train_size_per_device=100, val_size=50, test_size=200)
    source = open_source(asked, Path(), False)
    first, second = (load_train_part(source, asked, device, 2) for device in (1, 2))
    assert first.images.shape == (100, 1, 32, 32)
    assert first.images.untyped_storage().nbytes() == first.images.nbytes  # no view of the whole data set
    assert not torch.equal(first.images, second.images)
    val, test = load_held_out(source, asked)
    assert (len(val.labels), len(test.labels)) == (50, 200)


PLAIN = Transform(mean=(0.0,), std=(1.0,))


def batches(count=10, batch_size=4, transform=PLAIN, device=1) -> Batches:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 4, 4)
    return Batches(Images(images, torch.arange(count)), batch_size, transform, seed=0, device=device)


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own():
    data = batches()
    assert len(data) == 3
    orders = []
    for epoch in (1, 2):
        labels = [data.get(epoch, i)[1] for i in range(3)]
        assert [len(part) for part in labels] == [4, 4, 2]
        orders.append(torch.cat(labels).tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]
    images, labels = data.get(1, 0)
    assert torch.allclose(images[:, 0, 0, 0] * 255, labels.float())
    assert torch.equal(data.get(1, 0)[0], images)  # asked again, the same
    assert not torch.equal(batches(device=2).get(1, 0)[1], labels)


def test_normalise_takes_the_default_type():
    transform = Transform(mean=(0.5, 0.0), std=(0.25, 2.0))
    images = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    assert transform.normalise(images).flatten().tolist() == [2.0, 0.5]


def test_crops_move_and_flips_mirror_each_image_on_its_own():
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).repeat(300, 1, 1, 1)
    flipped = Transform((0.0,), (1.0,), random_flip=True).augment(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert ((flipped == images).all(dim=(1, 2, 3)) | mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = {tuple(padded[0, y : y + 4, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    cropped = Transform((0.0,), (1.0,), random_crop=1).augment(images, torch.Generator().manual_seed(0))
    assert {tuple(image.flatten().tolist()) for image in cropped} == windows
