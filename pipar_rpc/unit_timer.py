"""How long the cut units of a network take on this machine."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.compute import finish
from pipar_rpc.pace import UnitTimes

BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100)


class UnitTimer:
    """A cut unit that notes how long it computes.

    Args:
        name: of the unit.
        layers: the unit. It is trained, with a step size of almost nothing.
        device: where it computes.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        layers: nn.Module,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._name, self._layers, self._device, self._clock = name, layers.train(), device, clock
        parameters = list(layers.parameters())
        self._optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9) if parameters else None
        self._forward = defaultdict[int, list[float]](list)
        self._backward = defaultdict[int, list[float]](list)
        self._update: list[float] = []
        self._output = torch.empty(0)

    def forward(self, x: Tensor, first: bool) -> Tensor:
        """The output; nobody needs the gradient of the first unit's input."""
        entering = x.detach().requires_grad_(not first).clone()  # the unit may work in place
        self._forward[len(x)].append(self._seconds(lambda: self._layers(entering)))
        return self._output

    def backward(self) -> None:
        """The backward pass of the last output, and an optimiser step."""
        output, gradient = self._output, torch.ones_like(self._output)
        self._backward[len(output)].append(self._seconds(lambda: output.backward(gradient)))
        if self._optimizer is not None:
            self._update.append(self._seconds(self._optimizer.step))
            self._optimizer.zero_grad()

    def times(self) -> UnitTimes:
        """Medians; the first run of each batch size does not count."""
        forward = {size: _median(runs[1:]) for size, runs in self._forward.items()}
        backward = {size: _median(runs[1:]) for size, runs in self._backward.items()}
        return UnitTimes(self._name, forward, backward, _median(self._update or [0.0]))

    def _seconds(self, work: Callable[[], Any]) -> float:
        finish(self._device)
        began = self._clock()
        result = work()
        finish(self._device)
        seconds = self._clock() - began
        if isinstance(result, Tensor):
            self._output = result
        return seconds


def run_once(units: Sequence[UnitTimer], images: Tensor) -> None:
    """One forward and one backward pass of consecutive units, the first of a network first."""
    x = images
    for index, unit in enumerate(units):
        x = unit.forward(x, first=index == 0)
    for unit in reversed(units):
        unit.backward()


def timers(network: nn.Sequential, device: torch.device, clock: Callable[[], float]) -> list[UnitTimer]:
    """A timer for each unit of a network that is on `device`."""
    named = zip(network._modules, network, strict=True)
    return [UnitTimer(name, layers, device, clock) for name, layers in named]


def _median(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds), 7)
