"""The stage recurrence by brute force."""

from typing import Any

import numpy as np

from pipar_rpc.timing.stage_recurrence import StageTimes


def simulate(t: StageTimes, n: int) -> float:
    """Brute force: every task waits for its predecessors, looked up by name."""
    done: dict[tuple[str, int], float] = {}
    latency = {"u": t.uplink_latency, "d": t.downlink_latency}

    def seconds(times: Any, i: int) -> float:
        return float(np.broadcast_to(times, n)[i - 1])

    def run(name: str, i: int, times: Any, *previous: tuple[str, int]) -> None:
        ready = [done[p] + latency.get(p[0], 0) * (p[0] != name) for p in previous if p[1] > 0]
        done[name, i] = seconds(times, i) + max(ready, default=0)

    for i in range(1, n + 1):
        run("fc", i, t.device_forward, ("fc", i - 1))
    for i in range(1, n + 1):
        run("u", i, t.uplink, ("u", i - 1), ("fc", i))
        run("fs", i, t.server_forward, ("u", i), ("bs", i - 1))
        run("bs", i, t.server_backward, ("fs", i))
        run("d", i, t.downlink, ("d", i - 1), ("bs", i))
    for i in range(1, n + 1):
        run("bc", i, t.device_backward, ("bc", i - 1) if i > 1 else ("fc", n), ("d", i))
    return done["bc", n] + float(t.update)
