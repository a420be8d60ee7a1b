"""Folders of images, and archives of them."""

import zipfile
from pathlib import Path

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data import (
    Batches,
    DataSpec,
    MissingDataError,
    Transform,
    load_held_out,
    load_train_part,
    open_source,
)
from pipar_rpc.data.imagefolder import ImageFolder
from tests.support.data_files import write_folder

RNG = generator(0, "test")


def spec(name="digits", **changes) -> DataSpec:
    values = {"name": name, "channels": 3, "image_size": 32, "num_classes": 10, "seed": 0}
    return DataSpec(**(values | changes))


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


def test_images_that_would_take_too_much_stay_in_their_files(tmp_path, monkeypatch):
    write_folder(tmp_path, per_class=4)
    transform = Transform((0.5,) * 3, (0.25,) * 3, random_crop=1, random_flip=True)
    batches, held_out, decoded = [], [], []
    decode = ImageFolder._decode
    monkeypatch.setattr(ImageFolder, "_decode", lambda self, name: decoded.append(name) or decode(self, name))
    needed_mb = 4 * 3 * 16 * 16 / 1e6  # of each of two devices
    for most in (needed_mb, needed_mb - 1e-6):
        asked = spec("imagefolder", image_size=16, num_classes=None, val_size=2, max_decoded_mb=most)
        source = open_source(asked, tmp_path, download=False)
        part = load_train_part(source, asked, 1, 2)
        assert len(decoded) == (4 if most == needed_mb else 0)
        own = Batches(part, 3, transform, seed=0, device=1)
        assert own.class_counts() == torch.bincount(torch.cat([own.get(1, i)[1] for i in range(2)])).tolist()
        batches.append([own.get(epoch, 1) for epoch in (1, 2)])
        held_out.append(
            [samples.read(torch.arange(len(samples)), RNG) for samples in load_held_out(source, asked)]
        )
        decoded.clear()
    for first, second in zip(batches[0] + held_out[0], batches[1] + held_out[1], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert asked.memory_bytes(4) == 0
