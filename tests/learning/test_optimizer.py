"""Optimisers of torch and of the user's, and their state by the names of parameters."""

import copy

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.learning import OptimizerSpec, ScheduleSpec
from pipar_rpc.learning.half_optimizer import HalfOptimizer
from pipar_rpc.learning.optimizer import make_optimizer, try_optimizer
from pipar_rpc.learning.optimizer_state import of_parameters

LAST = Part(1, 0, 1, 1, 1.0)
SPECS = [
    OptimizerSpec(),
    OptimizerSpec("adam", args={"amsgrad": True}),
    OptimizerSpec("adamw"),
    OptimizerSpec("rmsprop", args={"centered": True}),
    OptimizerSpec("adagrad"),
    OptimizerSpec("custom", "torch.optim.NAdam"),
    OptimizerSpec("custom", "torch.optim.Rprop"),
    OptimizerSpec("custom", "torch.optim.ASGD"),
    OptimizerSpec("custom", "torch.optim.Adafactor"),
    OptimizerSpec("custom", f"{__name__}:Counting"),
]


class Counting(torch.optim.SGD):
    """Keeps plain numbers, as some optimisers do."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["count"] = state.get("count", 0) + 1
                state["mean"] = 0.5 * (state.get("mean", 0.0) + float(weight.grad.mean()))
                weight.sub_(weight.grad, alpha=group["lr"] * (state["mean"] + state["count"]))


class Closure(torch.optim.SGD):
    def step(self, closure):
        closure()


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def train(network, optimizer, first, count):
    for step in range(first, first + count):
        for weight in network.parameters():
            weight.grad = torch.sin(weight.detach() * 10 + step)
        optimizer.step(LAST)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: (spec.target or spec.name).rpartition(".")[2])
def test_an_optimiser_goes_on_from_its_state_bit_for_bit(spec):
    """As after a resume, or with layers that move to another half: by names, whatever their order."""
    through, constant = layers(), ScheduleSpec()
    optimizer = HalfOptimizer(through, spec, constant, {})
    train(through, optimizer, 0, 3)
    state, again = optimizer.state(), copy.deepcopy(through)
    train(through, optimizer, 3, 2)
    reordered = dict(reversed(state.items()))
    train(again, HalfOptimizer(again, spec, constant, reordered), 3, 2)
    assert all(
        torch.equal(one, two) for one, two in zip(through.parameters(), again.parameters(), strict=True)
    )
    assert of_parameters(state, {"0.weight"}).keys() == {key for key in state if key.startswith("0.weight/")}
    anew = layers()
    train(anew, HalfOptimizer(anew, spec, constant, {}), 0, 3)
    if state:
        later = HalfOptimizer(copy.deepcopy(anew), spec, constant, {})
        assert later.state().keys() != state.keys() or any(
            not torch.equal(later.state()[key], state[key]) for key in state
        )


def test_checkpoints_from_before_other_optimisers_name_only_the_parameter():
    network, momentum = layers(), {"1.bias": torch.tensor([3.0, 4.0])}
    optimizer = HalfOptimizer(network, OptimizerSpec(), ScheduleSpec(), momentum)
    assert torch.equal(optimizer.state()["1.bias/momentum_buffer"], momentum["1.bias"])


def test_lr_momentum_and_weight_decay_go_to_optimisers_that_have_them():
    weights = [nn.Parameter(torch.ones(2))]
    adam = make_optimizer(OptimizerSpec("adam", lr=0.5, momentum=0.3, weight_decay=0.2), weights)
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.5, 0.2)
    rprop = make_optimizer(OptimizerSpec("custom", "torch.optim.Rprop", lr=0.5), weights)
    assert rprop.defaults["lr"] == 0.5
    rmsprop = make_optimizer(OptimizerSpec("rmsprop", momentum=0.3), weights)
    assert rmsprop.defaults["momentum"] == 0.3


def test_a_state_that_lacks_what_the_settings_need_is_one_line():
    """As when a training goes on with amsgrad that was begun without it."""
    network, plain = layers(), OptimizerSpec("adam")
    optimizer = HalfOptimizer(network, plain, ScheduleSpec(), {})
    train(network, optimizer, 0, 1)
    other = OptimizerSpec("adam", args={"amsgrad": True})
    again = HalfOptimizer(network, other, ScheduleSpec(), optimizer.state())
    with pytest.raises(UserError, match=r"^optimizer=adam: the state .* has no 'max_exp_avg_sq': go on with"):
        train(network, again, 1, 1)


def test_the_size_of_the_state_is_measured():
    assert try_optimizer(OptimizerSpec(momentum=0)) == 0
    assert try_optimizer(OptimizerSpec()) == 1
    assert try_optimizer(OptimizerSpec("adamw")) == 2
    assert try_optimizer(OptimizerSpec("adam", args={"amsgrad": True})) == 3
    assert 0 < try_optimizer(OptimizerSpec("custom", "torch.optim.Adafactor")) < 0.5


def test_a_frozen_half_has_nothing_to_update():
    frozen = layers().requires_grad_(False)
    optimizer = HalfOptimizer(frozen, OptimizerSpec("adam"), ScheduleSpec("cosine", args={"T_max": 2}), {})
    optimizer.step(LAST)
    assert not optimizer.trains
    assert optimizer.state() == {}


def test_an_optimizer_that_does_not_take_the_networks_parameters_gives_one_line():
    muon = OptimizerSpec("custom", "torch.optim.Muon")
    try_optimizer(muon, {2})
    with pytest.raises(UserError, match=r"^optimizer\._target_=torch\.optim\.Muon failed: ValueError: .*2D"):
        try_optimizer(muon, {1, 2, 4})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (OptimizerSpec(args={"nestrov": True}), "optimizer.args.nestrov: no such argument of sgd"),
        (OptimizerSpec(args={"nesterov": True}, momentum=0), "optimizer.args of sgd: Nesterov momentum"),
        (
            OptimizerSpec("custom", "torch.optim.Nope"),
            "optimizer._target_=torch.optim.Nope: must be the dotted",
        ),
        (OptimizerSpec("custom", "torch.nn.ReLU", args={"inplac": 1}), "failed: TypeError"),
        (OptimizerSpec("custom", "builtins.dict"), "must be the class of a torch.optim.Optimizer"),
        (
            OptimizerSpec("custom", "torch.optim.LBFGS"),
            "must be one whose step() needs nothing but gradients",
        ),
        (
            OptimizerSpec("custom", f"{__name__}:Closure"),
            "must be one whose step() needs nothing but gradients",
        ),
    ],
)
def test_wrong_optimisers_give_one_line(spec, message):
    with pytest.raises(UserError) as caught:
        try_optimizer(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
