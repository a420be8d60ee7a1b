"""Algorithm 2: the server half of one device's network."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.compute import finish
from pipar_rpc.errors import LostError
from pipar_rpc.fedavg import State
from pipar_rpc.microbatch import Part
from pipar_rpc.models import DropoutStreams
from pipar_rpc.momentum import load_momentum, make_sgd, momentum_of
from pipar_rpc.port import Result
from pipar_rpc.timeline import Stage, Timeline


class ServerHalf:
    """Layers P+1..Q and the loss, trained on activations as they arrive.

    The loss is the cross-entropy, averaged over the micro-batch and weighted by its share of the mini-batch,
    so the N gradients add up to the gradient of the whole mini-batch.

    Args:
        layers: the server half, on the CPU; empty for split point Q.
        optimizer: arguments of `torch.optim.SGD`.
        dropout: generators of the layers' dropout.
        device: where to compute.
        timeline: receives the spans of the computation.
        momentum: of the layers' parameters; None at the beginning.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        optimizer: dict[str, Any],
        dropout: DropoutStreams,
        device: torch.device,
        timeline: Timeline,
        momentum: State | None = None,
    ) -> None:
        self._options, self._device, self._timeline = optimizer, device, timeline
        self._hold(layers, dropout, momentum or {})

    def recut(self, layers: nn.Sequential, dropout: DropoutStreams, momentum: State) -> None:
        """Holds these layers from now on; to be called between rounds.

        Args:
            layers: P+1..Q, on the CPU; empty for split point Q.
            dropout: generators of their dropout.
            momentum: of those of their parameters that are new here.
        """
        self._hold(layers, dropout, self.momentum() | momentum)

    def _hold(self, layers: nn.Sequential, dropout: DropoutStreams, momentum: State) -> None:
        self._layers, self._dropout = layers.to(self._device).train(), dropout
        self._buffers = list[Tensor]()
        self._optimizer = make_sgd(self._layers, self._options, momentum)

    def momentum(self) -> State:
        """Of the parameters that are here, by name; a copy on the CPU."""
        return momentum_of(self._layers, self._optimizer)

    def for_device(self, dropout: DropoutStreams, timeline: Timeline) -> "ServerHalf":
        """The same layers and optimiser for another device; calls for several devices must not overlap.

        Args:
            dropout: generators of that device.
            timeline: receives the spans of the computation for that device.
        """
        other = copy.copy(self)
        other._dropout, other._timeline = dropout, timeline
        return other

    def process(
        self, part: Part, activation: Tensor, labels: Tensor, reply: Callable[[Result], None]
    ) -> None:
        """Forward, backward and, after the last micro-batch, one optimiser step.

        Args:
            part: place within the mini-batch; parts come in order.
            activation: detached output of the device half, on the CPU. It requires a gradient if the device
                half has something to train.
            labels: int64 of shape [b].
            reply: called with the result before the optimiser step, so that the device need not wait for it.

        Raises:
            LostError: the loss, a gradient or a buffer is not finite. The half is as it was before the
                mini-batch: other devices may go on with it.
        """
        with self._timeline.measure(Stage.SERVER_FORWARD, part.iteration, part.index):
            if part.index == 1:
                self._buffers = [buffer.clone() for buffer in self._layers.buffers()]
            self._dropout.begin(part)
            leaf = activation.detach().to(self._device).requires_grad_(activation.requires_grad)
            labels = labels.to(self._device)
            logits = self._layers(leaf.clone())  # the first layer may work in place, which no leaf allows
            loss = F.cross_entropy(logits, labels)
        with self._timeline.measure(Stage.SERVER_BACKWARD, part.iteration, part.index):
            (loss * part.weight).backward()
            gradient = None if leaf.grad is None else leaf.grad.cpu()
            correct = int((logits.argmax(dim=1) == labels).sum())
            result = Result(gradient, float(loss.detach()), correct)
        if not math.isfinite(result.loss):
            self._refuse(part, f"the loss is {result.loss}")
        reply(result)
        if part.is_last and self._optimizer is not None:
            with self._timeline.measure(Stage.UPDATE, part.iteration):
                self._update(part, self._optimizer)

    def _update(self, part: Part, optimizer: torch.optim.Optimizer) -> None:
        """One step. A finite loss may come with infinite gradients, or running statistics (as of 1e30)."""
        gradients = [own.grad for own in self._layers.parameters() if own.grad is not None]
        buffers = zip(self._layers.buffers(), self._buffers, strict=True)
        changed = [now for now, before in buffers if not torch.equal(now, before)]  # not masks of -inf
        if not _finite([*gradients, *changed]):
            self._refuse(part, "a gradient or a running statistic is not finite")
        optimizer.step()
        optimizer.zero_grad()
        finish(self._device)

    def _refuse(self, part: Part, reason: str) -> NoReturn:
        """Undoes what the mini-batch has done so far: running statistics and gradients."""
        with torch.no_grad():
            for buffer, before in zip(self._layers.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self._layers.zero_grad()
        where = f"epoch {part.epoch}, iteration {part.iteration}, micro-batch {part.index}/{part.count}"
        raise LostError(f"{reason} in {where}: a smaller optimizer.lr may help")

    def snapshot(self) -> tuple[State, State]:
        """Copies of state and momentum, for `restore`."""
        return {key: tensor.clone() for key, tensor in self.state().items()}, self.momentum()

    def restore(self, snapshot: tuple[State, State]) -> None:
        """Forgets what was trained since `snapshot`."""
        state, momentum = snapshot
        self.load(state)
        self._layers.zero_grad()
        load_momentum(self._layers, self._optimizer, momentum)

    def state(self) -> State:
        """Parameters and buffers, on the CPU; may share memory with the live ones."""
        return {key: tensor.cpu() for key, tensor in self._layers.state_dict().items()}

    def load(self, state: State) -> None:
        """Replaces parameters and buffers; the optimiser's momentum stays."""
        self._layers.load_state_dict(state)


def _finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are; told by their sum, which takes a tenth of looking at each."""
    return not tensors or math.isfinite(float(torch.stack([t.sum().double() for t in tensors]).sum()))
