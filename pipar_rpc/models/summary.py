"""What a user looks at to decide where to cut: each unit's output, size and work."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.models.spec import ModelSpec, named_units


@dataclass(frozen=True)
class UnitSummary:
    """One cut unit.

    Attributes:
        name: name of the unit in the sequence.
        output_shape: shape of its output for one sample.
        num_parameters: numbers in its parameters, trained or frozen.
        activation_bytes: bytes of the output for one sample, as it crosses.
        flops: work of the forward pass for one sample, as torch counts it: convolutions and matrix products,
            a multiplication and an addition being two.
        num_trained: numbers in those of its parameters that require a gradient.
    """

    name: str
    output_shape: tuple[int, ...]
    num_parameters: int
    activation_bytes: int
    flops: int
    num_trained: int

    @property
    def trained(self) -> bool:
        """Whether it has anything to train."""
        return self.num_trained > 0


def summarise(network: nn.Sequential, spec: ModelSpec) -> list[UnitSummary]:
    """Describes the units in order; `network` is on the meta device, so nothing is computed.

    Raises:
        UserError: a unit does not take the output of the one before it, returns no floats, or the last one
            has not an output for each class, where images have classes.
    """
    # here, because it brings triton, and devices rarely ask
    from torch.utils.flop_counter import FlopCounterMode

    network = network.eval()
    units, x = [], spec.make_input(1, "meta")
    for name, unit in named_units(network):
        with FlopCounterMode(display=False) as counter:
            x = _apply(unit, x, name, spec)
        parameters = sum(parameter.numel() for parameter in unit.parameters())
        trained = sum(parameter.numel() for parameter in unit.parameters() if parameter.requires_grad)
        flops = counter.get_total_flops()
        units.append(UnitSummary(name, tuple(x.shape[1:]), parameters, x.nbytes, flops, trained))
    if spec.input is None and tuple(x.shape) != (1, spec.num_classes):
        found = tuple(x.shape[1:])
        expected = f"expected ({spec.num_classes},)"
        raise UserError(f"model={_called(spec)}: outputs {found} for each image, {expected}")
    return units


def output_shape(network: nn.Sequential, spec: ModelSpec) -> tuple[int, ...]:
    """Shape of what the first units make of one sample; `network`, which is these, is on the meta device."""
    return tuple(_run(network.eval(), spec.make_input(1, "meta")).shape[1:])


def smallest_batch(network: nn.Sequential, spec: ModelSpec) -> int:
    """Samples that a micro-batch needs at least: 2 where batch norm would see a single number, otherwise 1.

    Args:
        network: network on the meta device.
        spec: network that is described.

    Raises:
        UserError: the network cannot be trained on these samples at all.
    """
    network = network.train()
    try:
        _run(network, spec.make_input(1, "meta"))
    except ValueError:  # "Expected more than 1 value per channel when training"
        x = spec.make_input(2, "meta")
        for name, unit in named_units(network):
            x = _apply(unit, x, name, spec)
        return 2
    return 1


def held_bytes(network: nn.Sequential, spec: ModelSpec) -> list[int]:
    """Bytes that each unit keeps for the backward pass of one sample; nothing is computed.

    Args:
        network: network on the meta device.
        spec: network that is described.
    """
    count, found = 4, list[int]()
    network, x = network.train(), spec.make_input(count, "meta")
    for unit in network:
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor, kept: dict[int, torch.UntypedStorage] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = unit(x.clone() if found else x)
        own = {parameter.untyped_storage()._cdata for parameter in unit.parameters()}
        found.append(sum(storage.nbytes() for key, storage in kept.items() if key not in own) // count)
        x = y.detach().requires_grad_(y.requires_grad)
    return found


def table(units: list[UnitSummary]) -> str:
    """The units as text, with a line of sums; what is trained has a column if something is not."""
    names = ["unit", "name", "output", "parameters", "bytes/sample", "MFLOPs/sample", "trained"]
    rows = [names, *([str(index), *_cells(unit)] for index, unit in enumerate(units, start=1))]
    parameters, trained = sum(u.num_parameters for u in units), sum(u.num_trained for u in units)
    flops = sum(u.flops for u in units)
    rows.append(["", "total", "", f"{parameters:,}", "", f"{flops / 1e6:,.2f}", f"{trained:,}"])
    if trained == parameters:
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{'<' if index == 1 else '>'}{width}}}" for index, width in enumerate(widths))
    lines = [form.format(*row).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cells(unit: UnitSummary) -> list[str]:
    shape, counts = "x".join(map(str, unit.output_shape)), (unit.num_parameters, unit.activation_bytes)
    return [
        unit.name,
        shape,
        *(f"{n:,}" for n in counts),
        f"{unit.flops / 1e6:,.2f}",
        f"{unit.num_trained:,}",
    ]


@torch.no_grad()
def _run(unit: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = unit(x)
    return y


def _apply(unit: nn.Module, x: Tensor, name: str, spec: ModelSpec) -> Tensor:
    try:
        y = _run(unit, x)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        shape = tuple(x.shape[1:])
        where = f"model={_called(spec)}: unit {name} cannot take {shape} for each {_sample(spec)}"
        raise UserError(f"{where}: {first_line(error)}") from error
    if not isinstance(y, Tensor):
        raise UserError(f"model={_called(spec)}: unit {name} returns {type(y).__name__}, expected one tensor")
    if not y.is_floating_point():
        kind = str(y.dtype).removeprefix("torch.")
        only = "expected floats: only float activations cross"
        raise UserError(f"model={_called(spec)}: unit {name} returns {kind}, {only}")
    return y


def _sample(spec: ModelSpec) -> str:
    return "image" if spec.input is None else "sample"


def _called(spec: ModelSpec) -> str:
    return spec.target or spec.name
