"""Algorithm 2: the server half of one device's network."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.base.gpu import finish
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coded, Coding
from pipar_rpc.models import DropoutStreams
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.exchange import Result
from pipar_rpc.training.finite_check import FiniteCheck
from pipar_rpc.training.optimizer import load_momentum, make_sgd, momentum_of


class ServerHalf:
    """Layers P+1..Q and the loss, trained on activations as they arrive.

    The loss is the cross-entropy, averaged over the micro-batch and weighted by its share of the mini-batch,
    so the N gradients add up to the gradient of the whole mini-batch.

    Args:
        layers: the server half, on the CPU; empty for split point Q.
        optimizer: arguments of `torch.optim.SGD`.
        dropout: random generators of the layers' dropout.
        coding: codecs of activations and gradients, equal to the device's.
        device: torch device that computes.
        timeline: record of the spans of the computation.
        momentum: momentum buffers of the layers' parameters by name; None at the beginning of training.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        optimizer: dict[str, Any],
        dropout: DropoutStreams,
        coding: Coding,
        device: torch.device,
        timeline: Timeline,
        momentum: State | None = None,
    ) -> None:
        self._options, self._device, self._timeline = optimizer, device, timeline
        self._hold(layers, dropout, coding, momentum or {})

    def _hold(self, layers: nn.Sequential, dropout: DropoutStreams, coding: Coding, momentum: State) -> None:
        self._layers, self._dropout, self._coding = layers.to(self._device).train(), dropout, coding
        self._optimizer = make_sgd(self._layers, self._options, momentum)
        self._check = FiniteCheck(self._layers)  # made anew before each mini-batch

    def process(self, part: Part, activation: Coded, labels: Tensor, reply: Callable[[Result], None]) -> None:
        """Runs forward and backward pass and, after the last micro-batch, one optimiser step.

        Args:
            part: place within the mini-batch; parts come in order.
            activation: output of the device half, as its codec encodes it.
            labels: class numbers, int64 of shape [b].
            reply: function called with the result before the optimiser step, which no device waits for.

        Raises:
            LostError: the loss, a gradient or a buffer is not finite. The half is as it was before the
                mini-batch: other devices may go on with it.
        """
        with self._measure_coding(Stage.SERVER_DECODE, part):
            leaf = self._coding.decode_activation(activation, self._device).detach()
            leaf.requires_grad_(activation.gradient_bytes is not None)
        with self._timeline.measure(Stage.SERVER_FORWARD, part.iteration, part.index):
            if part.index == 1:
                self._check = FiniteCheck(self._layers)
            self._dropout.begin(part)
            labels = labels.to(self._device)
            logits = self._layers(leaf.clone())  # the first layer may work in place, which no leaf allows
            loss = F.cross_entropy(logits, labels)
        with self._timeline.measure(Stage.SERVER_BACKWARD, part.iteration, part.index):
            (loss * part.weight).backward()
            finish(self._device)
            correct, mean = int((logits.argmax(dim=1) == labels).sum()), float(loss.detach())
        self._check.loss(part, mean)
        with self._measure_coding(Stage.SERVER_ENCODE, part):
            gradient = leaf.grad
            payload = None if gradient is None else self._coding.encode_gradient(part, activation, gradient)
        reply(Result(payload, mean, correct))
        if part.is_last and self._optimizer is not None:
            with self._timeline.measure(Stage.UPDATE, part.iteration):
                self._check.gradients(part)
                self._optimizer.step()
                self._optimizer.zero_grad()
                finish(self._device)

    def _measure_coding(self, stage: Stage, part: Part) -> AbstractContextManager[None]:
        """A span of what a codec computes; none where activations cross as they are."""
        if self._coding.exact:
            return nullcontext()
        return self._timeline.measure(stage, part.iteration, part.index)

    def recut(self, layers: nn.Sequential, dropout: DropoutStreams, coding: Coding, momentum: State) -> None:
        """Replaces the layers that are held; to be called between rounds.

        Args:
            layers: layers P+1..Q, on the CPU; empty for split point Q.
            dropout: random generators of their dropout.
            coding: codecs of activations and gradients at this cut, equal to the device's.
            momentum: momentum buffers by name of those of their parameters that are new here.
        """
        self._hold(layers, dropout, coding, self.momentum() | momentum)

    def momentum(self) -> State:
        """Returns a copy of the momentum buffers of this half's parameters by name, on the CPU."""
        return momentum_of(self._layers, self._optimizer)

    def for_device(self, dropout: DropoutStreams, coding: Coding, timeline: Timeline) -> "ServerHalf":
        """Shares layers and optimiser with another device; calls for several devices must not overlap.

        Args:
            dropout: random generators of that device.
            coding: codecs of that device.
            timeline: record of the spans of the computation for that device.
        """
        other = copy.copy(self)
        other._dropout, other._coding, other._timeline = dropout, coding, timeline
        return other

    def snapshot(self) -> tuple[State, State]:
        """Copies state and momentum, for `restore`."""
        return {key: tensor.clone() for key, tensor in self.state().items()}, self.momentum()

    def restore(self, snapshot: tuple[State, State]) -> None:
        """Forgets what was trained since `snapshot`."""
        state, momentum = snapshot
        self.load(state)
        self._layers.zero_grad()
        load_momentum(self._layers, self._optimizer, momentum)

    def state(self) -> State:
        """Returns parameters and buffers, on the CPU; they may share memory with the live ones."""
        return {key: tensor.cpu() for key, tensor in self._layers.state_dict().items()}

    def load(self, state: State) -> None:
        """Replaces parameters and buffers; the optimiser's momentum stays."""
        self._layers.load_state_dict(state)
