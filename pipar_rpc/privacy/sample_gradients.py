"""Gradients of single samples, from what a backward pass computes anyway.

The gradient of a layer's parameters for one sample follows from the layer's input for it and the gradient of
its output. Both are caught by hooks, each pass of a layer with its own: a device runs N forward passes before
its backward passes, and Opacus' own module, which takes the last input first, would mix them up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipar_rpc.base.errors import UserError, first_line

KEY = "privacy.dpsgd"
Found = dict[Tensor, "Contribution"]
Sampler = Callable[["_Pass", Tensor], Found]


class Contribution(Protocol):
    """The gradients of a parameter for each of b samples."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each, shape [b]."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Their sum, each times its weight of shape [b]; has the shape of the parameter."""

    def whole(self) -> Tensor:
        """All of them, shape [b, ...]."""


@dataclass(frozen=True)
class _Whole:
    """Gradients as they are, shape [b, ...]."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.values.flatten(1), dim=1)
        return norms.square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        total: Tensor = weights @ self.values.flatten(1)
        return total.view(self.values.shape[1:])

    def whole(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class _Outer:
    """Gradients of a linear layer: outer products, which need not be computed (Goodfellow, 2015).

    Attributes:
        inputs: inputs of the layer, shape [b, in].
        gradients: gradients of its outputs, shape [b, out].
    """

    inputs: Tensor
    gradients: Tensor

    def squared_norms(self) -> Tensor:
        return self.inputs.square().sum(1) * self.gradients.square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return (self.gradients * weights[:, None]).T @ self.inputs

    def whole(self) -> Tensor:
        return self.gradients[:, :, None] * self.inputs[:, None, :]


@dataclass(frozen=True)
class _Pass:
    """One call of a layer.

    Attributes:
        layer: the layer.
        args, kwargs: what it was called with.
        versions: versions of the tensors among `args`, by which it is noticed if they are overwritten.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    versions: tuple[int, ...]

    def check_unchanged(self) -> None:
        """Raises UserError if a later layer has worked in place on what this one was given."""
        if versions_of(self.args) != self.versions:
            what = f"the input of {type(self.layer).__name__} is overwritten by a layer that works in place"
            raise UserError(f"{KEY}: {what}")


def versions_of(args: Sequence[Any]) -> tuple[int, ...]:
    """How often each tensor has been changed in place."""
    return tuple(value._version for value in args if isinstance(value, Tensor))


class SampleGradients:
    """Collects the gradients of single samples for the trainable parameters of a half.

    Args:
        layers: the half.
    """

    def __init__(self, layers: nn.Module) -> None:
        self._layers = [(layer, _sampler_of(layer)) for layer in _trained(layers)]
        self._parameters = [own for own in layers.parameters() if own.requires_grad]
        self._found: Found = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Has the forward pass in the block prepare for them; its backward pass finds no other gradients.

        Only passes in such a block are looked at, so that several devices can share the layers.
        """
        hooks = [
            layer.register_forward_hook(partial(self._catch, sampler), with_kwargs=True)
            for layer, sampler in self._layers
        ]
        for parameter in self._parameters:  # autograd need not compute their sums, which are not wanted
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._parameters:
                parameter.requires_grad_(True)
            for hook in hooks:
                hook.remove()

    def take(self) -> Found:
        """Returns what the backward passes since the last call have found, by parameter; may be empty."""
        found, self._found = self._found, {}
        return found

    def _catch(
        self,
        sampler: Sampler,
        layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> Any:
        """Notes a call of a layer, and waits for the gradient of its (first) output."""
        first = output[0] if isinstance(output, tuple) else output
        if not first.requires_grad:  # nothing before is trained
            first = first.detach().requires_grad_()
        if first.is_leaf or first._is_view():  # the next layer may work in place, which would undo the hook
            first = first.clone()
        first.register_hook(partial(self._collect, sampler, _Pass(layer, args, kwargs, versions_of(args))))
        return (first, *output[1:]) if isinstance(output, tuple) else first

    def _collect(self, sampler: Sampler, call: _Pass, gradient: Tensor) -> None:
        if not len(gradient):
            return
        call.check_unchanged()
        with torch.no_grad():
            for parameter, own in sampler(call, gradient.detach()).items():
                other = self._found.get(parameter)  # of a layer that is used twice, or a tied parameter
                self._found[parameter] = _Whole(other.whole() + own.whole()) if other else own


def _trained(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that have trainable parameters of their own, with all that is in them."""
    if any(own.requires_grad for own in module.parameters(recurse=False)):
        yield module
        return
    for child in dict.fromkeys(module.children()):
        yield from _trained(child)


def _sampler_of(layer: nn.Module) -> Sampler:
    """The way to a layer's gradients."""
    from opacus.grad_sample import GradSampleModule  # the import fills the table

    known = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if known is None or _is_special(layer):
        return _by_vmap
    return _linear if type(layer) is nn.Linear else partial(_by_opacus, known)


def _is_special(layer: nn.Module) -> bool:
    """Whether a layer has an option that Opacus' function for its type does not know."""
    padding = getattr(layer, "padding_mode", "zeros") != "zeros" or getattr(layer, "padding_idx", None)
    return padding not in {False, None} or (isinstance(layer, nn.LayerNorm) and layer.bias is None)


def _by_opacus(known: Callable[..., Mapping[Tensor, Tensor]], call: _Pass, gradient: Tensor) -> Found:
    found = known(call.layer, list(call.args), gradient)
    return {parameter: _Whole(values) for parameter, values in found.items() if parameter.requires_grad}


def _linear(call: _Pass, gradient: Tensor) -> Found:
    """As Opacus, but for inputs [b, in] without computing the gradients."""
    from opacus.grad_sample.linear import compute_linear_grad_sample

    layer, inputs = call.layer, call.args[0]
    if gradient.dim() != 2 or not isinstance(layer, nn.Linear):
        return _by_opacus(compute_linear_grad_sample, call, gradient)
    found: Found = {}
    if layer.weight.requires_grad:
        found[layer.weight] = _Outer(inputs.detach(), gradient)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = _Whole(gradient)
    return found


def _by_vmap(call: _Pass, gradient: Tensor) -> Found:
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
    return {own: _Whole(found[name]) for name, own in names.items()}
