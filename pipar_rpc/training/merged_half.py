"""Algorithm 2 with one server half that computes the micro-batches of all devices as one batch.

Feature merging of MergeSFL (Liao, Xu, Xu, Wang, Yao and Qiao, "MergeSFL: Split Federated Learning with
Feature Merging and Batch Size Regulation", ICDE 2024) and the concatenated activations of SCALA (Yang and
Liu, "SCALA: Split Federated Learning with Concatenated Activations and Logit Adjustments", 2024), without
what these do besides: neither batch sizes nor logits are adjusted. Of one iteration, let S be the devices
that take part, B_k the mini-batch of device k, B_kn its n-th micro-batch with activations a_kn, and w the
weights of the server half. For n = 1, 2, ... there is one forward and one backward pass over the
concatenation of a_kn over all k in S that have an n-th micro-batch. With

    L_k = 1/|B_k| sum of loss(i) over i in B_k                the mean loss of device k's own mini-batch
    L   = sum of |B_k|/|B| L_k over k in S,  |B| = sum of |B_k| over k in S

- the server half is updated once in an iteration, by dL/dw, which the passes add up: each sample counts
  1/|B|, as in one mini-batch of all devices' samples;
- device k gets |B|/|B_k| dL/da_kn. Without batch statistics this is dL_k/da_kn, the gradient of its own mean
  loss, as from a server half of its own: who else takes part does not change the size of its steps.

How the papers scale the gradients that go back could not be checked; the second rule is this package's
choice. Where a loss divides by something else than samples, |.| is what it divides by. Batch norm sees the
merged micro-batches, so that statistics are those of all devices' samples, and the loss of one device reaches
the activations of another through them. Dropout masks are those of each device's own micro-batch.
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipar_rpc.base.errors import LostError, PeerError, UserError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded
from pipar_rpc.models import DropoutStreams
from pipar_rpc.timing.timeline import Span, Stage
from pipar_rpc.training.exchange import Reply, Result
from pipar_rpc.training.finite_check import FiniteCheck, not_finite
from pipar_rpc.training.server_half import ServerHalf


class _Handed(NamedTuple):
    """A micro-batch of one device that is to be computed with those of the others."""

    half: "MergedHalf"
    part: Part
    activation: Coded
    labels: Tensor
    reply: Reply
    done: Future[None]


class _Arrived(NamedTuple):
    """The same with its activation as decoded, a leaf."""

    handed: _Handed
    leaf: Tensor


class _Computed(NamedTuple):
    """What the forward pass has made of it: the device's rows of the outputs, and their mean loss."""

    handed: _Handed
    leaf: Tensor
    outputs: Tensor
    loss: Tensor


class MergedHalf(ServerHalf):
    """The server half as one device sees it; `for_device` makes those of the others.

    Args:
        merging: computation that all devices share.
        arguments: arguments of `ServerHalf`; gradients stay as autograd leaves them.
    """

    def __init__(self, merging: "Merging", *arguments: Any) -> None:
        super().__init__(*arguments)
        self._merging = merging

    def process(
        self, part: Part, activation: Coded, labels: Tensor | None, reply: Reply
    ) -> Future[None] | None:
        """Hands a micro-batch in, see `ServerHalf.process`; `Merging.compute` replies and ends the future."""
        assert labels is not None
        done: Future[None] = Future()
        with self._stream.used():
            there = activation.moved(self._stream.to_device)
        self._merging.hand_in(_Handed(self, part, there, labels, reply, done))
        return done

    def _undo(self) -> None:
        super()._undo()
        self._merging.forget()


