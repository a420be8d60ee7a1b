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


def schedule(times: StageTimes, num_micro_batches: int) -> Iterator[Span]:
    """Yields the spans of one iteration that starts at 0; for a single case."""
    spans = []
    for stage, (ends, seconds) in _stages(times, num_micro_batches).items():
        for n, (end, lasting) in enumerate(zip(ends.tolist(), seconds.tolist(), strict=True), start=1):
            spans.append(Span(stage, 0, n, end - lasting, end))
    return iter(spans)


def iteration_seconds(times: StageTimes, num_micro_batches: int) -> Array:
    """Computes T(b^c_N): seconds from the first forward pass to the end of the last backward pass and update.

    Returns:
        Shape [...], without dimensions for a single case.
    """
    ends, _ = _stages(times, num_micro_batches)[Stage.DEVICE_BACKWARD]
    return np.asarray(ends[..., -1] + times.update)


def _stages(times: StageTimes, n: int) -> dict[Stage, tuple[Array, Array]]:
    """Returns for each stage when it ends and how long it lasts, each of shape [..., N]."""
    stages: dict[Stage, tuple[Array, Array]] = {}

    def queue(stage: Stage, ready: Seconds, seconds: Seconds) -> Array:
        lasting = np.broadcast_to(seconds, np.broadcast_shapes(np.shape(ready), np.shape(seconds), (n,)))
        total = np.cumsum(lasting, axis=-1)
        ends = total + np.maximum.accumulate(ready - (total - lasting), axis=-1)
        stages[stage] = ends, lasting
        return ends

    forward = queue(Stage.DEVICE_FORWARD, 0.0, times.device_forward)
    arrived = queue(Stage.UPLINK, forward, times.uplink) + times.uplink_latency
    # Forward and backward pass of a micro-batch follow each other on the server: one job of two parts.
    served = queue(Stage.SERVER_BACKWARD, arrived, times.server_forward + times.server_backward)
    backward = np.broadcast_to(times.server_backward, served.shape)
    stages[Stage.SERVER_FORWARD] = served - backward, np.broadcast_to(times.server_forward, served.shape)
    stages[Stage.SERVER_BACKWARD] = served, backward
    returned = queue(Stage.DOWNLINK, served, times.downlink) + times.downlink_latency
    queue(Stage.DEVICE_BACKWARD, np.maximum(returned, forward[..., -1:]), times.device_backward)
    return stages
