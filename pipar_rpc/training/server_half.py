"""Algorithm 2: the server half of one device's network."""

from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from pipar_rpc.base.gpu import settled
from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded
from pipar_rpc.privacy.gradients import Clipped
from pipar_rpc.timing.timeline import Stage
from pipar_rpc.training.exchange import Reply, Result
from pipar_rpc.training.finite_check import FiniteCheck
from pipar_rpc.training.server_layers import ServerLayers


class ServerHalf(ServerLayers):
    """Layers P+1..Q and the loss, trained on activations as they arrive.

    The loss is averaged over the micro-batch and weighted by its share of the mini-batch, so the N gradients
    add up to the gradient of the whole mini-batch. A mini-batch whose device leaves on the way is undone, for
    other devices may go on with the same layers.

    All that it computes goes to a stream of its own. On a GPU it replies with what the GPU is still at, and
    looks at nothing before the end of the mini-batch. Arguments are those of `ServerLayers`.
    """

    def process(
        self, part: Part, activation: Coded, labels: Tensor | None, reply: Reply
    ) -> Future[None] | None:
        """Runs forward and backward pass and, after the last micro-batch, one optimiser step.

        Args:
            part: place within the mini-batch; parts come in order.
            activation: output of the device half, as its codec encodes it.
            labels: labels as the data set gives them, shape [b, ...].
            reply: function called with the result before the optimiser step, which no device waits for.

        Raises:
            LostError: the loss, a gradient or a buffer is not finite. The half is as it was before the
                mini-batch: other devices may go on with it. On a GPU it is raised by the last part alone.
        """
        assert labels is not None
        with self._stream.used():
            self._train(part, activation.moved(self._stream.to_device), labels, reply)
        return None

    def _train(self, part: Part, activation: Coded, labels: Tensor, reply: Reply) -> None:
        leaf = self._arrived(part, activation)
        with self._measure(Stage.SERVER_FORWARD, part):
            if part.index == 1:
                self._begin()
            self._dropout.begin(part)
            labels = self._stream.to_device(labels)
            with self._gradients.watched():
                outputs = self._layers(leaf.clone())  # the first layer may work in place: no leaf allows it
            loss = self._criterion.of_part(outputs, labels, part.weight)
        with self._measure(Stage.SERVER_BACKWARD, part):
            (loss * part.weight).backward()
            self._gradients.after(part)
            told = self._stream.read(loss.detach(), self._criterion.correct(outputs, labels))
        self._check.loss(part, told)
        gradient = self._leaving(part, activation, leaf)
        reply(self._stream.when_done(lambda: Result(gradient, *settled(told))))
        if part.is_last:
            self._update(part)
            self._unfinished.clear()

    def _begin(self) -> None:
        """Begins a mini-batch; one that has not ended was that of a device that is gone."""
        self._undo()
        self._check = FiniteCheck(self._layers)
        self._unfinished.append(self._check)

    def _arrived(self, part: Part, activation: Coded) -> Tensor:
        """The activation as decoded, a leaf."""
        with self._measure_coding(Stage.SERVER_DECODE, part):
            return self._coding.decode_leaf(activation, self._device)

    def _leaving(self, part: Part, activation: Coded, leaf: Tensor) -> Tensor | None:
        """The payload of the activation's gradient; None if none is wanted."""
        with self._measure_coding(Stage.SERVER_ENCODE, part):
            gradient = leaf.grad
            if gradient is None:
                return None
            return self._coding.encode_gradient(part, activation, gradient, self._stream.to_host)

    def _update(self, part: Part) -> None:
        """The optimiser step, if there is anything to update."""
        self._check.losses()
        if not self._optimizer.trains:
            return
        with self._timeline.measure(Stage.UPDATE, part.iteration, now=self._stream.now):
            self._gradients.finish(part)
            self._check.gradients(part)
            self._optimizer.step(part)

    def _measure(self, stage: Stage, part: Part) -> AbstractContextManager[None]:
        """A span of what is computed for a micro-batch."""
        return self._timeline.measure(stage, part.iteration, part.index, self._stream.now)

    def _measure_coding(self, stage: Stage, part: Part) -> AbstractContextManager[None]:
        """A span of what a codec computes; none where activations cross as they are."""
        if self._coding.exact:
            return nullcontext()
        return self._measure(stage, part)

    def clipped(self) -> Clipped:
        """Returns how many gradients of single samples were clipped here since the last call."""
        return self._gradients.drain()
