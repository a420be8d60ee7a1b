"""The table of `python -m pipar_rpc.simulate`: what each job would take."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipar_rpc.results.csv_table import write_table
from pipar_rpc.results.runs import shown
from pipar_rpc.results.terminal import table


class SimulatedJob(NamedTuple):
    """One row: a job. Times are emulated seconds.

    Attributes:
        job: number within a sweep.
        strategy: name of the strategy.
        server_half: "replicated", "shared" or "merged"; "none" with federated learning.
        model, data, network, testbed: names of the job's parts.
        num_devices: K.
        devices_trained: devices that trained in an epoch; mean over the epochs.
        devices_lost: devices that had dropped out at the end of an epoch; mean over the epochs.
        num_servers: number of server processes.
        server_cores: server halves that each of them computes at a time as fast as one alone.
        split_point, num_micro_batches: P and N of devices without settings of their own.
        batch_size: their B.
        iterations: iterations of a device in an epoch; mean over the devices that trained.
        simulated_iterations: largest number of iterations of a round that were simulated one by one.
        epochs: number of epochs.
        epoch_time_s, epoch_time_p95_s: from an epoch's first round to the end of its last average; median and
            95th percentile over the epochs.
        iteration_time_s: a device's time in training rounds for each iteration; mean over the devices.
        own_time_s, own_time_p95_s: a device's training and uploads in an epoch, without waiting for others;
            median and 95th percentile over devices and epochs.
        server_idle_s: epoch time in which a server process does not compute; mean over processes and epochs.
        device_idle_s: epoch time in which a device does not compute; mean over the devices that trained.
        server_utilisation: share of the server processes' cores that is used, 0..1.
        device_utilisation, uplink_utilisation, downlink_utilisation: share of an epoch for which devices
            compute, and links carry micro-batches; of a median device.
        bottleneck: resource that is needed longest in an epoch: "device", "uplink", "server" or "downlink".
        server_bound_devices: number of devices at a time from which on the server bounds an epoch; None if it
            never does.
        best_split_point, best_num_micro_batches: P and N with the shortest epoch; None without a search.
        best_gain: by how many times the epoch is shorter with them, on a sample of the devices.
        computed_in_s: real seconds that the simulation took, without recording and search.
    """

    job: int
    strategy: str
    server_half: str
    model: str
    data: str
    network: str
    testbed: str
    num_devices: int
    devices_trained: float
    devices_lost: float
    num_servers: int
    server_cores: float
    split_point: int
    num_micro_batches: int
    batch_size: int
    iterations: float
    simulated_iterations: int
    epochs: int
    epoch_time_s: float
    epoch_time_p95_s: float
    iteration_time_s: float
    own_time_s: float
    own_time_p95_s: float
    server_idle_s: float
    device_idle_s: float
    server_utilisation: float
    device_utilisation: float
    uplink_utilisation: float
    downlink_utilisation: float
    bottleneck: str
    server_bound_devices: float | None
    best_split_point: int | None
    best_num_micro_batches: int | None
    best_gain: float | None
    computed_in_s: float

    @property
    def method(self) -> str:
        """Strategy, server half and number of server processes, as pictures name them."""
        half = "" if self.server_half in {"none", "replicated"} else f" {self.server_half}"
        servers = "1 server" if self.num_servers == 1 else f"{self.num_servers} servers"
        return f"{self.strategy}{half}" + ("" if self.server_half == "none" else f", {servers}")


HEADINGS = {
    "strategy": "strategy",
    "server_half": "half",
    "num_devices": "K",
    "num_servers": "servers",
    "split_point": "P",
    "num_micro_batches": "N",
    "epoch_time_s": "epoch s",
    "epoch_time_p95_s": "p95",
    "iteration_time_s": "iteration s",
    "own_time_s": "own s",
    "own_time_p95_s": "p95",
    "server_idle_s": "server idle s",
    "device_idle_s": "device idle s",
    "server_utilisation": "server used",
    "bottleneck": "bottleneck",
    "server_bound_devices": "server bound K",
    "best_split_point": "best P",
    "best_num_micro_batches": "best N",
    "best_gain": "gain",
}
LEGEND = (
    "epoch: median and 95th percentile over the epochs; own: a device's training and uploads in an epoch,\n"
    "over devices and epochs; idle: mean; server bound K: number of devices at a time from which on the\n"
    "server bounds an epoch; gain: epoch as it is / with the best P and N"
)


def as_table(rows: Sequence[SimulatedJob]) -> list[str]:
    """Lines of the table, with a legend."""
    lines = [[_shown(getattr(row, name)) for name in HEADINGS] for row in rows]
    return [*table([*HEADINGS.values()], lines), LEGEND]


def write_csv(rows: Sequence[SimulatedJob], path: Path) -> None:
    """Writes all columns, six digits each; raises OSError."""
    write_table(path, SimulatedJob._fields, rows)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return shown(value)
    return "" if value is None else str(value)
