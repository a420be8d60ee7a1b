"""Rounds of a simulation: models on their way, who takes part, who drops out."""

from dataclasses import replace

import numpy as np
import pytest

from pipar_rpc.aggregation.participation import build_participation
from pipar_rpc.base.errors import PeerError
from pipar_rpc.simulation.epochs import Epochs
from pipar_rpc.simulation.job import simulate
from tests.support.simulated import NODE, made_up, simulation_plan, world_and_fleet


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("facts"), server_updates=False)


def epochs_of(*options, average_s=0.0):
    plan, world, fleet = world_and_fleet(*options)
    world = replace(world, average_s=average_s)
    return world, list(Epochs(plan, world, fleet).run())


def model_s(world, rate):
    return world.kinds[0].model_mbit / rate


def test_an_epoch_is_the_slowest_device_and_its_models(facts):
    """Federated learning by hand: computing, the upload, the average on rank 0, and the download."""
    options = ("num_devices=8", "strategy=fl", "simulation.slowdown=[choice,1,4]", "seed=5", "epochs=2")
    world, (first, second) = epochs_of(*options, facts, average_s=1e-6)
    kind = world.kinds[0]
    whole, last = kind.shape(10).device_s, kind.shape(5).device_s
    slowest = 4 * (2 * whole + last)
    averaged = 8 * 1e-6 * kind.averaged_bytes(server_halves=True)
    expected = slowest + model_s(world, 10) + averaged + model_s(world, 25)
    assert first.seconds == pytest.approx(expected, rel=1e-9)
    assert (first.busy_s, first.work_s) == (pytest.approx(averaged), pytest.approx(averaged))
    assert sorted(set((first.own_s - model_s(world, 10)).round(9).tolist())) == [
        round(slowest / 4, 9),
        round(slowest, 9),
    ]
    assert second.seconds == pytest.approx(first.seconds)


def test_rounds_move_models_more_often(facts):
    """Iterations 1, 2 and 3, the last one smaller, and three times models."""
    base = ("num_devices=3", "pipeline.num_micro_batches=1")
    world, (once,) = epochs_of(*base, facts)
    _, (thrice,) = epochs_of(*base, "aggregation.every=1", facts)
    _, (never,) = epochs_of(*base, "aggregation.every=0", facts)
    moving = model_s(world, 10) + model_s(world, 25)
    assert once.seconds == pytest.approx(never.seconds + moving, rel=1e-9)
    assert thrice.seconds == pytest.approx(never.seconds + 3 * moving, rel=1e-3)  # updates end in between
    assert never.iterations.tolist() == thrice.iterations.tolist() == [3, 3, 3]


def test_a_round_ends_when_the_server_has_updated_too(tmp_path):
    """Thousands of halves update at the same time when the last device has its last gradient."""
    options = ("num_devices=5000", "aggregation.every=0", "data.train_size_per_device=10")
    world, (epoch,) = epochs_of(*options, made_up(tmp_path))
    update_s = world.kinds[0].shape(10).server_update_s
    assert epoch.seconds == pytest.approx(epoch.busy_s, rel=0.01)
    assert epoch.seconds > epoch.training_s.max() + 0.9 * 5000 * update_s / world.cores - 1.0


def test_devices_in_turn_take_their_times_together(facts):
    world, (epoch,) = epochs_of("num_devices=4", "strategy=sl", facts)
    assert len(set(epoch.training_s.tolist())) == 1
    moving = model_s(world, 10) + model_s(world, 25)
    assert epoch.seconds == pytest.approx(4 * (epoch.training_s[0] + moving), rel=1e-9)


def test_those_train_whom_the_training_would_choose(facts):
    options = ("num_devices=20", "participation.per_round=3", "epochs=4", "seed=7")
    plan = simulation_plan(*options)
    policy = build_participation(plan.settings.participation, 7, 20)
    _, found = epochs_of(*options, facts)
    for number, epoch in enumerate(found, start=1):
        chosen = [int(k) + 1 for k in np.flatnonzero(epoch.iterations)]
        assert chosen == list(policy.choose(number, range(1, 21)))


def test_fewer_devices_at_a_time_are_sooner_done(facts):
    _, (few,) = epochs_of("num_devices=500", "participation.fraction=0.02", facts)
    _, (many,) = epochs_of("num_devices=500", facts)
    _, (ten,) = epochs_of("num_devices=10", facts)
    assert few.seconds == pytest.approx(ten.seconds)
    assert few.seconds < many.seconds


