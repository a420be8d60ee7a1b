"""Small data sets in the real formats."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUMBERS = np.random.default_rng(0)


def write_mnist(root: Path) -> NDArray[np.uint8]:
    """Six images of the digits 0..5 in both splits; returns them as [n, 28, 28]."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = NUMBERS.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        images = struct.pack(">4i", 2051, 6, 28, 28) + digits.tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 6) + bytes(range(6)))
        with gzip.open(raw / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(images)
    return digits


def write_folder(root: Path, per_class: int = 3) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(["cat", "dog"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                colour = (200 * label, 10 * i, 0)
                Image.new("RGB", (10 + i, 8), colour).save(folder / f"{i}.png")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
