"""Algorithm 2: the server half of one device's network."""

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from pipar_rpc.base.gpu import finish
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coded, Coding
from pipar_rpc.learning.half_optimizer import HalfOptimizer
from pipar_rpc.learning.loss import Criterion
from pipar_rpc.learning.spec import LearningSpec
from pipar_rpc.models import DropoutStreams
from pipar_rpc.privacy.gradients import PLAIN, Clipped, Gradients
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.exchange import Result
from pipar_rpc.training.finite_check import FiniteCheck


class ServerHalf:
    """Layers P+1..Q and the loss, trained on activations as they arrive.

    The loss is averaged over the micro-batch and weighted by its share of the mini-batch, so the N gradients
    add up to the gradient of the whole mini-batch.

    Args:
        layers: the server half, on the CPU; empty for split point Q.
        learning: loss, optimiser and schedule.
        dropout: random generators of the layers' dropout.
        coding: codecs of activations and gradients, equal to the device's.
        device: torch device that computes.
        timeline: record of the spans of the computation.
        optimizer_state: state of the optimiser by parameters' names; None at the beginning of training.
        gradients: what becomes of the layers' gradients before the optimiser uses them.
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
    ) -> None:
        self._learning, self._device, self._timeline = learning, device, timeline
        self._criterion = Criterion(learning.loss, device)
        self._kept: State = {}  # the optimiser's state of a half that rests
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
        self._names = tuple(layers.state_dict())

    def process(
        self, part: Part, activation: Coded, labels: Tensor | None, reply: Callable[[Result], None]
    ) -> None:
        """Runs forward and backward pass and, after the last micro-batch, one optimiser step.

        Args:
            part: place within the mini-batch; parts come in order.
            activation: output of the device half, as its codec encodes it.
            labels: labels as the data set gives them, shape [b, ...].
            reply: function called with the result before the optimiser step, which no device waits for.

        Raises:
            LostError: the loss, a gradient or a buffer is not finite. The half is as it was before the
                mini-batch: other devices may go on with it.
        """
        assert labels is not None
        leaf = self._arrived(part, activation)
        with self._timeline.measure(Stage.SERVER_FORWARD, part.iteration, part.index):
            if part.index == 1:
                self._check = FiniteCheck(self._layers)
            self._dropout.begin(part)
            labels = labels.to(self._device)
            with self._gradients.watched():
                outputs = self._layers(leaf.clone())  # the first layer may work in place: no leaf allows it
            loss = self._criterion.of_part(outputs, labels, part.weight)
        with self._timeline.measure(Stage.SERVER_BACKWARD, part.iteration, part.index):
            (loss * part.weight).backward()
            self._gradients.after(part)
            finish(self._device)
            correct, mean = self._criterion.num_correct(outputs, labels), float(loss.detach())
        self._check.loss(part, mean)
        reply(Result(self._leaving(part, activation, leaf), mean, correct))
        if part.is_last:
            self._update(part)

    def _arrived(self, part: Part, activation: Coded) -> Tensor:
        """The activation as decoded, a leaf."""
        with self._measure_coding(Stage.SERVER_DECODE, part):
            return self._coding.decode_leaf(activation, self._device)

    def _leaving(self, part: Part, activation: Coded, leaf: Tensor) -> Tensor | None:
        """The payload of the activation's gradient; None if none is wanted."""
        with self._measure_coding(Stage.SERVER_ENCODE, part):
            gradient = leaf.grad
            return None if gradient is None else self._coding.encode_gradient(part, activation, gradient)

    def _update(self, part: Part) -> None:
        """The optimiser step, if there is anything to update."""
        if not self._optimizer.trains:
            return
        with self._timeline.measure(Stage.UPDATE, part.iteration):
            self._gradients.finish(part)
            self._check.gradients(part)
            self._optimizer.step(part)
            finish(self._device)

    def _measure_coding(self, stage: Stage, part: Part) -> AbstractContextManager[None]:
        """A span of what a codec computes; none where activations cross as they are."""
        if self._coding.exact:
            return nullcontext()
        return self._timeline.measure(stage, part.iteration, part.index)

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
        self._hold(layers, dropout, coding, self.optimizer_state() | optimizer_state, gradients)
        self._kept = {}

    def rest(self) -> None:
        """Gives the layers up, but for the optimiser's state, until `recut` brings some; between rounds."""
        self._kept, names = self.optimizer_state(), self._names
        self._hold(nn.Sequential(), self._dropout, self._coding, {}, PLAIN)
        self._names = names

    def clipped(self) -> Clipped:
        """Returns how many gradients of single samples were clipped here since the last call."""
        return self._gradients.drain()

    def optimizer_state(self) -> State:
        """Returns a copy of the optimiser's state by the names of this half's parameters, on the CPU."""
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
        return {key: tensor.clone() for key, tensor in self.state().items()}, self.optimizer_state()

    def restore(self, snapshot: tuple[State, State]) -> None:
        """Forgets what was trained since `snapshot`."""
        state, optimizer_state = snapshot
        self.load(state)
        self._layers.zero_grad()
        self._optimizer.load(optimizer_state)

    def state(self) -> State:
        """Returns parameters and buffers, on the CPU; they may share memory with the live ones."""
        return {key: tensor.cpu() for key, tensor in self._layers.state_dict().items()}

    def names(self) -> Collection[str]:
        """Returns the names of parameters and buffers, also of a half that rests."""
        return self._names

    def load(self, state: State) -> None:
        """Replaces parameters and buffers by those of the global network; the optimiser's state stays."""
        self._layers.load_state_dict(state)
        self._optimizer.begin_round()
