"""Rules in which an optimiser on the server makes a step of the devices' mean change."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rule_arguments import decay, positive
from pipar_rpc.base.states import State

Moments = tuple[Tensor, ...]


class ServerOptimizer(ABC):
    """Moves each parameter w by rate * step(Delta), with Delta = sum_k n_k / n * w_k - w.

    w_k is the parameter of device k, n_k are its samples, n those of all. Steps are computed in double
    precision. Moments are kept in the parameter's type, but at least in float32: squares of half-precision
    numbers are too small for their type. Buffers and frozen parameters are aggregated as FedAvg does.

    Args:
        parameters: names of the network's trained parameters.
        rate: the server's learning rate.
        first: value of each moment before the first round, by the prefix of its names in `state`.
    """

    networks_kept: ClassVar[int]
    takes_average: ClassVar[bool] = True

    def __init__(self, parameters: Sequence[str], rate: float, first: Mapping[str, float]) -> None:
        self._parameters, self._rate, self._first = tuple(parameters), rate, dict(first)
        self._moments: State = {}

    @abstractmethod
    def _step(self, change: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """The step of one parameter, and its next moments; changes none of these tensors.

        Args:
            change: Delta, in double precision.
            moments: moments in the order of `first`, in double precision.
        """

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The global network before, moved by a step; the average, without moments, if there was none."""
        average = weighted_average(networks, samples)
        if before is None:
            return average
        for name in self._parameters:
            dtype, start = average[name].dtype, before[name].double()
            change = average[name].double() - start
            keys = [prefix + name for prefix in self._first]
            moments = (
                self._moments[key].double() if key in self._moments else torch.full_like(change, first)
                for key, first in zip(keys, self._first.values(), strict=True)
            )
            step, following = self._step(change, tuple(moments))
            average[name] = start.add(step, alpha=self._rate).to(dtype)
            kept = torch.promote_types(dtype, torch.float32)
            self._moments |= {key: own.to(kept) for key, own in zip(keys, following, strict=True)}
        return average

    def state(self) -> State:
        """Moments, by the names of parameters with the prefix of the moment."""
        return dict(self._moments)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on with these moments."""
        self._moments = dict(state)


class FedAvgM(ServerOptimizer):
    """FedAvg with momentum on the server (Hsu, Qi and Brown, 2019).

    v = beta * v + Delta, then w = w + lr * v, with v = 0 in the beginning. With beta = 0 and lr = 1 the
    result is FedAvg's, but for an error of about 1e-16 times the weight before: for float32, as good as
    always none.

    Args:
        parameters: names of the network's trained parameters; momentum is theirs alone.
        beta: momentum, 0 or more and below 1.
        lr: the server's learning rate, above 0.
    """

    networks_kept = 1

    def __init__(self, parameters: Sequence[str], beta: float = 0.9, lr: float = 1.0) -> None:
        self._beta = decay("beta", beta)
        super().__init__(parameters, positive("lr", lr), {"": 0.0})

    def _step(self, change: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        velocity = change.add(moments[0], alpha=self._beta)
        return velocity, (velocity,)


class FedAdam(ServerOptimizer):
    """Adam on the server: FedAdam, Algorithm 2 of Reddi et al., "Adaptive Federated Optimization", ICLR 2021.

    m = beta1 * m + (1 - beta1) * Delta, v = beta2 * v + (1 - beta2) * Delta^2, then
    w = w + eta * m / (sqrt(v) + tau), with m = 0 and v = tau^2 in the beginning. As in the paper, neither
    moment is corrected for its beginning; Delta is weighted by samples.

    Args:
        parameters: names of the network's trained parameters.
        eta: the server's learning rate, above 0: about how far a parameter moves in a round if its changes
            are alike, however large they are.
        beta1: what m keeps of itself, 0 or more and below 1.
        beta2: what v keeps of itself, 0 or more and below 1.
        tau: degree of adaptivity, above 0: changes that are much smaller are not scaled up to eta.
    """

    networks_kept = 2

    def __init__(
        self,
        parameters: Sequence[str],
        eta: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 0.001,
    ) -> None:
        self._beta1, self._beta2 = decay("beta1", beta1), decay("beta2", beta2)
        self._tau = positive("tau", tau)
        super().__init__(parameters, positive("eta", eta), {"m.": 0.0, "v.": self._tau**2})

    def _step(self, change: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        m = self._beta1 * moments[0] + (1 - self._beta1) * change
        v = self._second_moment(moments[1], change.square())
        return m / (v.sqrt() + self._tau), (m, v)

    def _second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return self._beta2 * v + (1 - self._beta2) * square


class FedYogi(FedAdam):
    """Yogi on the server: FedYogi, Algorithm 2 of Reddi et al., "Adaptive Federated Optimization", ICLR 2021.

    As `FedAdam`, but for v = v - (1 - beta2) * Delta^2 * sign(v - Delta^2): v falls slowly when changes
    become small, so that steps do not become large at once.
    """

    def _second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self._beta2) * square * (v - square).sign()
