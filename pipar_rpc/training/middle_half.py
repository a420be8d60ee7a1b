"""Algorithm 2 in the U-shape: the server half between two parts of the device's; see `tail`."""

from concurrent.futures import Future
from typing import NamedTuple, Self

from torch import Tensor, nn

from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coded, Coding, Crossing
from pipar_rpc.models import DropoutStreams
from pipar_rpc.privacy.gradients import PLAIN, Gradients
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.exchange import Reply, Result
from pipar_rpc.training.server_half import ServerHalf


class _Passed(NamedTuple):
    """A micro-batch between its forward and its backward pass on the server."""

    activation: Coded
    leaf: Tensor
    output: Tensor
    sent: Coded


class MiddleHalf(ServerHalf):
    """Layers P+1..Q-T. It keeps the graphs of a mini-batch's N parts, until their gradients come.

    The arguments are those of `ServerHalf`. A mini-batch whose device leaves on the way is undone.
    """

    def _hold(
        self,
        layers: nn.Sequential,
        dropout: DropoutStreams,
        coding: Coding,
        optimizer_state: State,
        gradients: Gradients,
    ) -> None:
        super()._hold(layers, dropout, coding, optimizer_state, gradients)
        self._tail_coding = coding.before_tail()
        self._passed: dict[int, _Passed] = {}  # one for all who share the half

    def process(
        self, part: Part, activation: Coded, labels: Tensor | None, reply: Reply
    ) -> Future[None] | None:
        """Runs the forward pass in a part's first crossing and the backward pass in its second one.

        One optimiser step follows the last part's second crossing.

        Args:
            part: place within the mini-batch; all first crossings come in order, then all second ones.
            activation: output of the device half or, in the second crossing, gradient of this half's output.
            labels: None.
            reply: function called with the output or the activation's gradient.

        Raises:
            LostError: a gradient or a buffer is not finite. The half is as it was before the mini-batch.
        """
        assert labels is None
        with self._stream.used():
            activation = activation.moved(self._stream.to_device)
            if activation.crossing is Crossing.FIRST:
                self._forward(part, activation, reply)
            else:
                self._backward(part, activation, reply)
        return None

    def _forward(self, part: Part, activation: Coded, reply: Reply) -> None:
        leaf = self._arrived(part, activation)
        with self._measure(Stage.SERVER_FORWARD, part):
            if part.index == 1:
                self._begin()
            self._dropout.begin(part)
            with self._gradients.watched():
                output = self._layers(leaf.clone())  # the first layer may work in place: no leaf allows it
        with self._measure_coding(Stage.OUTPUT_ENCODE, part):
            sent = self._tail_coding.encode_activation(part, output, self._stream.to_host)
        self._passed[part.index] = _Passed(activation, leaf, output, sent)
        reply(self._stream.when_done(lambda: Result(None, output=sent)))

    def _backward(self, part: Part, gradient: Coded, reply: Reply) -> None:
        activation, leaf, output, sent = self._passed.pop(part.index)
        if output.requires_grad:
            with self._measure_coding(Stage.RETURN_DECODE, part):
                values = self._tail_coding.decode_gradient(sent, gradient.payload, self._device)
            with self._measure(Stage.SERVER_BACKWARD, part):
                output.backward(values)
                self._gradients.after(part)
        payload = self._leaving(part, activation, leaf)
        reply(self._stream.when_done(lambda: Result(payload)))
        if part.is_last:
            self._update(part)
            self._unfinished.clear()

    def _forget(self) -> None:
        super()._forget()
        self._passed.clear()

    def for_device(
        self,
        dropout: DropoutStreams,
        coding: Coding,
        timeline: Timeline,
        gradients: Gradients = PLAIN,
    ) -> Self:
        """Shares layers and optimiser; see `ServerHalf.for_device`."""
        other = super().for_device(dropout, coding, timeline, gradients)
        other._tail_coding = coding.before_tail()
        return other
