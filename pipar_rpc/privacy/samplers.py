"""How gradients of single samples follow from a layer's input and the gradients of its output.

For most layers by Opacus' own functions; the exceptions need less memory and time, or know more options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipar_rpc.base.errors import UserError, first_line

KEY = "privacy.dpsgd"
Found = dict[Tensor, "Contribution"]
Moments = tuple[Tensor, Tensor]  # mean and inverse deviation of each sample's groups, shape [b, groups]
Sampler = Callable[["Pass", Tensor], Found]


class Contribution(Protocol):
    """The gradients of a parameter for each of b samples."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each, shape [b]."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Their sum, each times its weight of shape [b]; has the shape of the parameter."""

    def whole(self) -> Tensor:
        """All of them, shape [b, ...]."""


@dataclass(frozen=True)
class Whole:
    """Gradients as they are, shape [b, ...]."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        """See `Contribution.squared_norms`."""
        norms: Tensor = torch.linalg.vector_norm(self.values.flatten(1), dim=1)
        return norms.square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        total: Tensor = weights @ self.values.flatten(1)
        return total.view(self.values.shape[1:])

    def whole(self) -> Tensor:
        """See `Contribution.whole`."""
        return self.values


@dataclass(frozen=True)
class Outer:
    """Gradients of a linear layer: outer products, which need not be computed (Goodfellow, 2015).

    Attributes:
        inputs: inputs of the layer, shape [b, in].
        gradients: gradients of its outputs, shape [b, out].
    """

    inputs: Tensor
    gradients: Tensor

    def squared_norms(self) -> Tensor:
        """See `Contribution.squared_norms`."""
        return self.inputs.square().sum(1) * self.gradients.square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        return (self.gradients * weights[:, None]).T @ self.inputs

    def whole(self) -> Tensor:
        """See `Contribution.whole`."""
        return self.gradients[:, :, None] * self.inputs[:, None, :]


@dataclass(frozen=True)
class Pass:
    """One call of a layer.

    Attributes:
        layer: the layer.
        args, kwargs: what it was called with.
        versions: versions of the tensors among `args`, by which it is noticed if they are overwritten.
        moments: what autograd has kept of a group normalisation; None for other layers.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    versions: tuple[int, ...]
    moments: Moments | None = None

    def check_unchanged(self) -> None:
        """Raises UserError if a later layer has worked in place on what this one was given."""
        if versions_of(self.args) != self.versions:
            what = f"the input of {type(self.layer).__name__} is overwritten by a layer that works in place"
            raise UserError(f"{KEY}: {what}")


def versions_of(args: Sequence[Any]) -> tuple[int, ...]:
    """How often each tensor has been changed in place."""
    return tuple(value._version for value in args if isinstance(value, Tensor))


def sampler_of(layer: nn.Module) -> Sampler:
    """The way to a layer's gradients."""
    from opacus.grad_sample import GradSampleModule  # the import fills the table

    known = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if known is None or _is_special(layer):
        return _by_vmap
    return OWN.get(type(layer)) or partial(_by_opacus, known)


def _is_special(layer: nn.Module) -> bool:
    """Whether a layer has an option that Opacus' function for its type does not know."""
    padding = getattr(layer, "padding_mode", "zeros") != "zeros" or getattr(layer, "padding_idx", None)
    return padding not in {False, None} or (isinstance(layer, nn.LayerNorm) and layer.bias is None)


def _by_opacus(known: Callable[..., Mapping[Tensor, Tensor]], call: Pass, gradient: Tensor) -> Found:
    found = known(call.layer, list(call.args), gradient)
    return {parameter: Whole(values) for parameter, values in found.items() if parameter.requires_grad}


def _linear(call: Pass, gradient: Tensor) -> Found:
    """As Opacus, but for inputs [b, in] without computing the gradients."""
    from opacus.grad_sample.linear import compute_linear_grad_sample

    layer, inputs = call.layer, call.args[0]
    if gradient.dim() != 2 or not isinstance(layer, nn.Linear):
        return _by_opacus(compute_linear_grad_sample, call, gradient)
    found: Found = {}
    if layer.weight.requires_grad:
        found[layer.weight] = Outer(inputs.detach(), gradient)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = Whole(gradient)
    return found


