"""From the devices' networks to the next global network: the rule by which they are aggregated.

A further rule is a class with the methods of `AggregationRule`, in a file of its kind, and an entry
of `RULES`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from pipar_rpc.aggregation.fedavg import FedAvg
from pipar_rpc.aggregation.rule_arguments import KEY
from pipar_rpc.aggregation.server_optimizers import FedAdam, FedAvgM, FedYogi
from pipar_rpc.aggregation.trimmed_mean import TrimmedMean
from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.states import State

FEDAVG = "fedavg"


@dataclass(frozen=True)
class RuleSpec(dotted.Choice):
    """All that is needed to build a rule; plain data, with a name of `RULES`."""

    name: str = FEDAVG


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


RULES: dict[str, type[AggregationRule]] = {
    FEDAVG: FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "trimmed_mean": TrimmedMean,
}


def networks_kept(spec: RuleSpec) -> int:
    """How many networks' worth of tensors a rule remembers; 1 is assumed of one of the user's."""
    return getattr(RULES.get(spec.name), "networks_kept", 1)


def takes_average(rule: AggregationRule) -> bool:
    """Whether a rule only uses the networks' average, so that it may be given that as the one network."""
    return bool(getattr(rule, "takes_average", False))


class OwnRule:
    """A rule of the user's: its mistakes become one line.

    Args:
        rule: the user's object.
        target: its dotted name.
    """

    def __init__(self, rule: AggregationRule, target: str) -> None:
        self._rule, self._name = rule, f"{KEY}._target_={target}"
        self.state, self.load = rule.state, rule.load
        self.takes_average = takes_average(rule)

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


def build_rule(spec: RuleSpec, network: nn.Module, num_devices: int) -> AggregationRule:
    """The rule for a network, of which only the names of parameters matter, and a number of devices.

    A function or class of the user's gets what `args` holds, the names of the trained parameters if it has
    a parameter `parameters`, and the number of devices with which the training begins if it has a parameter
    `num_devices`.

    Raises:
        UserError: arguments that the rule does not have or that are out of range; no such function, it
            failed, or what it returned is no rule.
    """
    named = network.named_parameters(remove_duplicate=False)
    parameters = tuple(name for name, parameter in named if parameter.requires_grad)
    offered = {"parameters": parameters, "num_devices": num_devices}
    rule = dotted.make(KEY, spec, RULES, offered)
    if not isinstance(rule, AggregationRule):
        what = f"a rule, with the methods aggregate, state and load, not {type(rule).__name__}"
        raise ConfigError(f"{KEY}._target_", spec.target, f"a function that returns {what}")
    return rule if spec.target is None else OwnRule(rule, spec.target)
