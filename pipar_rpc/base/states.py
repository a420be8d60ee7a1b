"""State dicts: the parameters and buffers of a network by name."""

from collections.abc import Mapping

from torch import Tensor

State = dict[str, Tensor]


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no number of a state dict is infinite or NaN."""
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


def num_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors of a state dict: what it costs to send it."""
    return sum(tensor.nbytes for tensor in state.values())
