"""The same numbers as with torch's own steps and backward passes, without what these import."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pipar_rpc.base.without_compiler import _eager, pass_back
from tests.support.processes import environment

OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "amsgrad": True},
    "RMSprop": {"lr": 0.1, "centered": True},
    "Adagrad": {"lr": 0.1},
}
PROGRAM = """
import sys, torch
if sys.argv[1] == "ours":
    from pipar_rpc.base.without_compiler import keep_compiler_out, pass_back
    keep_compiler_out()
else:
    pass_back = torch.Tensor.backward
for name, options in {optimizers}.items():
    torch.manual_seed(0)
    net, x = torch.nn.Linear(5, 3, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    optimizer = getattr(torch.optim, name)(net.parameters(), **options)
    for _ in range(5):
        y = net(x).tanh()
        pass_back(y, torch.randn(7, 3, dtype=torch.float64))
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
    print(name, [number.hex() for weight in net.parameters() for number in weight.flatten().tolist()])
print(*("torch._dynamo" in sys.modules, "sympy" in sys.modules), file=sys.stderr)
"""


def test_training_is_the_same_bit_for_bit_without_the_compiler():
    """In processes of their own, because the compiler stays when it has come."""
    program = PROGRAM.replace("{optimizers}", repr(OPTIMIZERS))
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", program, who], **options) for who in ("ours", "torch's")
    ]
    ours, torchs = [process.communicate(timeout=120) for process in started]
    assert ours[0] == torchs[0]
    assert ours[0].count("0x") > 50
    assert (ours[1], torchs[1]) == ("False False\n", "True True\n")


@pytest.mark.parametrize("leaf", [False, True])
def test_a_gradient_is_passed_back_as_it_is(leaf):
    weight = torch.randn(4, 3, requires_grad=True)
    output, gradient = weight if leaf else (weight * 2).T, torch.randn(4, 3)
    pass_back(output, gradient if leaf else gradient.T)
    assert torch.equal(weight.grad, gradient if leaf else gradient * 2)
    pass_back(weight * 1, gradient)  # adds up
    assert torch.equal(weight.grad, gradient + (gradient if leaf else gradient * 2))


def test_a_wrong_shape_is_refused():
    with pytest.raises(RuntimeError):
        pass_back(torch.randn(4, 3, requires_grad=True) * 1, torch.randn(4, 2))


def test_with_the_compiler_loaded_a_step_is_torchs(monkeypatch):
    """A step of a network that the user compiles tells the compiler what torch's does."""
    calls = []

    def inner(optimizer):
        calls.append(("inner", torch.is_grad_enabled()))

    def step(optimizer):
        calls.append("torch's")

    step.__wrapped__ = inner
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    _eager(step)(optimizer)
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    _eager(step)(optimizer)
    assert calls == ["torch's", ("inner", False)]
