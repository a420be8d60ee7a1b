"""What disturbs a measurement: it is repeated, left out, and told."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

from pipar_rpc.base.machine_load import OtherLoad, busy_seconds
from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.testbed import steadiness
from pipar_rpc.testbed.steadiness import MOST_BLOCKS, Repeats, Steadiness, Waits
from pipar_rpc.testbed.unit_timer import time_units
from tests.support.clock import Clock
from tests.support.loops import CPU

SPEC = ModelSpec("vgg5", Norm.group, channels=1, image_size=8, num_classes=4)
QUIET = [9.0, 1.0, 1.02, 1.0]  # the first run of a block never counts


def repeats(**blocks):
    """Blocks by batch size; of three runs that count."""
    sizes = {int(name.removeprefix("of_")): own for name, own in blocks.items()}
    found = Repeats(list(sizes), 3)
    for size, own in sizes.items():
        for block in own:
            found.add(size, block, [0.0] * 4)
    return found


def test_steady_runs_are_not_repeated():
    found = repeats(of_1=[QUIET], of_5=[[9.0, 2.0, 2.0, 2.05]])
    assert found.to_repeat() == []
    assert found.steadiness().reasons() == []
    assert found.steadiness().largest == pytest.approx(0.0)
    assert found.counted() == {1: [1, 3], 5: [1, 2]}  # the faster half, the fastest first


def test_runs_that_differ_are_repeated_until_those_that_count_agree():
    """A neighbour during the first block: the quiet runs of the second are half of all."""
    disturbed = [9.0, 2.0, 1.0, 1.9]
    found = repeats(of_1=[disturbed])
    assert found.to_repeat() == [1]
    assert found.steadiness().reasons() == ["runs of 1 samples differ by 90%"]
    found.add(1, QUIET, [0.0] * 4)
    assert found.to_repeat() == []
    assert found.counted() == {1: [2, 5, 7]}
    assert found.steadiness().largest == pytest.approx(0.0)


def test_repeating_ends():
    found = repeats(of_1=[[9.0, 1.0, 2.0, 3.0]] * (MOST_BLOCKS - 1))
    assert found.to_repeat() == [1]
    found.add(1, [9.0, 1.5, 2.0, 3.0], [0.0] * 4)
    assert found.to_repeat() == []
    assert found.steadiness().reasons() == ["runs of 1 samples differ by 100%"]


def test_more_samples_take_longer_or_something_was_wrong():
    """As with another process on the cores: 50 images took longer than 100, and all runs alike."""
    found = repeats(of_10=[[1.0] * 4], of_50=[[6.0] * 4], of_100=[[5.0] * 4])
    assert found.to_repeat() == [50]
    assert found.steadiness().reasons() == ["50 samples take longer than 100 (6 s, 5 s)"]
    found.add(50, [2.5] * 4, [0.0] * 4)
    assert found.to_repeat() == []
    assert found.steadiness().seconds == {10: 1.0, 50: 2.5, 100: 5.0}


def test_runs_that_waited_for_a_core_are_left_out():
    found = Repeats([1], 4)
    found.add(1, [1.0, 2.0, 1.0, 2.0, 1.1], [0.0, 0.5, 0.0, 0.5, 0.0])
    assert found.counted() == {1: [2, 4]}
    assert found.steadiness().waited == ()
    found = Repeats([1], 4)
    found.add(1, [1.0] * 5, [0.0, 0.5, 0.5, 0.5, 0.0])
    assert found.to_repeat() == [1]  # one run is too few
    assert found.steadiness().reasons() == ["runs of 1 samples waited for a core"]


class Machine:
    """A clock that goes on with every look, twice as fast before the runs after some of them.

    Args:
        disturbed: numbers of the runs after which the next one is disturbed.
    """

    def __init__(self, *disturbed):
        self.now, self.step, self.runs, self.disturbed = 0.0, 1.0, 0, disturbed

    def clock(self):
        self.now += self.step
        return self.now

    def on_run(self):
        self.runs += 1
        self.step = 2.0 if self.runs in self.disturbed else 1.0

    def measure(self, patch, limit_s=math.inf):
        patch.setattr(steadiness, "time", SimpleNamespace(thread_time=lambda: self.now))
        return time_units(SPEC, [2, 4], 3, CPU, self.clock, self.on_run, limit_s=limit_s)


def test_a_disturbed_block_does_not_change_the_times(monkeypatch):
    """Of the real loop: two of three runs of 2 samples are disturbed, and so these are timed again."""
    quiet, disturbed, limited = Machine(), Machine(1, 3), Machine(1, 3)
    expected = quiet.measure(monkeypatch)
    found = disturbed.measure(monkeypatch)
    assert (quiet.runs, disturbed.runs) == (2 * 4, 3 * 4)
    assert found == expected
    assert found.steadiness.reasons() == []
    found = limited.measure(monkeypatch, limit_s=0.0)
    assert limited.runs == 2 * 4
    assert found.steadiness.reasons()[0] == "runs of 2 samples differ by 100%"


def test_waiting_is_what_is_missing_of_a_threads_cpu_time():
    waits = Waits(CPU, time.perf_counter)
    with waits.noted():
        time.sleep(0.02)
    assert waits.shares[0] > 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:  # with several threads nothing is known
        waits = Waits(CPU, time.perf_counter)
        with waits.noted():
            time.sleep(0.02)
    finally:
        torch.set_num_threads(threads)
    assert waits.shares == [0.0]


def test_what_two_measurements_know_is_joined():
    first = Steadiness({1: 0.2}, {1: 1.0}, (1,))
    both = first.joined(Steadiness({5: 0.01}, {5: 0.5}))
    assert both.largest == 0.2
    assert both.reasons() == [
        "runs of 1 samples differ by 20%",
        "1 samples take longer than 5 (1 s, 0.5 s)",
        "runs of 1 samples waited for a core",
    ]
    assert Steadiness().largest == 0.0


def test_the_share_that_others_have_of_the_cores():
    clock, spent = Clock(), SimpleNamespace(all=50.0, own=3.0)
    load = OtherLoad(lambda: spent.all, lambda: spent.own, clock, cores=2)
    assert load.share() == 0.0  # no time has passed
    clock.now, spent.all, spent.own = clock.now + 10, 50 + 14.0, 3 + 9.0
    assert load.share() == pytest.approx(5 / 20)
    spent.own = 3 + 15.0  # the kernel counts the one in ticks, and the other exactly
    assert load.share() == 0.0
    assert busy_seconds() > 0
