"""What a server half holds: layers, optimiser and codecs, and what may be asked of them between rounds."""

import copy
from collections.abc import Collection
from typing import Self

import torch
from torch import nn

from pipar_rpc.base.gpu import Stream, open_stream
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coding
from pipar_rpc.learning.half_optimizer import HalfOptimizer
from pipar_rpc.learning.loss import Criterion
from pipar_rpc.learning.spec import LearningSpec
from pipar_rpc.models import DropoutStreams
from pipar_rpc.privacy.gradients import PLAIN, Gradients
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.finite_check import FiniteCheck


class ServerLayers:
    """Layers P+1..Q with their optimiser.

    What is called between rounds waits for the GPU, and is without what an unfinished mini-batch has done.

    Args:
        layers: the server half, on the CPU; empty for split point Q.
        learning: loss, optimiser and schedule.
        dropout: random generators of the layers' dropout.
        coding: codecs of activations and gradients, equal to the device's.
        device: torch device that computes.
        timeline: record of the spans of the computation.
        optimizer_state: state of the optimiser by parameters' names; None at the beginning of training.
        gradients: what becomes of the layers' gradients before the optimiser uses them.
        stream: stream on which it computes; by default one of its own on `device`.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        learning: LearningSpec,
        dropout: DropoutStreams,
        coding: Coding,
        device: torch.device,
        timeline: Timeline,
        optimizer_state: State | None = None,
        gradients: Gradients = PLAIN,
        stream: Stream | None = None,
    ) -> None:
        self._learning, self._device, self._timeline = learning, device, timeline
        self._stream = stream or open_stream(device)
        self._criterion = Criterion(learning.loss, device)
        self._kept: State = {}  # the optimiser's state of a half that rests
        with self._stream.alone():
            self._hold(layers, dropout, coding, optimizer_state or {}, gradients)

    def _hold(
        self,
        layers: nn.Sequential,
        dropout: DropoutStreams,
        coding: Coding,
        optimizer_state: State,
        gradients: Gradients,
    ) -> None:
        self._layers, self._dropout, self._coding = layers.to(self._device).train(), dropout, coding
        self._gradients = gradients
        learning = self._learning
        self._optimizer = HalfOptimizer(self._layers, learning.optimizer, learning.schedule, optimizer_state)
        self._check = FiniteCheck(self._layers)  # made anew before each mini-batch
        self._unfinished: list[FiniteCheck] = []  # one list for all who share the half
        self._names = tuple(layers.state_dict())

    def _undo(self) -> None:
        for check in self._unfinished:
            check.undo()
        self._forget()

    def _forget(self) -> None:
        self._unfinished.clear()

    def recut(
        self,
        layers: nn.Sequential,
        dropout: DropoutStreams,
        coding: Coding,
        optimizer_state: State,
        gradients: Gradients = PLAIN,
    ) -> None:
        """Replaces the layers that are held; to be called between rounds.

        Args:
            layers: layers P+1..Q, on the CPU; empty for split point Q.
            dropout: random generators of their dropout.
            coding: codecs of activations and gradients at this cut, equal to the device's.
            optimizer_state: optimiser's state of those of their parameters that are new here.
            gradients: what becomes of the layers' gradients before the optimiser uses them.
        """
        with self._stream.alone():
            self._hold(layers, dropout, coding, self.optimizer_state() | optimizer_state, gradients)
        self._kept = {}

    def rest(self) -> None:
        """Gives the layers up, but for the optimiser's state, until `recut` brings some; between rounds."""
        self._kept, names = self.optimizer_state(), self._names
        with self._stream.alone():
            self._hold(nn.Sequential(), self._dropout, self._coding, {}, PLAIN)
        self._names = names

    def optimizer_state(self) -> State:
        """Returns a copy of the optimiser's state by the names of this half's parameters, on the CPU."""
        with self._stream.alone():
            return self._kept | self._optimizer.state()

    def for_device(
        self,
        dropout: DropoutStreams,
        coding: Coding,
        timeline: Timeline,
        gradients: Gradients = PLAIN,
    ) -> Self:
        """Shares layers and optimiser with another device; calls for several devices must not overlap.

        Args:
            dropout: random generators of that device.
            coding: codecs of that device.
            timeline: record of the spans of the computation for that device.
            gradients: what becomes of the layers' gradients for that device.
        """
        other = copy.copy(self)
        other._dropout, other._coding, other._timeline = dropout, coding, timeline
        other._gradients = gradients
        return other

    def snapshot(self) -> tuple[State, State]:
        """Copies the layers' and the optimiser's state, for `restore`."""
        with self._stream.alone():
            return {key: tensor.clone() for key, tensor in self.state().items()}, self.optimizer_state()

    def restore(self, snapshot: tuple[State, State]) -> None:
        """Forgets what was trained since `snapshot`."""
        state, optimizer_state = snapshot
        with self._stream.alone():
            self.load(state)
            self._layers.zero_grad()
            self._optimizer.load(optimizer_state)

    def state(self) -> State:
        """Returns parameters and buffers, on the CPU; they may share memory with the live ones.

        They are without what an unfinished mini-batch has done.
        """
        with self._stream.alone():
            self._undo()
            return {key: tensor.cpu() for key, tensor in self._layers.state_dict().items()}

    def names(self) -> Collection[str]:
        """Returns the names of parameters and buffers, also of a half that rests."""
        return self._names

    def load(self, state: State) -> None:
        """Replaces parameters and buffers by those of the global network; the optimiser's state stays."""
        with self._stream.alone():
            self._undo()
            self._layers.load_state_dict(state)
            self._optimizer.begin_round()
