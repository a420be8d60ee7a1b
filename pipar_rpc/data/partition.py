"""Who gets which sample: training data over the devices, held-out data over validation and test."""

import torch
from torch import Tensor

from pipar_rpc.data.spec import DataSpec
from pipar_rpc.errors import ConfigError
from pipar_rpc.seeds import generator


def partition(num_train: int, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Indices of each device's training samples: drawn at random, disjoint, the same on every machine.

    Each device gets `spec.train_size_per_device` samples, or with None an equal share of all of them (shares
    differ by at most one sample).

    Raises:
        ConfigError: the training split has too few samples for that.
    """
    limit, size = num_train // num_devices, spec.train_size_per_device
    if limit < 1:
        raise ConfigError("num_devices", num_devices, f"1..{num_train} (one training sample for each device)")
    if size is not None and size > limit:
        available = f"{spec.name} has {num_train} training samples for {num_devices} devices"
        raise ConfigError("data.train_size_per_device", size, f"1..{limit} ({available})")
    order = torch.randperm(num_train, generator=generator(spec.seed, "partition"))
    if size is None:
        return list(torch.tensor_split(order, num_devices))
    return list(torch.split(order[: size * num_devices], size))


def split_held_out(num_held_out: int, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Indices of the validation and of the test samples within the test split; they never overlap.

    Raises:
        ConfigError: the test split has too few samples for `spec.val_size` and `spec.test_size`.
    """
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
