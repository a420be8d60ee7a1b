"""A folder of images for each device, as partition=own has them."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipar_rpc.data import (
    DataSpec,
    Partition,
)

COUNTS = {1: {"cat": 4, "dog": 2}, 2: {"dog": 3}}  # device 2 has no cats
EPOCHS, SIZE = 2, 8
NUMBERS = np.random.default_rng(0)


def write_images(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = NUMBERS.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_all(root: Path) -> None:
    """A folder for each device, and wherever nobody may look, a file that whoever reads it fails on."""
    for device, counts in COUNTS.items():
        write_images(root / str(device) / "train", counts)
        write_images(root / str(device) / "test", {"cat": 1})
        (root / str(device) / "test" / "cat" / "0.png").write_text("the server's are tested with")
    write_images(root / "server" / "test", {"cat": 2, "dog": 2})
    for nobody in (root / "server" / "train" / "cat", root / "train" / "cat", root / "9" / "train" / "cat"):
        nobody.mkdir(parents=True)
        (nobody / "0.png").write_text("nobody's")
    (root / "3").symlink_to("1")


def spec(limits: tuple[int | None, ...] = (), seed: int = 0) -> DataSpec:
    kind = Partition("own", limits=limits)
    return DataSpec("imagefolder", 3, SIZE, None, seed, partition=kind, classes=("cat", "dog"))
