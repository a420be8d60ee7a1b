"""Gradients of single samples, from what a backward pass computes anyway.

The gradient of a layer's parameters for one sample follows from the layer's input for it and the gradient of
its output. Both are caught by hooks, each pass of a layer with its own: a device runs N forward passes before
its backward passes, and Opacus' own module, which takes the last input first, would mix them up.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.privacy.samplers import Found, Pass, Sampler, Whole, moments_of, sampler_of, versions_of


class SampleGradients:
    """Collects the gradients of single samples for the trainable parameters of a half.

    Args:
        layers: the half.
    """

    def __init__(self, layers: nn.Module) -> None:
        self._layers = [(layer, sampler_of(layer)) for layer in _trained(layers)]
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
        call = Pass(layer, args, kwargs, versions_of(args), moments_of(first.grad_fn))
        if not first.requires_grad:  # nothing before is trained
            first = _Differentiable.apply(first, torch.empty(0, requires_grad=True))
        if first._is_view():  # the next layer may work in place, which would undo the hook
            first = first.clone()
        first.register_hook(partial(self._collect, sampler, call))
        return (first, *output[1:]) if isinstance(output, tuple) else first

    def _collect(self, sampler: Sampler, call: Pass, gradient: Tensor) -> None:
        if not len(gradient):
            return
        call.check_unchanged()
        with torch.no_grad():
            for parameter, own in sampler(call, gradient.detach()).items():
                other = self._found.get(parameter)  # of a layer that is used twice, or a tied parameter
                self._found[parameter] = Whole(other.whole() + own.whole()) if other else own


class _Differentiable(torch.autograd.Function):
    """The same tensor as one that a gradient reaches; a copy would take as long as a small layer."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor) -> Tensor:
        """Returns `values`; `anchor` requires a gradient."""
        ctx.mark_dirty(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient goes no further."""
        return None, None


def _trained(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that have trainable parameters of their own, with all that is in them."""
    if any(own.requires_grad for own in module.parameters(recurse=False)):
        yield module
        return
    for child in dict.fromkeys(module.children()):
        yield from _trained(child)