def _conv2d(call: Pass, gradient: Tensor) -> Found:
    """As Opacus, but group by group: it multiplies all groups with each other and keeps the diagonal."""
    from opacus.utils.tensor_utils import unfold2d

    layer, x, found = call.layer, call.args[0].detach(), Found()
    assert isinstance(layer, nn.Conv2d)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = Whole(gradient.flatten(2).sum(2))
    if layer.weight.requires_grad:
        where = {"padding": layer.padding, "stride": layer.stride, "dilation": layer.dilation}
        patches = unfold2d(x, kernel_size=layer.kernel_size, **where)
        parts, pixels = len(x) * layer.groups, patches.shape[-1]
        slopes, patches = (own.reshape(parts, -1, pixels) for own in (gradient, patches))
        found[layer.weight] = Whole(torch.bmm(slopes, patches.transpose(1, 2)).view(-1, *layer.weight.shape))
    return found


def _group_norm(call: Pass, gradient: Tensor) -> Found:
    """As Opacus, from sums over a channel's pixels instead of the normalised input.

    Allocating memory for another tensor of that size takes longer than the sums.
    """
    layer, x = call.layer, call.args[0].detach()
    assert isinstance(layer, nn.GroupNorm)
    count, channels = x.shape[:2]
    flat, slopes = x.reshape(count, channels, -1), gradient.reshape(count, channels, -1)
    sums, found = slopes.sum(2), Found()
    if layer.bias.requires_grad:
        found[layer.bias] = Whole(sums)
    if layer.weight.requires_grad:
        of_groups = _moments(layer, call, x, flat.shape[2])
        mean, scale = (own.repeat_interleave(channels // layer.num_groups, 1) for own in of_groups)
        pairs = (own.reshape(count * channels, -1) for own in (flat, slopes))
        products = torch.bmm(*(own.unsqueeze(axis) for axis, own in enumerate(pairs, start=1)))
        found[layer.weight] = Whole((products.view(count, channels) - mean * sums) * scale)
    return found


def moments_of(node: Any) -> Moments | None:
    """The moments that a group normalisation's node of autograd keeps, if anything before trains.

    Without the node: a hook of the node's own output that held it would never be freed.
    """
    if type(node).__name__ != "NativeGroupNormBackward0":
        return None
    return node._saved_result1.detach(), node._saved_result2.detach()


def _moments(layer: nn.GroupNorm, call: Pass, x: Tensor, pixels: int) -> Moments:
    if call.moments is not None:
        return call.moments
    sizes = (x.shape[0], x.shape[1], pixels, layer.num_groups, layer.eps)
    _, mean, scale = torch.native_group_norm(x.contiguous(), None, None, *sizes)
    return mean, scale


OWN: Mapping[type, Sampler] = {nn.Linear: _linear, nn.Conv2d: _conv2d, nn.GroupNorm: _group_norm}


def _by_vmap(call: Pass, gradient: Tensor) -> Found:
    """For layers that Opacus has no function for: runs the layer again, for each sample by itself."""
    layer = call.layer
    names = {name: own for name, own in layer.named_parameters() if own.requires_grad}
    batched = [isinstance(value, Tensor) for value in call.args]

    def along(values: dict[str, Tensor], gradient: Tensor, *args: Any) -> Tensor:
        single = [value[None] if of_sample else value for value, of_sample in zip(args, batched, strict=True)]
        output = torch.func.functional_call(layer, values, tuple(single), dict(call.kwargs))
        first = output[0] if isinstance(output, tuple) else output
        total: Tensor = (first * gradient[None]).sum()
        return total

    dims = (None, 0, *(0 if of_sample else None for of_sample in batched))
    values = {name: own.detach() for name, own in names.items()}
    args = [value.detach() if isinstance(value, Tensor) else value for value in call.args]
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention run sample by sample
            found = torch.func.vmap(torch.func.grad(along), dims)(values, gradient, *args)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        kind = f"a layer of type {type(layer).__name__} for one sample"
        raise UserError(f"{KEY}: has no gradient of {kind}: {first_line(error)}") from error
    return {own: Whole(found[name]) for name, own in names.items()}
