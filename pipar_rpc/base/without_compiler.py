"""Optimisers and backward passes without torch's compiler, which they load although nothing is compiled.

To be made, and at each step, torch's optimisers import TorchDynamo only to tell it that it has nothing to do
with them, and `tensor.backward(gradient)` imports sympy to compare two shapes: in each process, and partly in
the middle of the first iteration. docs/measurements.md, "Memory and threads", has what that takes.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COMPILER = "torch._dynamo"
MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")  # as not to be compiled
# The attribute in which torch keeps what a marked function does with the compiler loaded.
MARK = "__dynamo_disable"

Step = Callable[..., Any]


@functools.cache
def keep_compiler_out() -> None:
    """Has the optimisers of this process do without the compiler; to be called before one is made.

    They compute the same. Where the compiler was loaded for something else, like a network that the user has
    compiled, they step as torch does; where torch has come to do it in another way, they stay as they are.
    """
    for name in MARKED:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if method is not None:
            vars(method).setdefault(MARK, method)
    for kind in vars(torch.optim).values():
        step = vars(kind).get("step") if isinstance(kind, type) else None
        if step is not None and step.__code__.co_name == "_use_grad":
            kind.step = _eager(step)


def _eager(step: Step) -> Step:
    """What torch's `_use_grad_for_differentiable` makes of a step, but for its words to the compiler."""
    inner: Step = step.__wrapped__  # type: ignore[attr-defined]

    @functools.wraps(inner)
    def run(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if COMPILER in sys.modules:
            return step(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return inner(self, *args, **kwargs)

    return run


class _Root(torch.autograd.Function):
    """A scalar that depends on an output; its backward pass gives the output's gradient as it is."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def pass_back(output: Tensor, gradient: Tensor) -> None:
    """Does what `output.backward(gradient)` does, bit for bit, by way of a scalar."""
    _Root.apply(output, gradient).backward()
