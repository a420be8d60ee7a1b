"""A round's iterations against the selector's prediction, and against plain loops."""

from dataclasses import replace

import numpy as np
import pytest

from pipar_rpc.selector.facts import DeviceFacts, MessageCost
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.simulation.fleet import iterations_of, last_sizes
from pipar_rpc.simulation.training import train
from pipar_rpc.timing.stage_recurrence import iteration_seconds
from tests.support.shared_server import in_rotation, share_cores, together
from tests.support.simulated import CORES, made_up, made_up_facts, stage_seconds, world_and_fleet

DIFFERENT = (
    *("simulation.slowdown=[uniform,0.2,3]", "simulation.uplink=[lognormal,0.7]"),
    *("simulation.downlink=[choice,0.3,1,2]", "simulation.samples=[uniform,0.5,1.5]"),
    *("network.latency_ms=5", "simulation.latency=[uniform,0.1,4]"),
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("facts"))


def whole_epoch(world, fleet):
    return train(world, fleet, iterations_of(fleet, world.kinds), last_sizes(fleet, world.kinds), 0.0)


def as_lists(world, fleet):
    """The iterations of each device, as plain lists."""
    lengths, last = iterations_of(fleet, world.kinds), last_sizes(fleet, world.kinds)
    return [
        [
            stage_seconds(world, fleet, k, int(last[k]) if number == lengths[k] - 1 and last[k] else 10)
            for number in range(lengths[k])
        ]
        for k in range(len(fleet))
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("message_s", [0.0, 0.02])
def test_equal_devices_take_what_the_selector_predicts(tmp_path, count, message_s):
    """Their halves compute at the same times, so that each is slowed down as much as the selector says."""
    options = (f"num_devices={count}", "data.train_size_per_device=20", "network.latency_ms=20")
    plan, world, fleet = world_and_fleet(*options, made_up(tmp_path, message_s, server_updates=False))
    known, job = made_up_facts(message_s, server_updates=False), plan.kinds[0].job
    device = DeviceFacts(known.devices[0].units, 10.0, 25.0, 0.02, 0.02, 10, job.smallest, np.inf)
    predictor = Predictor(device, known.server, known.sizes, count)
    trained = whole_epoch(world, fleet)
    expected = float(predictor.seconds(4)[1])
    assert trained.seconds.tolist() == pytest.approx([2 * expected] * count, rel=1e-9)
    assert trained.work_s == pytest.approx(2 * count * world.kinds[0].shape(10).server_s)
    assert trained.busy_s == pytest.approx(trained.work_s / min(count, CORES))
    once = train(world, fleet, np.ones(count, dtype=int), np.zeros(count, dtype=int), 0.0)
    assert once.seconds[0] == pytest.approx(expected, rel=1e-9)


def test_one_device_takes_what_the_stage_recurrence_says(facts):
    """Of a mini-batch that is smaller, too, and on a device that is three times as slow."""
    options = ("num_devices=1", "simulation.slowdown=[constant,3]", "data.train_size_per_device=7")
    plan, world, fleet = world_and_fleet(*options, facts)
    known, job = made_up_facts(), plan.kinds[0].job
    units = [unit.scaled(3.0) for unit in known.devices[0].units]
    device = DeviceFacts(units, 10.0, 25.0, 0.0, 0.0, 7, job.smallest, np.inf)
    stages = Predictor(device, known.server, known.sizes, 1).stages(min(4, 7 // job.smallest))
    expected = iteration_seconds(stages, min(4, 7 // job.smallest))[1]
    assert whole_epoch(world, fleet).seconds[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cores", [0.4, 1.0, CORES, 100.0])
def test_shared_cores_equal_a_plain_loop(facts, cores):
    _, world, fleet = world_and_fleet("num_devices=9", *DIFFERENT, facts)
    trained = whole_epoch(replace(world, cores=cores), fleet)
    expected, busy, done = share_cores(as_lists(world, fleet), cores)
    assert len(set(expected)) == 9
    assert trained.seconds.tolist() == pytest.approx(expected, rel=1e-9)
    assert (trained.busy_s, trained.served_s) == (
        pytest.approx(busy, rel=1e-9),
        pytest.approx(done, rel=1e-9),
    )


def test_several_server_processes_are_several_loops(facts):
    _, world, fleet = world_and_fleet("num_devices=7", "num_servers=3", *DIFFERENT, facts)
    lists, trained = as_lists(world, fleet), whole_epoch(world, fleet)
    of = [k * 3 // 7 for k in range(7)]  # as `holder_of`
    expected = [share_cores([own for k, own in enumerate(lists) if of[k] == s], CORES) for s in range(3)]
    assert trained.seconds.tolist() == pytest.approx(
        [end for ends, _, _ in expected for end in ends], rel=1e-9
    )
    assert trained.busy_s == pytest.approx(sum(busy for _, busy, _ in expected) / 3, rel=1e-9)


def test_one_half_in_rotation_equals_a_plain_loop(facts):
    options = ("num_devices=6", "strategy=sfl", "sfl.server=shared")
    _, world, fleet = world_and_fleet(*options, *DIFFERENT, facts)
    expected = in_rotation(as_lists(world, fleet))
    assert whole_epoch(world, fleet).seconds.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_merged_half_equals_a_plain_loop(facts):
    options = ("num_devices=6", "simulation.server_half=merged")
    _, world, fleet = world_and_fleet(*options, *DIFFERENT, facts)
    expected = together(as_lists(world, fleet), world.kinds[0].merged_s)
    assert whole_epoch(world, fleet).seconds.tolist() == pytest.approx(expected, rel=1e-9)


def test_devices_that_are_alike_count_as_one(facts):
    """A few kinds of devices: the same as if each were simulated by itself, for own and for merged halves."""
    options = ("num_devices=40", "simulation.slowdown=[choice,0.5,2]", "simulation.uplink=[choice,0.5,1]")
    for half in ("replicated", "merged"):
        _, world, fleet = world_and_fleet(*options, f"simulation.server_half={half}", facts)
        apart = replace(fleet, latency=1 + np.arange(40) * 1e-15)  # all different, by nothing
        one, other = whole_epoch(world, fleet), whole_epoch(world, apart)
        assert one.seconds.tolist() == pytest.approx(other.seconds.tolist(), rel=1e-9)
        assert (one.busy_s, one.work_s) == pytest.approx((other.busy_s, other.work_s), rel=1e-9)


def test_bandwidth_traces_are_followed(facts, tmp_path):
    """A rate that stays the same, written as a trace, changes nothing; one that falls makes it longer."""
    rows = "time_s,uplink_mbps,downlink_mbps\n0,{0},25\n1,{1},25\n"
    (tmp_path / "same.csv").write_text(rows.format(10, 10))
    (tmp_path / "falls.csv").write_text(rows.format(10, 1))
    found = {}
    for name in ("same", "falls"):
        trace = f"simulation.traces=[{tmp_path / name}.csv]"
        for half in ("replicated", "merged"):
            _, world, fleet = world_and_fleet(
                "num_devices=5", *DIFFERENT, trace, f"simulation.server_half={half}", facts
            )
            assert not world.lines.constant
            found[name, half] = whole_epoch(world, fleet).seconds
    for half in ("replicated", "merged"):
        _, world, fleet = world_and_fleet(
            "num_devices=5", *DIFFERENT, f"simulation.server_half={half}", facts
        )
        constant = whole_epoch(world, fleet).seconds
        assert found["same", half].tolist() == pytest.approx(constant.tolist(), rel=1e-9)
        assert (found["falls", half] >= constant * (1 - 1e-9)).all()  # slow devices may be done by then
        assert found["falls", half].sum() > 1.001 * constant.sum()


def test_long_rounds_are_reckoned_from_their_first_iterations(facts):
    options = ("num_devices=50", "data.train_size_per_device=1000")
    _, world, fleet = world_and_fleet(*options, facts)
    every, some = whole_epoch(world, fleet), whole_epoch(replace(world, max_micro_batches=12), fleet)
    assert (every.simulated, some.simulated) == (100, 3)
    assert some.seconds.tolist() == pytest.approx(every.seconds.tolist(), rel=1e-9)
    assert (some.busy_s, some.work_s) == pytest.approx((every.busy_s, every.work_s), rel=1e-9)


@pytest.mark.parametrize("half", ["replicated", "shared", "merged"])
def test_later_iterations_are_those_of_the_devices_that_still_train(facts, half):
    """With as many samples for each they would all train to the end; the server is what they wait for."""
    options = ("num_devices=300", "data.train_size_per_device=200", "simulation.samples=[lognormal,0.5]")
    _, world, fleet = world_and_fleet(*options, f"server.half={half}", facts)
    every = whole_epoch(replace(world, max_micro_batches=10**9), fleet)
    some = whole_epoch(replace(world, max_micro_batches=300 * 4 * 6), fleet)
    assert some.simulated < every.simulated / 3
    assert some.seconds.max() == pytest.approx(every.seconds.max(), rel=0.1)
    assert some.seconds.mean() == pytest.approx(every.seconds.mean(), rel=0.1)


def test_more_of_anything_never_makes_it_worse(facts):
    """Equal devices: faster ones, faster links, fewer of them, more cores and servers are never slower."""

    def seconds(*options):
        _, world, fleet = world_and_fleet(*options, facts)
        return float(whole_epoch(world, fleet).seconds.max())

    for key, values in (
        ("num_devices", (1, 3, 10, 40, 300)),
        ("simulation.slowdown", ("[constant,0.1]", "[constant,1]", "[constant,9]")),
        ("network.uplink_mbps", (100, 10, 1)),
        ("network.latency_ms", (0, 10, 1000)),
        ("simulation.server_cores", (64, 8, 1, 0.5)),
        ("simulation.server_slowdown", (0.5, 1, 20)),
        ("num_servers", (16, 4, 1)),
    ):
        base = () if key == "num_devices" else ("num_devices=32",)
        found = [seconds(*base, f"{key}={value}") for value in values]
        assert found == sorted(found), key
        assert found[0] < found[-1], key


def test_what_a_message_takes_counts_on_the_device(facts):
    _, world, fleet = world_and_fleet("num_devices=1", facts)
    kind = world.kinds[0]
    known = replace(kind.known, message=MessageCost(submit_s=0.5, answer_s=0.25))
    slower = replace(world, kinds=[type(kind)(kind.job, kind.num_samples, known)])
    one, other = whole_epoch(world, fleet).seconds[0], whole_epoch(slower, fleet).seconds[0]
    assert other >= one + 3 * 0.25  # three iterations, for whose first answer the device waits longer
