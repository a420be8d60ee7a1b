"""The optimiser of one half of a device's network: its step, with schedule and clipping, and its state."""

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.states import State
from pipar_rpc.learning.optimizer import OptimizerSpec, make_optimizer
from pipar_rpc.learning.optimizer_state import load_state, state_of
from pipar_rpc.learning.schedule import Schedule, ScheduleSpec


class HalfOptimizer:
    """Updates the parameters of a half that require a gradient; the others are frozen.

    Args:
        layers: the half.
        spec: optimiser.
        schedule: schedule of its rate.
        state: state by the names of parameters, with which it goes on; empty at the beginning of training.
    """

    def __init__(self, layers: nn.Module, spec: OptimizerSpec, schedule: ScheduleSpec, state: State) -> None:
        self._spec = spec
        self._parameters = {
            name: weight for name, weight in layers.named_parameters() if weight.requires_grad
        }
        self._global: list[Tensor] = []
        self._optimizer = make_optimizer(spec, list(self._parameters.values())) if self._parameters else None
        self._schedule = None if schedule.constant else Schedule(schedule, spec, self._optimizer)
        self.load(state)
        self.begin_round()

    @property
    def trains(self) -> bool:
        """Whether there is anything to update."""
        return self._optimizer is not None

    def begin_round(self) -> None:
        """Notes the global network, which the half now holds, for FedProx's penalty."""
        if self._spec.proximal_mu:
            self._global = [weight.detach().clone() for weight in self._parameters.values()]

    def rate(self, part: Part) -> float:
        """Returns the rate of a mini-batch, also where the half has nothing to update."""
        if self._schedule is not None:
            return float(self._schedule.at(part.epoch, part.step)[0]["lr"])
        options = self._optimizer.param_groups[0] if self._optimizer else {}
        return float(options.get("lr", self._spec.lr))

    def step(self, part: Part) -> None:
        """Updates the parameters by the gradients of a mini-batch and clears these.

        Args:
            part: last micro-batch of the mini-batch; tells epoch and step.
        """
        if self._optimizer is None:
            return
        if self._schedule is not None:
            options = self._schedule.at(part.epoch, part.step)
            for group, now in zip(self._optimizer.param_groups, options, strict=True):
                group.update(now)
        self._pull_back()
        self._clip()
        try:
            self._optimizer.step()
        except KeyError as error:
            kept = f"the state with which the training goes on has no {error}"
            why = f"{kept}: go on with the settings that wrote it, or begin anew"
            raise UserError(f"optimizer={self._spec.called}: {why}") from error
        self._optimizer.zero_grad()

    def state(self) -> State:
        """Returns a copy of the state by the names of parameters, on the CPU."""
        return {} if self._optimizer is None else state_of(self._parameters, self._optimizer)

    def load(self, state: State) -> None:
        """Replaces the state; parameters that `state` does not name begin anew."""
        if self._optimizer is not None:
            load_state(self._parameters, self._optimizer, state)

    def _pull_back(self) -> None:
        """Adds the gradient of FedProx's penalty, mu * (w - w_global)."""
        if not self._global:
            return
        with torch.no_grad():
            for weight, origin in zip(self._parameters.values(), self._global, strict=True):
                if weight.grad is not None:
                    weight.grad.add_(weight - origin, alpha=self._spec.proximal_mu)

    def _clip(self) -> None:
        weights = self._parameters.values()
        if self._spec.clip_value is not None:
            nn.utils.clip_grad_value_(weights, self._spec.clip_value)
        if self._spec.clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, self._spec.clip_norm)
