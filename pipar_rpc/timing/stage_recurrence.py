"""The cost model: how long one pipelined iteration takes, given how long its stages take.

Pure arithmetic (PiPar, section III-C, equations 5-14). Every micro-batch n passes six stages; a stage
starts when its resource is free and its input has arrived:

    T(r) = t(r) + max over the previous stages of T(previous)

    f^c_n  after f^c_{n-1}                 device forward
    u_n    after u_{n-1}, f^c_n            uplink
    f^s_n  after u_n, b^s_{n-1}            server forward
    b^s_n  after f^s_n                     server backward
    d_n    after d_{n-1}, b^s_n            downlink
    b^c_1  after f^c_N, d_1                device backward: only when all forward passes are done
    b^c_n  after b^c_{n-1}, d_n

A resource that serves its queue in order ends job n at C_n + max_{k<=n}(r_k - C_{k-1}): r_k is when job k
arrives, C_k the sum of the first k service times. So a whole iteration is a few running sums and maxima, for
any number of cases at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.timing.timeline import Span, Stage

Array = NDArray[np.float64]
Seconds = float | Array


@dataclass(frozen=True)
class StageTimes:
    """Seconds that micro-batches take in each stage.

    Each is one number for all micro-batches, or an array of shape [..., N] with the micro-batches last; the
    leading dimensions are separate cases. Latencies pass after a transfer without holding the link; `update`
    (the device's optimiser step) has no dimension of micro-batches.
    """

    device_forward: Seconds
    uplink: Seconds
    server_forward: Seconds
    server_backward: Seconds
    downlink: Seconds
    device_backward: Seconds
    uplink_latency: float = 0.0
    downlink_latency: float = 0.0
    update: Seconds = 0.0

    def stages(self, num_micro_batches: int) -> "Stages":
        """Returns for each stage when it ends and how long it lasts, each of shape [..., N]."""
        line = _Line(num_micro_batches)
        forward = line.queue(Stage.DEVICE_FORWARD, 0.0, self.device_forward)
        arrived = line.queue(Stage.UPLINK, forward, self.uplink) + self.uplink_latency
        # Forward and backward pass of a micro-batch follow each other on the server: one job of two parts.
        both = self.server_forward + self.server_backward
        served = line.queue(Stage.SERVER_BACKWARD, arrived, both)
        backward = np.broadcast_to(self.server_backward, served.shape)
        line.stages[Stage.SERVER_FORWARD] = (
            served - backward,
            np.broadcast_to(self.server_forward, served.shape),
        )
        line.stages[Stage.SERVER_BACKWARD] = served, backward
        returned = line.queue(Stage.DOWNLINK, served, self.downlink) + self.downlink_latency
        line.queue(Stage.DEVICE_BACKWARD, np.maximum(returned, forward[..., -1:]), self.device_backward)
        return line.stages


@dataclass(frozen=True)
class UShapeTimes(StageTimes):
    """Seconds in each stage where the labels stay on the device, so that micro-batches cross twice.

    With o for the server half's output on the downlink, t for the device's last units and v for the output's
    gradient on the uplink, the stages after u are

        f^s_n  after u_n, f^s_{n-1}            server forward
        o_n    after o_{n-1}, f^s_n            downlink
        t_1    after f^c_N, o_1                the device's last units
        t_n    after t_{n-1}, o_n
        v_1    after u_N, t_1                  uplink
        v_n    after v_{n-1}, t_n
        b^s_1  after f^s_N, v_1                server backward
        b^s_n  after b^s_{n-1}, v_n
        d_1    after o_N, b^s_1                downlink
        d_n    after d_{n-1}, b^s_n
        b^c_1  after t_N, d_1                  device backward
        b^c_n  after b^c_{n-1}, d_n

    A resource that is free takes whatever has come: no v is there before the last u, so that no b^s is there
    before the last f^s, and so on. The order of the stages is not a choice.
    """

    output_downlink: Seconds = 0.0
    device_tail: Seconds = 0.0
    return_uplink: Seconds = 0.0

    def stages(self, num_micro_batches: int) -> "Stages":
        """Returns for each stage when it ends and how long it lasts; see `StageTimes.stages`."""
        line, up, down = _Line(num_micro_batches), self.uplink_latency, self.downlink_latency

        def then(stage: Stage, arrived: Array, resource: Array, seconds: Seconds) -> Array:
            """A stage on a resource whose last job before ends as `resource` says."""
            return line.queue(stage, np.maximum(arrived, resource[..., -1:]), seconds)

        forward = line.queue(Stage.DEVICE_FORWARD, 0.0, self.device_forward)
        sent = line.queue(Stage.UPLINK, forward, self.uplink)
        passed = line.queue(Stage.SERVER_FORWARD, sent + up, self.server_forward)
        output = line.queue(Stage.OUTPUT_DOWNLINK, passed, self.output_downlink)
        tail = then(Stage.DEVICE_TAIL, output + down, forward, self.device_tail)
        back = then(Stage.RETURN_UPLINK, tail, sent, self.return_uplink)
        served = then(Stage.SERVER_BACKWARD, back + up, passed, self.server_backward)
        returned = then(Stage.DOWNLINK, served, output, self.downlink)
        then(Stage.DEVICE_BACKWARD, returned + down, tail, self.device_backward)
        return line.stages


Stages = dict[Stage, tuple[Array, Array]]


class _Line:
    """Stages of N micro-batches, each of which serves its queue in order."""

    def __init__(self, num_micro_batches: int) -> None:
        self._shape = (num_micro_batches,)
        self.stages: Stages = {}

    def queue(self, stage: Stage, ready: Seconds, seconds: Seconds) -> Array:
        """Adds a stage; returns when it ends."""
        shape = np.broadcast_shapes(np.shape(ready), np.shape(seconds), self._shape)
        lasting = np.broadcast_to(seconds, shape)
        ends = ends_in_order(ready, lasting)
        self.stages[stage] = ends, lasting
        return ends


def ends_in_order(ready: Seconds, seconds: Array) -> Array:
    """When a resource that serves its queue in order ends each job.

    Args:
        ready: when each job arrives, shape [..., N].
        seconds: how long each takes, shape [..., N]; or how much there is to do, if `ready` is measured so.
    """
    total = np.cumsum(seconds, axis=-1)
    return np.asarray(total + np.maximum.accumulate(ready - (total - seconds), axis=-1))


def schedule(times: StageTimes, num_micro_batches: int) -> Iterator[Span]:
    """Yields the spans of one iteration that starts at 0; for a single case."""
    spans = []
    for stage, (ends, seconds) in times.stages(num_micro_batches).items():
        for n, (end, lasting) in enumerate(zip(ends.tolist(), seconds.tolist(), strict=True), start=1):
            spans.append(Span(stage, 0, n, end - lasting, end))
    return iter(spans)


def iteration_seconds(times: StageTimes, num_micro_batches: int) -> Array:
    """Computes T(b^c_N): seconds from the first forward pass to the end of the last backward pass and update.

    Returns:
        Shape [...], without dimensions for a single case.
    """
    ends, _ = times.stages(num_micro_batches)[Stage.DEVICE_BACKWARD]
    return np.asarray(ends[..., -1] + times.update)
