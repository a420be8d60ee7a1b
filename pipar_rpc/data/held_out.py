"""Which samples are for validation and which for testing."""

from dataclasses import replace

import torch
from torch import Tensor

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data.spec import DataSpec


def split_held_out(num_held_out: int, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Indices of the validation and of the test samples within the test split; they never overlap.

    With `spec.val_from` "train", no validation samples are there; see `validation_in_training`.

    Raises:
        ConfigError: the test split has too few samples for `spec.val_size` and `spec.test_size`.
    """
    if spec.val_from == "train":
        spec = replace(spec, val_size=0, val_from="test")
    rest = num_held_out - spec.val_size
    if rest < 1:
        raise ConfigError(
            "data.val_size", spec.val_size, f"0..{num_held_out - 1} (one test sample must remain)"
        )
    if spec.test_size is not None and spec.test_size > rest:
        available = f"{spec.name} holds out {num_held_out} samples, data.val_size takes {spec.val_size}"
        raise ConfigError("data.test_size", spec.test_size, f"1..{rest} ({available})")
    order = torch.randperm(num_held_out, generator=generator(spec.seed, "held-out"))
    test_end = None if spec.test_size is None else spec.val_size + spec.test_size
    return order[: spec.val_size], order[spec.val_size : test_end]


def validation_in_training(num_train: int, spec: DataSpec) -> Tensor:
    """Indices of the validation samples within the training split, which no device gets.

    There are none unless `spec.val_from` is "train".

    Raises:
        ConfigError: the training split has too few samples.
    """
    if spec.val_from != "train":
        return torch.empty(0, dtype=torch.int64)
    if spec.val_size >= num_train:
        one = f"0..{num_train - 1} ({spec.name} has {num_train} training samples)"
        raise ConfigError("data.val_size", spec.val_size, one)
    return torch.randperm(num_train, generator=generator(spec.seed, "held-out-of-train"))[: spec.val_size]
