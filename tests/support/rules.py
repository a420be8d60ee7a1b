"""Networks for aggregation rules, and rounds of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.aggregation.rules import AggregationRule, RuleSpec, build_rule
from pipar_rpc.base.states import State
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.timing.timeline import Timeline

SAMPLES = (3, 1)
PARAMETERS = ("0.weight", "0.bias", "1.weight", "1.bias")
BUFFERS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def states(seed: int, count: int = 2, dtype: torch.dtype = torch.float32) -> list[State]:
    """Of networks of which no two numbers are equal."""
    torch.manual_seed(seed)
    names = network().state_dict().items()
    found = [{name: torch.randn(own.shape, dtype=dtype) for name, own in names} for _ in range(count)]
    return [state | {"1.num_batches_tracked": torch.tensor(number)} for number, state in enumerate(found)]


def rule(name: str, num_devices: int = 2, of: nn.Module | None = None, **args: Any) -> AggregationRule:
    return build_rule(RuleSpec(name, None, args), of or network(), num_devices)


def rounds(
    rule: AggregationRule, numbers: Iterable[int], before: State | None, dtype: torch.dtype = torch.float32
) -> list[State]:
    """Aggregates these rounds one after the other."""
    aggregator = Aggregator(rule, before)
    return [aggregator.aggregate(states(number, 2, dtype), SAMPLES, Timeline()) for number in numbers]


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """All names, types and bits."""
    assert first.keys() == second.keys()
    for name, own in first.items():
        assert own.dtype == second[name].dtype, name
        assert torch.equal(own, second[name]), name
