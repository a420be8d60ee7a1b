"""CIFAR-10, CIFAR-100, MNIST and SVHN through torchvision, downloaded where that is possible."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipar_rpc.base.errors import UserError
from pipar_rpc.data.spec import DataSpec, MissingDataError, Split, resize

DOWNLOAD_TIMEOUT_S = 600.0  # longest wait for another process that downloads the same files
SOCKET_TIMEOUT_S = 30.0  # longest silence of a download


class TorchVision:
    """CIFAR-10, CIFAR-100, MNIST and SVHN in torchvision's file formats.

    These formats hold a split in one or a few files, so a split is read whole and then cut to the indices
    asked for.
    """

    FILES: ClassVar = {  # what torchvision looks for below the data root
        "cifar10": ("CIFAR10", "cifar-10-batches-py/ (unpacked cifar-10-python.tar.gz)"),
        "cifar100": ("CIFAR100", "cifar-100-python/ (unpacked cifar-100-python.tar.gz)"),
        "mnist": ("MNIST", "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        "svhn": ("SVHN", "train_32x32.mat and test_32x32.mat"),
    }

    def __init__(self, spec: DataSpec, root: Path, download: bool) -> None:
        self._spec, self._root, self._download = spec, root, download
        self._splits: dict[Split, Any] = {}
        self.classes = tuple(str(label) for label in range(spec.num_classes or 10))

    def labels(self, split: Split) -> Tensor:
        """See `Source.labels`."""
        data_set = self._open(split)
        labels = data_set.labels if self._spec.name == "svhn" else data_set.targets
        return torch.as_tensor(labels).long()

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """See `Source.images`."""
        images = torch.as_tensor(self._open(split).data)[indices]
        match self._spec.name:
            case "mnist":
                images = images.unsqueeze(1)  # [n, H, W]
            case "cifar10" | "cifar100":
                images = images.permute(0, 3, 1, 2)  # [n, H, W, C]
        return resize(images.contiguous(), self._spec.image_size)

    def _open(self, split: Split) -> Any:
        if split not in self._splits:
            self._splits[split] = self._load(split)
        return self._splits[split]

    def _load(self, split: Split) -> Any:
        import torchvision

        name, files = self.FILES[self._spec.name]
        data_set = getattr(torchvision.datasets, name)
        which: dict[str, Any] = {"split": split} if name == "SVHN" else {"train": split == "train"}
        try:
            return data_set(self._root, **which, download=False)
        except (RuntimeError, FileNotFoundError) as missing:
            if not self._download:
                raise self._missing(files, "node.download=false") from missing
        with _single_download(self._root):
            try:
                return data_set(self._root, **which, download=True)
            except (OSError, RuntimeError) as error:
                raise self._missing(files, f"the download failed: {error}") from error

    def _missing(self, files: str, why: str) -> MissingDataError:
        return MissingDataError(
            f"data={self._spec.name}: put {files} into node.data_root={self._root.resolve()} ({why})"
        )


@contextmanager
def _single_download(root: Path) -> Iterator[None]:
    """Lets one process of this machine download at a time, and gives up when the line goes silent."""
    from filelock import FileLock, Timeout

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_S)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock", timeout=DOWNLOAD_TIMEOUT_S):
            yield
    except Timeout as error:
        raise UserError(
            f"waited {DOWNLOAD_TIMEOUT_S:.0f} s for another process to finish its download into {root}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
