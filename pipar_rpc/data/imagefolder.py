"""A folder of images, or a .zip of one: train/<class>/<file> and test/<class>/<file>."""

import io
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from pipar_rpc.base.errors import UserError
from pipar_rpc.data.spec import DataSpec, MissingDataError, Split

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp"})
LAYOUT = "train/<class>/<image> and test/<class>/<image>, in a folder or in a .zip"


class ImageFolder:
    """Images of any size in class folders, decoded for the indices asked for and kept as uint8.

    Folders above train/ and test/ do not matter, so an archive may wrap them. Classes are numbered in
    alphabetical order, or as `spec.classes` says, so that every machine numbers them alike.
    """

    def __init__(self, spec: DataSpec, root: Path, download: bool) -> None:
        self._spec, self._root = spec, root
        if not root.exists():
            raise MissingDataError(f"data=imagefolder: node.data_root={root} does not exist ({LAYOUT})")
        self._archive = None
        if root.is_file():
            if not zipfile.is_zipfile(root):
                raise MissingDataError(f"data=imagefolder: node.data_root={root} is not a .zip ({LAYOUT})")
            self._archive = zipfile.ZipFile(root)
        self._files = self._find()
        found = sorted({name.parent.name for names in self._files.values() for name in names})
        self.classes = spec.classes or tuple(found)
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise UserError(
                f"data=imagefolder: node.data_root={root} has the class folder {unknown[0]}, "
                f"which the server does not have (it has {', '.join(self.classes)})"
            )

    def labels(self, split: Split) -> Tensor:
        """See `Source.labels`."""
        number = {name: label for label, name in enumerate(self.classes)}
        return torch.tensor([number[file.parent.name] for file in self._split(split)], dtype=torch.int64)

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """See `Source.images`."""
        files = self._split(split)
        size = self._spec.image_size
        images = torch.empty(len(indices), self._spec.channels, size, size, dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(self._decode(files[index]))
        return images

    def _split(self, split: Split) -> list[PurePosixPath]:
        if not self._files[split]:
            raise MissingDataError(
                f"data=imagefolder: no images in {split}/ of node.data_root={self._root} ({LAYOUT})"
            )
        return self._files[split]

    def _find(self) -> dict[str, list[PurePosixPath]]:
        if self._archive:
            names = [PurePosixPath(name) for name in self._archive.namelist()]
        else:
            paths = (path.relative_to(self._root) for path in self._root.rglob("*") if path.is_file())
            names = [PurePosixPath(path.as_posix()) for path in paths]
        files: dict[str, list[PurePosixPath]] = defaultdict(list)
        for name in sorted(names):
            if len(name.parts) >= 3 and name.suffix.lower() in EXTENSIONS and "__MACOSX" not in name.parts:
                files[name.parts[-3]].append(name)
        return defaultdict(list, {split: files[split] for split in ("train", "test")})

    def _decode(self, name: PurePosixPath) -> Tensor:
        from PIL import Image

        try:
            data = self._archive.read(str(name)) if self._archive else (self._root / name).read_bytes()
            with Image.open(io.BytesIO(data)) as file:
                image = file.convert("L" if self._spec.channels == 1 else "RGB")
        except Exception as error:  # archives and decoders fail in many ways
            why = f"{name} is not a readable image ({type(error).__name__})"
            raise UserError(f"data=imagefolder: {self._root}: {why}") from error
        size = self._spec.image_size
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        array = np.array(image).reshape(size, size, self._spec.channels)
        return torch.from_numpy(array).permute(2, 0, 1)
