"""What a simulation has beyond a training, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.plan.emulation_schema import TraceEnd
from pipar_rpc.plan.model_plan import Network
from pipar_rpc.plan.schema import Config
from pipar_rpc.plan.simulation_schema import FACTORS
from pipar_rpc.testbed.bandwidth_trace import read_trace
from pipar_rpc.testbed.device_profile import read_profile
from pipar_rpc.testbed.distribution import Distribution
from pipar_rpc.testbed.link import RateTrace
from pipar_rpc.testbed.unit_times import UnitTimes


@dataclass(frozen=True)
class SimulationSpec:
    """What a simulation has beyond a training; times are emulated seconds.

    Attributes:
        factors: distributions of factors, by name: "slowdown", "uplink", "downlink", "latency", "samples".
        traces: rates of uplink and downlink, in real time, one pair for each trace; each device follows one.
        trace_shift_s: largest time at which a device begins its trace.
        drop_probability: probability that a device which trains drops out, in each round.
        return_probability: probability that one that has dropped out comes back, before each round.
        notice_s: time until it is noticed that a device has dropped out.
        server_cores: server halves that a server process computes at a time; None for what is measured.
        server_slowdown: factor of the server's recorded times.
        server_units: recorded times of the network's units on the server; empty for none.
        facts: file of what a run's selector measured; None for none.
        scan: whether to search for the best P and N.
        max_micro_batches: largest number of micro-batches that are simulated one by one in a round.
    """

    factors: Mapping[str, Distribution]
    traces: tuple[tuple[RateTrace, RateTrace], ...]
    trace_shift_s: float
    drop_probability: float
    return_probability: float
    notice_s: float
    server_cores: float | None
    server_slowdown: float
    server_units: tuple[UnitTimes, ...]
    facts: Path | None
    scan: bool
    max_micro_batches: int


def spec_of(config: Config, network: Network) -> SimulationSpec:
    """Returns what a simulation has beyond a training; raises UserError for files that cannot be used.

    Args:
        config: checked configuration.
        network: summary of the network.
    """
    own = config.simulation
    return SimulationSpec(
        factors={name: own.distribution(name) for name in FACTORS},
        traces=tuple(_traces(config)),
        trace_shift_s=own.trace_shift_s,
        drop_probability=own.drop_probability,
        return_probability=own.return_probability,
        notice_s=own.notice_s,
        server_cores=own.server_cores,
        server_slowdown=own.server_slowdown,
        server_units=_server_units(own.server_profile, network),
        facts=None if own.facts is None else Path(own.facts),
        scan=own.scan,
        max_micro_batches=own.max_micro_batches,
    )


def _traces(config: Config) -> list[tuple[RateTrace, RateTrace]]:
    loop, scale = config.network.trace_end is TraceEnd.loop, config.testbed.time_scale
    found = []
    for name in config.simulation.traces:
        try:
            up, down = read_trace(Path(name), loop)
        except ConfigError as error:
            raise UserError(str(error).replace("network.trace=", "simulation.traces=", 1)) from error
        found.append((up.scaled(scale), down.scaled(scale)))
    return found


def _server_units(path: str | None, network: Network) -> tuple[UnitTimes, ...]:
    if path is None:
        return ()
    try:
        profile = read_profile(Path(path))
        profile.check(Path(path), network.spec, [unit.name for unit in network.units])
    except ConfigError as error:
        key = "simulation.server_profile"
        raise UserError(str(error).replace("testbed.profile", key, 1)) from error
    return profile.times([unit.trained for unit in network.units])
