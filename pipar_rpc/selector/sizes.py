"""What units and micro-batches need: memory, bytes on their way, and the time of codecs on the server."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipar_rpc.base.states import num_bytes
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.models import ModelCodec
from pipar_rpc.models import ModelSpec, UnitSummary, build_meta, held_bytes, summarise
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.facts import Crossing, UnitSizes
from pipar_rpc.testbed.unit_timer import Coder, sizes_to_time, time_units
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.stage_recurrence import Array

Size = Callable[[Sequence[int], torch.dtype], int]


def crossings(
    jobs: Sequence[DeviceJob], units: Sequence[UnitSummary], runs: int, here: torch.device
) -> list[Crossing]:
    """What crosses for each device; devices with the same codecs and batch size share it.

    Args:
        jobs: jobs of the devices.
        units: units of their network.
        runs: number of runs that are timed for each batch size.
        here: torch device on which server halves compute.
    """
    known: dict[str, Crossing] = {}
    for job in jobs:
        if (key := _key(job)) not in known:
            known[key] = _crossing(job, units, _server_times(job.model, job.coding, job, runs, here))
    return [known[_key(job)] for job in jobs]


def _key(job: DeviceJob) -> str:
    return repr((job.coding, job.batch_size, job.smallest))


def _server_times(
    spec: ModelSpec, coding: CodingSpec, job: DeviceJob, runs: int, here: torch.device
) -> Sequence[UnitTimes]:
    coder = Coder.of(coding, server=True)
    if coder is None:
        return ()
    return time_units(spec, sizes_to_time(job.batch_size, job.smallest), runs, here, coder=coder).units


def _crossing(job: DeviceJob, units: Sequence[UnitSummary], server: Sequence[UnitTimes]) -> Crossing:
    coding, dtype = Coding(job.coding), torch.get_default_dtype()

    def table(size: Size) -> Array:
        counts = range(job.batch_size + 1)
        return np.array([[float(size((b, *unit.output_shape), dtype)) for b in counts] for unit in units])

    return Crossing(table(coding.activation_bytes), table(coding.gradient_bytes), server)


def unit_sizes(spec: ModelSpec, codec: ModelCodec, optimizer_copies: float = 1) -> list[UnitSizes]:
    """What each unit needs on the network and in memory; nothing is computed.

    Args:
        spec: network.
        codec: codec of models.
        optimizer_copies: state of the optimiser as a multiple of the unit's.
    """
    network = build_meta(spec)
    units = zip(summarise(network, spec), held_bytes(network, spec), network, strict=True)
    return [
        UnitSizes(
            activation_bytes=unit.activation_bytes,
            state_bytes=num_bytes(layers.state_dict()),
            held_bytes=held,
            trained=unit.trained,
            sent_bytes=codec.num_bytes(layers.state_dict(), True),
            optimizer_bytes=int(optimizer_copies * num_bytes(layers.state_dict())),
        )
        for unit, held, layers in units
    ]
