"""State dicts: the parameters and buffers of a network by name."""

from collections.abc import Mapping

from torch import Tensor

from pipar_rpc.base.cores import on_cores

State = dict[str, Tensor]


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no number of a state dict is infinite or NaN."""
    return all(on_cores(_all_finite, state.values(), num_numbers(state)))


def copied(state: Mapping[str, Tensor]) -> State:
    """Copies the tensors of a state dict, so that what becomes of it later does not matter."""
    return dict(zip(state, on_cores(Tensor.clone, state.values(), num_numbers(state)), strict=True))


def num_numbers(state: Mapping[str, Tensor]) -> int:
    """Numbers in the tensors of a state dict."""
    return sum(tensor.numel() for tensor in state.values())


def num_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors of a state dict: what it costs to send it."""
    return sum(tensor.nbytes for tensor in state.values())


def _all_finite(tensor: Tensor) -> bool:
    """A finite sum, which takes less time, has finite terms; one that is not may be an overflow."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
