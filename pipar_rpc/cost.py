"""The cost model: how long one pipelined iteration takes, given how long its stages take.

Pure arithmetic (PiPar, section III-C, equations 5-14). Every micro-batch n passes six stages; a stage
starts when its resource is free and its input is there:

    T(r) = t(r) + max over the previous stages of T(previous)

    f^c_n  after f^c_{n-1}                 device forward
    u_n    after u_{n-1}, f^c_n            uplink
    f^s_n  after u_n, b^s_{n-1}            server forward
    b^s_n  after f^s_n                     server backward
    d_n    after d_{n-1}, b^s_n            downlink
    b^c_1  after f^c_N, d_1                device backward: only when all forward passes are done
    b^c_n  after b^c_{n-1}, d_n
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipar_rpc.timeline import Span, Stage


@dataclass(frozen=True)
class StageTimes:
    """Seconds that one micro-batch takes in each stage."""

    device_forward: float
    uplink: float
    server_forward: float
    server_backward: float
    downlink: float
    device_backward: float


def schedule(times: StageTimes, num_micro_batches: int) -> Iterator[Span]:
    """The spans of one iteration of `num_micro_batches` equal micro-batches, starting at 0; O(N)."""
    device = uplink = server = downlink = 0.0  # when each resource becomes free
    arrivals = []
    for n in range(1, num_micro_batches + 1):
        start, device = device, device + times.device_forward
        yield Span(Stage.DEVICE_FORWARD, 0, n, start, device)
        start = max(uplink, device)
        uplink = start + times.uplink
        yield Span(Stage.UPLINK, 0, n, start, uplink)
        start = max(server, uplink)
        middle = start + times.server_forward
        server = middle + times.server_backward
        yield Span(Stage.SERVER_FORWARD, 0, n, start, middle)
        yield Span(Stage.SERVER_BACKWARD, 0, n, middle, server)
        start = max(downlink, server)
        downlink = start + times.downlink
        yield Span(Stage.DOWNLINK, 0, n, start, downlink)
        arrivals.append(downlink)
    for n, arrival in enumerate(arrivals, start=1):
        start = max(device, arrival)
        device = start + times.device_backward
        yield Span(Stage.DEVICE_BACKWARD, 0, n, start, device)


def iteration_seconds(times: StageTimes, num_micro_batches: int) -> float:
    """T(b^c_N): seconds from the first forward pass to the end of the last backward pass."""
    return max(span.end for span in schedule(times, num_micro_batches))
