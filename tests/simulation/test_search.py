"""The best P and N, where the server becomes the bottleneck, and the figures of a row."""

from dataclasses import replace

import numpy as np
import pytest

from pipar_rpc.selector.choose import choose
from pipar_rpc.selector.facts import DeviceFacts
from pipar_rpc.simulation.bounds import server_bound
from pipar_rpc.simulation.epochs import Epochs
from pipar_rpc.simulation.job import simulate
from pipar_rpc.simulation.scan import best, scan
from tests.support.simulated import NODE, made_up, made_up_facts, simulation_plan, world_and_fleet


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("facts"), server_updates=False)


@pytest.mark.parametrize(
    "network", ["network.uplink_mbps=0.05", "network.uplink_mbps=null", "network.uplink_mbps=0.5"]
)
def test_with_equal_devices_it_is_what_the_selector_chooses(facts, network):
    """Models are moved once in three iterations; N is one of those that are tried."""
    options = ("num_devices=4", "data.train_size_per_device=30", network)
    plan, world, fleet = world_and_fleet(*options, facts)
    job, known = plan.kinds[0].job, made_up_facts(server_updates=False)
    rates = (link.rate.mbps[0] for link in (job.uplink, job.downlink))
    device = DeviceFacts(known.devices[0].units, *rates, 0.0, 0.0, 10, job.smallest, 3)
    chosen = choose([device] * 4, known.server, known.sizes)[0]
    found = scan(plan, world, fleet)
    shortest = best(found)
    cuts = {own[:2]: own.epoch_s for own in found}
    for candidate in chosen:
        if candidate.cut in cuts:
            assert cuts[candidate.cut] >= 3 * candidate.total_s * (1 - 1e-9)
    assert shortest.epoch_s <= 3 * chosen[0].total_s * 1.011  # of both, fewer micro-batches within 1 % count


def test_strategies_leave_less_to_choose(facts):
    cuts = {}
    for strategy in ("fl", "sl", "sfl", "pipar"):
        plan, world, fleet = world_and_fleet(f"strategy={strategy}", facts)
        cuts[strategy] = [own[:2] for own in scan(plan, world, fleet)]
    assert cuts["fl"] == []
    assert cuts["sl"] == cuts["sfl"] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert {(1, 1), (4, 5), (5, 1)} <= set(cuts["pipar"])
    assert (5, 2) not in cuts["pipar"]


@pytest.mark.parametrize("half", ["replicated", "shared", "merged"])
def test_from_some_number_of_devices_on_the_server_bounds_an_epoch(facts, half):
    """Far below it, more devices change nothing; far above it, an epoch takes what the server needs."""
    slow = "network.uplink_mbps=0.05"
    options = (f"simulation.server_half={half}", "aggregation.every=0", slow, facts)
    _, world, fleet = world_and_fleet("num_devices=4", *options)
    bound = server_bound(world, fleet)
    assert bound is not None

    def epoch_s(count):
        plan, own, devices = world_and_fleet(f"num_devices={count}", *options)
        return next(Epochs(plan, own, devices).run()).seconds

    many = int(40 * bound)
    assert epoch_s(2 * many) / epoch_s(many) == pytest.approx(2.0, rel=0.1)
    assert epoch_s(max(1, int(bound / 20))) == pytest.approx(epoch_s(1), rel=0.2)


def test_more_cores_and_servers_move_the_bound_and_no_server_has_none(facts):
    def bound(*options):
        _, world, fleet = world_and_fleet("num_devices=8", *options, facts)
        return server_bound(world, fleet)

    one = bound()
    assert bound("simulation.server_cores=8") == pytest.approx(4 * one)
    assert bound("num_servers=4") == pytest.approx(4 * one)
    assert bound("simulation.server_slowdown=2") < one
    assert bound("strategy=fl") is None
    assert bound("strategy=sl") is None


def test_idle_and_used_times_add_up(facts):
    options = ("num_devices=64", "simulation.slowdown=[lognormal,0.3]", "simulation.scan=true", "seed=3")
    found = simulate(simulation_plan(*options, facts), NODE, number=4)
    row = found.row
    assert (row.job, row.num_devices, row.devices_trained, row.iterations) == (4, 64, 64, 3)
    assert row.own_time_s < row.own_time_p95_s < row.epoch_time_s == row.epoch_time_p95_s
    assert 0 < row.server_utilisation <= 1
    busy_s = row.epoch_time_s - row.server_idle_s
    assert row.server_utilisation * row.epoch_time_s <= busy_s * (1 + 1e-9)
    assert row.bottleneck == max(found.busy_s, key=lambda name: found.busy_s[name])
    assert found.busy_s["server"] == pytest.approx(row.server_utilisation * row.epoch_time_s)
    assert row.best_gain >= 1 - 1e-9
    assert len(found.own_s) == 64
    assert {(cut.split_point, cut.num_micro_batches) for cut in found.cuts} >= {(2, 4), (5, 1)}


def test_the_selector_has_the_best_cut_simulated(facts):
    options = ("num_devices=8", "network.uplink_mbps=0.3", "selector.profile_iterations=1")
    row = simulate(simulation_plan(*options, facts), NODE).row
    assert (row.split_point, row.num_micro_batches) == (row.best_split_point, row.best_num_micro_batches)
    assert row.best_gain == pytest.approx(1.0)


def test_a_server_half_as_fast_is_twice_as_busy(facts):
    def busy(*options):
        plan, world, fleet = world_and_fleet("num_devices=2", *options, facts)
        return next(Epochs(plan, replace(world, average_s=0.0), fleet).run()).work_s

    assert busy("simulation.server_slowdown=2") == pytest.approx(2 * busy())
    assert np.isfinite(busy("simulation.server_cores=3"))