def test_what_bounds_rounds_of_a_few_devices_is_what_they_need_in_each(facts):
    """Other devices in each round: the links of one are needed in one alone, and those of an epoch in all."""
    options = ("num_devices=3000", "aggregation.every=1", "network.uplink_mbps=0.01", facts)
    few = ("participation.per_round=4", "data.train_size_per_device=250")
    row = simulate(simulation_plan(*options, *few), NODE).row
    assert row.bottleneck == "uplink"
    assert row.server_utilisation < 0.5


def test_devices_drop_out_and_come_back(facts):
    options = ("num_devices=400", "epochs=6", "simulation.drop_probability=0.25")
    _, gone = epochs_of(*options, facts)
    lost = [epoch.lost for epoch in gone]
    assert lost == sorted(lost)
    assert 60 < lost[0] < 140  # 100 are expected
    assert lost[-1] == pytest.approx(400 * (1 - 0.75**6), abs=60)
    assert (gone[0].iterations == 3).sum() == 400 - lost[0]  # whoever drops out does not end the round
    assert (gone[0].iterations[gone[0].iterations < 3] > 0).sum() > 0
    _, back = epochs_of(*options, "simulation.return_probability=1", facts)
    assert max(epoch.lost for epoch in back) < 160


def test_a_loss_is_waited_for_until_it_is_noticed(facts):
    options = ("num_devices=50", "simulation.drop_probability=0.5")
    _, (at_once,) = epochs_of(*options, facts)
    _, (late,) = epochs_of(*options, "simulation.notice_s=1000", facts)
    assert at_once.seconds < 900
    assert 1000 <= late.seconds < 1000 + at_once.seconds


def test_devices_leave_on_purpose_and_too_few_are_an_error(facts):
    options = ("num_devices=3", "epochs=3", "fault.leave.2=2", "simulation.return_probability=1")
    _, found = epochs_of(*options, facts)
    assert [(epoch.iterations > 0).tolist() for epoch in found] == [[True] * 3, *[[True, False, True]] * 2]
    with pytest.raises(PeerError, match=r"2 devices are left in round 2, fault\.min_devices=3"):
        epochs_of(*options, "fault.min_devices=3", facts)
    with pytest.raises(PeerError, match=r"0 devices are left in round 1, fault\.min_devices=1"):
        epochs_of("num_devices=3", "epochs=1", "simulation.drop_probability=1", facts)


def test_a_seed_repeats_bit_for_bit_and_another_does_not(facts):
    options = (
        *("num_devices=30", "epochs=3", "participation.fraction=0.5", "simulation.drop_probability=0.1"),
        *("simulation.slowdown=[lognormal,0.5]", "simulation.uplink=[uniform,0.5,2]"),
        *("simulation.scan=true", "simulation.return_probability=0.5"),
    )
    rows, own = [], []
    for seed in (1, 1, 2):
        found = simulate(simulation_plan(*options, f"seed={seed}", facts), NODE)
        rows.append(found.row._replace(computed_in_s=0.0))
        own.append(found.own_s)
    assert rows[0] == rows[1]
    assert own[0] == own[1]
    assert rows[0].epoch_time_s != rows[2].epoch_time_s


def test_a_device_is_the_same_however_many_there_are(facts):
    options = ("simulation.slowdown=[lognormal,0.5]", "simulation.uplink=[choice,1,2,3]")
    _, _, few = world_and_fleet("num_devices=5", *options, facts)
    _, _, many = world_and_fleet("num_devices=50", *options, facts)
    assert many.slowdown[:5].tolist() == few.slowdown.tolist()
    assert many.uplink[:5].tolist() == few.uplink.tolist()


def test_time_scale_does_not_change_emulated_times(facts):
    """Of devices and links; the server is not scaled, and here it is almost nothing."""
    options = ("num_devices=2", "testbed.slowdown=2", "simulation.server_slowdown=1e-6", "strategy=fl")
    rows = [simulate(simulation_plan(*options, f"testbed.time_scale={s}", facts), NODE).row for s in (1, 10)]
    assert rows[0].epoch_time_s == pytest.approx(rows[1].epoch_time_s, rel=1e-3)
