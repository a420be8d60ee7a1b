"""Infers the profile of the paper's Raspberry Pi 3B from its published times.

    python -m pipar_rpc.profiler resnet18 --output here.yaml
    python -m launch.infer here.yaml --output inferred.yaml

The profile says how fast a device is in each unit of a network. Two published figures
(pipar_rpc/results/published.yaml) say how fast the paper's board was in the first unit and in all others
together: an epoch of PiPar with P = 1, and how many times longer one of federated learning took. Within the
first unit, and among the others, proportions are those of the profile that is given. So the result is an
inference, not a measurement: it takes links and server to cost no more than their transfers, and the deep
units to be slower by one factor.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from scipy.optimize import brentq

from launch.script import run_script
from pipar_rpc.base.errors import ConfigError, first_line
from pipar_rpc.base.states import num_bytes
from pipar_rpc.models import build_meta, summarise
from pipar_rpc.results.published import PublishedEpoch, read_published
from pipar_rpc.testbed.device_profile import DeviceProfile, read_profile
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import StageTimes, iteration_seconds

BATCH_SIZE, ITERATIONS = 100, 100  # of an epoch of the paper


def seconds(unit: UnitTimes) -> float:
    """Returns the seconds of one iteration of a whole mini-batch."""
    return unit.iteration_s(BATCH_SIZE)


def pipelined_seconds(first: UnitTimes, activation_bytes: float, published: PublishedEpoch) -> float:
    """Returns the seconds of an iteration of PiPar with P = 1, on a server that takes no time."""
    parts = published.num_micro_batches
    samples = round(BATCH_SIZE / parts)
    mbit = activation_bytes * BATCH_SIZE / parts * 8e-6
    times = StageTimes(
        device_forward=interpolate(first.forward, samples),
        uplink=mbit / published.uplink_mbps,
        server_forward=0.0,
        server_backward=0.0,
        downlink=mbit / published.downlink_mbps,
        device_backward=interpolate(first.backward, samples),
        update=first.update,
    )
    return float(iteration_seconds(times, parts))


def first_factor(first: UnitTimes, activation_bytes: float, published: PublishedEpoch) -> float:
    """How many times slower the board's first unit is: that with which PiPar takes the published time."""

    def too_long(factor: float) -> float:
        return pipelined_seconds(first.scaled(factor), activation_bytes, published) - target

    target = published.epoch_s / ITERATIONS
    parts = published.num_micro_batches
    return float(brentq(too_long, 0.0, 2 * parts * target / seconds(first)))


def infer(profile: DeviceProfile, published: PublishedEpoch) -> DeviceProfile:
    network = build_meta(profile.spec)
    activation_bytes = summarise(network, profile.spec)[0].activation_bytes
    first, *others = profile.units
    first = first.scaled(first_factor(first, activation_bytes, published))
    model_mbit = num_bytes(network.state_dict()) * 8e-6
    moving = model_mbit / published.uplink_mbps + model_mbit / published.downlink_mbps
    federated = (published.epoch_s * published.over_fl - moving) / ITERATIONS
    factor = (federated - seconds(first)) / sum(map(seconds, others))
    return replace(profile, units=[first, *(unit.scaled(factor) for unit in others)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.infer", description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path, help="of python -m pipar_rpc.profiler, from any machine")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    profile = read_profile(args.profile)
    known = read_published().epochs
    if profile.model not in known or (profile.image_size, profile.channels) != (32, 3) or profile.freeze:
        what = f"of {' or '.join(known)}, images of 3x32x32, nothing frozen: only their times are published"
        raise ConfigError("profile", args.profile, what)
    inferred = infer(profile, known[profile.model])
    origin = "published epoch times, by python -m launch.infer"
    inferred.machine = {"inferred_from": origin, "proportions_from": profile.machine.get("name", "")}
    try:
        inferred.write(args.output, f"Not measured: inferred from {origin}.")
    except OSError as error:
        what = f"a file that can be written ({first_line(error)})"
        raise ConfigError("--output", args.output, what) from error
    first, *others = map(seconds, inferred.units)
    print(f"{args.output}: {BATCH_SIZE} images: first unit {first:.2f} s, the others {sum(others):.2f} s")


if __name__ == "__main__":
    run_script("launch.infer", main)
