"""Spans of time in which resources worked, and the sums from which all metrics are made.

The training code is handed a Timeline and adds spans to it; it never computes a metric itself.
Times are seconds of `time.monotonic()` of the process that measured them. On a GPU they are known once the
work is done: until then, they are moments.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from pipar_rpc.base.gpu_clock import Moment


class Stage(StrEnum):
    """What a span of time was spent on. Those with a symbol are the stages of the paper's pipeline."""

    DEVICE_FORWARD = "device_forward"  # f^c
    DEVICE_ENCODE = "device_encode"  # of an activation, by its codec
    UPLINK = "uplink"  # u
    SERVER_DECODE = "server_decode"
    SERVER_FORWARD = "server_forward"  # f^s
    OUTPUT_ENCODE = "output_encode"  # of the server half's output, where the labels stay on the device
    OUTPUT_DOWNLINK = "output_downlink"
    OUTPUT_DECODE = "output_decode"
    DEVICE_TAIL = "device_tail"  # both passes of the device's last units, and the loss
    RETURN_ENCODE = "return_encode"  # of the output's gradient
    RETURN_UPLINK = "return_uplink"
    RETURN_DECODE = "return_decode"
    SERVER_BACKWARD = "server_backward"  # b^s
    SERVER_ENCODE = "server_encode"  # of an activation's gradient, by its codec
    DOWNLINK = "downlink"  # d
    DEVICE_DECODE = "device_decode"
    DEVICE_BACKWARD = "device_backward"  # b^c
    UPDATE = "update"  # optimiser step, on either side
    UPLOAD = "upload"  # a model on the uplink
    DOWNLOAD = "download"  # a model on the downlink
    AGGREGATE = "aggregate"  # federated averaging on the server


UPLINK_STAGES = frozenset({Stage.UPLINK, Stage.RETURN_UPLINK, Stage.UPLOAD})
DOWNLINK_STAGES = frozenset({Stage.OUTPUT_DOWNLINK, Stage.DOWNLINK, Stage.DOWNLOAD})
COMPUTE = frozenset(Stage) - UPLINK_STAGES - DOWNLINK_STAGES
NO_ITERATION = -1  # for models that travel, and their average
_STAGES = tuple(Stage)


class Span(NamedTuple):
    """One interval of one stage.

    `iteration` counts from 0 within the epoch, or is `NO_ITERATION`; `micro_batch` counts from 1, and 0 means
    the whole iteration.
    """

    stage: Stage
    iteration: int
    micro_batch: int
    start: float
    end: float


class Timeline:
    """Collects spans; adding one is a list append, safe from any thread."""

    def __init__(self) -> None:
        self._spans: list[tuple[Stage, int, int, float | Moment, float | Moment]] = []

    def add(self, span: Span) -> None:
        """Records a span whose start and end are already known, such as a transfer on an emulated link."""
        self._spans.append(span)

    @contextmanager
    def measure(
        self,
        stage: Stage,
        iteration: int,
        micro_batch: int = 0,
        now: Callable[[], float | Moment] = time.monotonic,
    ) -> Iterator[None]:
        """Records the block as one span of computation.

        Args:
            stage: stage of the computation.
            iteration: see `Span`.
            micro_batch: see `Span`.
            now: clock; that of the stream to which the block gives its work.
        """
        start = now()
        yield
        self._spans.append((stage, iteration, micro_batch, start, now()))

    def drain(self) -> list[Span]:
        """Hands over all spans recorded so far and starts empty; waits for moments that have not passed."""
        spans, self._spans = self._spans, []
        return [
            Span(stage, iteration, micro_batch, _seconds(start), _seconds(end))
            for stage, iteration, micro_batch, start, end in spans
        ]


def _seconds(time_of: float | Moment) -> float:
    return time_of.seconds() if isinstance(time_of, Moment) else time_of


def pack(spans: Sequence[Span]) -> Tensor:
    """Packs spans into one float64 tensor of shape [n, 5], which travels fast."""
    rows = [(_STAGES.index(span.stage), *span[1:]) for span in spans]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 5)


def unpack(packed: Tensor, offset_s: float) -> list[Span]:
    """Unpacks spans; `offset_s`, by which the clock of their process is ahead, is taken off their times."""
    return [
        Span(_STAGES[int(stage)], int(iteration), int(micro_batch), start - offset_s, end - offset_s)
        for stage, iteration, micro_batch, start, end in packed.tolist()
    ]


@dataclass(frozen=True, slots=True)
class Busy:
    """How long a stage ran in all, and in how many spans."""

    seconds: float
    count: int


def sum_by_stage(spans: Iterable[Span]) -> dict[Stage, Busy]:
    """Sums up seconds and number of spans of each stage that occurs."""
    seconds: dict[Stage, float] = defaultdict(float)
    counts: dict[Stage, int] = defaultdict(int)
    for span in spans:
        seconds[span.stage] += span.end - span.start
        counts[span.stage] += 1
    return {stage: Busy(seconds[stage], counts[stage]) for stage in seconds}


def union_seconds(spans: Iterable[Span]) -> float:
    """Returns the length of the union of the spans' intervals: time in which at least one of them ran."""
    total, covered_until = 0.0, float("-inf")
    for start, end in sorted((span.start, span.end) for span in spans):
        total += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total
