"""What the server finds out about itself before the training: how fast it is, alone and under load.

Everything is measured on networks of its own, as on the devices (`profiling`).
"""

import logging
import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from pipar_rpc.base.gpu import main_stream, open_stream
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.threads import open_pool
from pipar_rpc.compression.coding import Coded
from pipar_rpc.models import ModelSpec, build_model
from pipar_rpc.privacy.dpsgd import timed_gradients
from pipar_rpc.privacy.gradients import PLAIN
from pipar_rpc.selector.facts import ServerFacts
from pipar_rpc.testbed.steadiness import Steadiness
from pipar_rpc.testbed.unit_timer import PART, run_once, time_units, timers
from pipar_rpc.training.exchange import Process, Reply, Result

log = logging.getLogger(__name__)


def warn_if_disturbed(who: str, found: Steadiness) -> None:
    """Says so if other work disturbed what was measured."""
    if reasons := found.reasons():
        told = "selector: %s was disturbed while it was measured, and the choice may be wrong: %s"
        log.warning(told, who, "; ".join(reasons))


def profile_server(
    spec: ModelSpec,
    sizes: Sequence[int],
    runs: int,
    device: torch.device,
    halves: int,
    private: bool = False,
) -> ServerFacts:
    """Times the server by itself, and under the load of `halves` networks at the same time.

    Args:
        spec: network to time.
        sizes: sizes of micro-batches.
        runs: number of runs of the whole network for each size.
        device: torch device on which server halves compute.
        halves: number of server halves that there will be.
        private: whether they are trained by DP-SGD.
    """
    alone, steadiness = time_units(spec, sizes, runs, device, private=private)
    warn_if_disturbed("the server", steadiness)
    cores = os.cpu_count() or 1
    at_once = min(halves, 2 * cores)
    most = at_once if device.type == "cuda" else min(at_once, cores)  # more is a run alone that was disturbed
    crowded = _crowded_seconds(spec, sizes, runs, device, at_once, private)
    together = {}
    for size, seconds in crowded.items():
        by_itself = sum(unit.forward[size] + unit.backward[size] for unit in alone)
        together[size] = min(float(most), max(1.0, at_once * by_itself / seconds))
    return ServerFacts(alone, together)


def _crowded_seconds(
    spec: ModelSpec, sizes: Sequence[int], runs: int, device: torch.device, at_once: int, private: bool
) -> dict[int, float]:
    """Forward and backward pass of the whole network, while `at_once` of them compute; means by size."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        built = [build_model(spec).to(device) for _ in range(at_once)]
        streams = [open_stream(device) for _ in built]
        networks = [
            timers(network, device, time.perf_counter, private=private, stream=stream)
            for network, stream in zip(built, streams, strict=True)
        ]
        inputs = spec.make_input(max(sizes), device)
        main_stream(device).finish()  # which has made networks and inputs

        def work(number: int, size: int) -> None:
            with streams[number].used():
                for _ in range(1 + runs):
                    run_once(networks[number], inputs[:size])

        with open_pool("profiling", at_once) as pool:
            for size in sizes:
                for done in [pool.submit(work, number, size) for number in range(at_once)]:
                    done.result()
    times = [unit.times() for network in networks for unit in network]
    return {size: sum(unit.forward[size] + unit.backward[size] for unit in times) / at_once for size in sizes}


def computing_half(spec: ModelSpec, size: int, device: torch.device, private: bool = False) -> Process:
    """A server half that computes the whole network for `size` samples, whatever it gets.

    Making it and using it draws from torch's own generator.
    """
    stream = open_stream(device)
    with stream.alone():
        network = build_model(spec).to(device).train()
        gradients = timed_gradients(network) if private else PLAIN
        inputs = spec.make_input(size, device)

    def process(part: Part, activation: Coded, labels: Tensor | None, reply: Reply) -> None:
        with stream.used():
            with gradients.watched():
                outputs = network(inputs)
            outputs.sum().backward()  # gradients add up, as within a mini-batch; no update
            gradients.after(PART)
            answer = Result(torch.zeros(activation.gradient_bytes or 0, dtype=torch.uint8), 0.0, 0)
            reply(stream.when_done(lambda: answer))

    return process


def empty_half(part: Part, activation: Coded, labels: Tensor | None, reply: Reply) -> None:
    """A server half that answers at once: what is left is what a micro-batch costs besides computing."""
    reply(Result(torch.zeros(activation.gradient_bytes or 0, dtype=torch.uint8), 0.0, 0))