class Merging:
    """Computes the micro-batches that the devices have handed in as one batch.

    A device whose numbers are not finite is refused, with a LostError in its future, and the batch is
    computed without it. What it has contributed to the mini-batch before stays, and |B| too, as with a device
    that leaves on the way. What fails in what they share fails for good, and for all of them.
    """

    def __init__(self) -> None:
        self._handed: list[_Handed] = []
        self._whole = 0.0  # |B| of the present mini-batch
        self._check: FiniteCheck | None = None  # of the present mini-batch; None before it begins
        self._latest: _Handed | None = None  # the one computed in it whose device has updated most often
        self._failed: Exception | None = None

    def forget(self) -> None:
        """Undoes a mini-batch whose devices are all gone before its end; to be called between rounds."""
        if self._check is not None:
            self._check.undo()
        for one in self._handed:
            _end(one, PeerError("its round has ended"))
        self._handed, self._check, self._latest = [], None, None

    def hand_in(self, handed: _Handed) -> None:
        """Adds a micro-batch; calls come from the thread that calls `compute`."""
        self._handed.append(handed)

    def compute(self, last: bool) -> None:
        """Computes what has been handed in.

        Args:
            last: whether no micro-batch of the iteration follows, so that the half is updated.
        """
        handed, self._handed = self._handed, []
        known = [*handed, *filter(None, [self._latest])]  # their halves share one stream
        try:
            with known[0].half._stream.used() if known else nullcontext():
                if handed and self._failed is None:
                    self._pass(handed)
                if last and self._failed is None:
                    self._update(handed)
        except Exception as error:
            self._failed, self._check, self._latest = error, None, None
        for one in handed:
            _end(one, self._failed)

    def _pass(self, handed: Sequence[_Handed]) -> None:
        """Runs both passes over the devices' n-th micro-batches, and replies."""
        arrived = [_Arrived(one, one.half._arrived(one.part, one.activation)) for one in handed]
        bad = [own for own in arrived if not torch.isfinite(own.leaf.detach()).all()]
        computed = self._forward(_without(arrived, bad, "the activation is not finite"))
        if not computed:
            return
        batch = [own.handed for own in computed]
        shares = [one.part.whole / self._whole if self._whole else 0.0 for one in batch]
        weighted = zip(computed, shares, strict=True)
        with _measured(batch, Stage.SERVER_BACKWARD):
            losses = [own.loss * (own.handed.part.weight * share) for own, share in weighted]
            torch.stack(losses).sum().backward()
            batch[0].half._stream.finish()
        for own, share in zip(computed, shares, strict=True):
            _answer(own, share)
        known = [] if self._latest is None else [self._latest]
        self._latest = max(known + batch, key=lambda one: one.part.step)

    def _forward(self, arrived: list[_Arrived]) -> list[_Computed]:
        """Runs the forward pass; again, without the devices whose loss is not finite, if there are any."""
        begins = self._check is None
        while arrived:
            before = FiniteCheck(arrived[0].handed.half._layers)
            self._check = self._check or before
            if begins:
                self._whole = sum(own.handed.part.whole for own in arrived)
            with _measured([own.handed for own in arrived], Stage.SERVER_FORWARD):
                computed = _outputs(arrived)
                finite = [math.isfinite(float(own.loss.detach())) for own in computed]
            if all(finite):
                return computed
            before.undo_statistics()
            bad = [own for own, fine in zip(arrived, finite, strict=True) if not fine]
            arrived = _without(arrived, bad, "the loss is not finite")
        return []

    def _update(self, handed: Sequence[_Handed]) -> None:
        """The optimiser step, if anything was computed in the mini-batch and there is anything to update."""
        check, latest, self._check, self._latest = self._check, self._latest, None, None
        if check is None or latest is None or not latest.half._optimizer.trains:
            return
        with _measured(handed, Stage.UPDATE, whole_iteration=True):
            try:
                check.gradients(latest.part)
            except LostError as error:
                raise UserError(
                    f"{error}; the half is that of all devices, so none can leave for it"
                ) from None
            latest.half._optimizer.step(latest.part)
            latest.half._stream.finish()


def _outputs(arrived: Sequence[_Arrived]) -> list[_Computed]:
    """The forward pass over all devices' activations, and each device's mean loss."""
    half = arrived[0].handed.half
    sizes = [len(leaf) for _, leaf in arrived]
    streams = [(one.half._dropout, one.part, size) for (one, _), size in zip(arrived, sizes, strict=True)]
    DropoutStreams.begin_merged(streams)
    outputs = half._layers(torch.cat([leaf for _, leaf in arrived]))  # a copy: layers may work in place
    computed = []
    for (one, leaf), rows in zip(arrived, outputs.split(sizes), strict=True):
        loss = half._criterion.of_part(rows, one.labels.to(half._device), one.part.weight)
        computed.append(_Computed(one, leaf, rows, loss))
    return computed


def _answer(computed: _Computed, share: float) -> None:
    """Replies with the gradient of the device's own mean loss: the merged one over the device's share."""
    one, leaf, outputs, loss = computed
    if leaf.grad is not None:
        leaf.grad = leaf.grad / share if share else torch.zeros_like(leaf)
    correct = one.half._criterion.num_correct(outputs, one.labels.to(outputs.device))
    gradient = one.half._leaving(one.part, one.activation, leaf)
    mean = float(loss.detach())
    one.reply(one.half._stream.when_done(lambda: Result(gradient, mean, correct)))


def _without(arrived: Sequence[_Arrived], bad: Sequence[_Arrived], reason: str) -> list[_Arrived]:
    """Refuses devices; returns what the others have handed in."""
    refused = {id(own) for own in bad}
    for own in bad:
        _end(own.handed, not_finite(own.handed.part, reason))
    return [own for own in arrived if id(own) not in refused]


def _end(handed: _Handed, error: Exception | None = None) -> None:
    """Ends a micro-batch, unless it has ended."""
    if handed.done.done():
        return
    if error is None:
        handed.done.set_result(None)
    else:
        handed.done.set_exception(error)


@contextmanager
def _measured(batch: Sequence[_Handed], stage: Stage, whole_iteration: bool = False) -> Iterator[None]:
    """Records the block as a span of each of the devices for which it computes."""
    start = time.monotonic()
    yield
    end = time.monotonic()
    for one in batch:
        number = 0 if whole_iteration else one.part.index
        one.half._timeline.add(Span(stage, one.part.iteration, number, start, end))
