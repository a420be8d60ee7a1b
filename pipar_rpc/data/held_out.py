"""Which samples are for validation and which for testing."""

import torch
from torch import Tensor

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data.spec import DataSpec


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
