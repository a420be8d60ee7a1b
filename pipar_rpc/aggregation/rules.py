"""From the devices' networks to the next global network: the rule by which they are aggregated.

A further rule is a class with the methods of `AggregationRule` and an entry of `RULES`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, as_number, first_line, require
from pipar_rpc.base.states import State

CUSTOM = "custom"
FEDAVG = "fedavg"
KEY = "aggregation.rule"


@dataclass(frozen=True)
class RuleSpec:
    """All that is needed to build a rule; plain data.

    Attributes:
        name: a key of `RULES`, or "custom".
        target: dotted name of the function or class that makes a custom rule.
        args: keyword arguments.
    """

    name: str = FEDAVG
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class AggregationRule(Protocol):
    """Makes the next global network from those of the devices; equal input gives equal bits."""

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The next global network.

        Args:
            before: the global network with which the devices began the round; None where there is none.
            networks: one whole network per device that is left, with the same names, shapes and types. No
                tensor may be changed.
            samples: samples that each device processed since the last aggregation, not all of them zero.
        """
        ...

    def state(self) -> Mapping[str, Tensor]:
        """What the rule remembers from round to round, for checkpoints; empty if it is nothing."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned; empty at the beginning of a training."""
        ...


class FedAvg:
    """The average, weighted by samples (McMahan et al., 2017); see `weighted_average`."""

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The average; the global network before does not matter."""
        return weighted_average(networks, samples)

    def state(self) -> State:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""


class FedAvgM:
    """FedAvg with momentum on the server (Hsu, Qi and Brown, 2019).

    With the average m of the devices' networks and the global network w, per parameter:
    v = beta * v + (m - w), then w = w + lr * v. Buffers are aggregated as FedAvg does. The step is computed
    in double precision, and v is kept in the parameter's own type. With beta = 0 and lr = 1 the result is
    FedAvg's, but for an error of about 1e-16 times the weight before: for float32, as good as always none.

    Args:
        parameters: names of the network's trained parameters; momentum is theirs alone.
        beta: momentum, 0 or more and below 1.
        lr: the server's learning rate, above 0.
    """

    def __init__(self, parameters: Sequence[str], beta: float = 0.9, lr: float = 1.0) -> None:
        self._parameters = tuple(parameters)
        self._beta = _number("beta", beta, 0 <= as_number(beta) < 1, "0 or more and below 1")
        self._lr = _number("lr", lr, 0 < as_number(lr) < float("inf"), "> 0")
        self._momentum: State = {}

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The global network before, moved towards the average; the average if there was none."""
        average = weighted_average(networks, samples)
        if before is None:
            return average
        for name in self._parameters:
            dtype, start = average[name].dtype, before[name].double()
            change = average[name].double() - start
            if name in self._momentum:
                change.add_(self._momentum[name].double(), alpha=self._beta)
            average[name] = start.add_(change, alpha=self._lr).to(dtype)
            self._momentum[name] = change.to(dtype)
        return average

    def state(self) -> State:
        """Momentum by the names of parameters."""
        return dict(self._momentum)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on with this momentum."""
        self._momentum = dict(state)


RULES: dict[str, type[AggregationRule]] = {FEDAVG: FedAvg, "fedavgm": FedAvgM}


class OwnRule:
    """A rule of the user's: its mistakes become one line.

    Args:
        rule: the user's object.
        target: its dotted name.
    """

    def __init__(self, rule: AggregationRule, target: str) -> None:
        self._rule, self._name = rule, f"{KEY}._target_={target}"
        self.state, self.load = rule.state, rule.load

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """What the user's rule makes, in tensors of its own; raises UserError."""
        try:
            made = dict(self._rule.aggregate(before, networks, samples))
            network = {name: made.pop(name).to(first.dtype, copy=True) for name, first in networks[0].items()}
        except Exception as error:
            raise UserError(f"{self._name} failed: {type(error).__name__}: {first_line(error)}") from error
        wrong = [name for name, first in networks[0].items() if network[name].shape != first.shape]
        if made or wrong:
            raise UserError(
                f"{self._name}: must return the tensors of a network: {[*made, *wrong][0]} is not"
            )
        return network


def build_rule(spec: RuleSpec, network: nn.Module) -> AggregationRule:
    """The rule for a network, of which only the names of parameters matter.

    A function or class of the user's gets what `args` holds, and, if it has a parameter `parameters`, the
    names of the trained parameters.

    Raises:
        UserError: arguments that the rule does not have or that are out of range; no such function, it
            failed, or what it returned is no rule.
    """
    named = network.named_parameters(remove_duplicate=False)
    offered = {"parameters": tuple(name for name, parameter in named if parameter.requires_grad)}
    if spec.target is not None:
        rule = dotted.call(f"{KEY}._target_", spec.target, offered, spec.args)
        if not isinstance(rule, AggregationRule):
            what = f"a rule, with the methods aggregate, state and load, not {type(rule).__name__}"
            raise ConfigError(f"{KEY}._target_", spec.target, f"a function that returns {what}")
        return OwnRule(rule, spec.target)
    return dotted.call_named(KEY, spec.name, RULES[spec.name], offered, spec.args)


def _number(name: str, given: Any, accepted: bool, allowed: str) -> float:
    require(accepted, f"{KEY}.args.{name}", given, allowed)
    return float(given)
