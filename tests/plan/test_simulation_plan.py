"""What a simulation's configuration means, and what is said about one that is wrong."""

import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.testbed.distribution import Distribution
from tests.support.simulated import simulation_plan


def message(*overrides):
    with pytest.raises(UserError) as caught:
        simulation_plan(*overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_kinds_are_the_devices_with_settings_of_their_own():
    own = ("devices.overrides.7.batch_size=5", "devices.overrides.3.pipeline.num_micro_batches=2")
    plan = simulation_plan("num_devices=100000", "num_servers=8", *own)
    assert (plan.num_devices, plan.num_servers, plan.kind_of) == (100000, 8, {3: 1, 7: 2})
    assert [(kind.job.batch_size, kind.job.num_micro_batches) for kind in plan.kinds] == [
        *((10, 4), (10, 2), (5, 4))
    ]
    assert [kind.num_samples for kind in plan.kinds] == [25, 25, 25]


def test_more_samples_than_there_are_may_be_asked_for():
    plan = simulation_plan("num_devices=9", "data.train_size_per_device=100000")
    assert plan.kinds[0].num_samples == 100000
    plan = simulation_plan("num_devices=8", "data.train_size=400", "data.train_size_per_device=null")
    assert plan.kinds[0].num_samples == 50


def test_distributions_are_plain_data():
    plan = simulation_plan("simulation.uplink=[choice,1,2.5]", "simulation.slowdown=[lognormal,0]")
    assert plan.spec.factors["uplink"] == Distribution("choice", (1.0, 2.5))
    assert plan.spec.factors["slowdown"] == Distribution("lognormal", (0.0,))
    assert plan.spec.factors["samples"] == Distribution()


@pytest.mark.parametrize(
    ("half", "shared", "merged"),
    [("null", False, False), ("replicated", False, False), ("shared", True, False), ("merged", True, True)],
)
def test_the_server_half_is_part_of_the_strategy(half, shared, merged):
    strategy = simulation_plan(f"simulation.server_half={half}").settings.strategy
    assert (strategy.shared_half, strategy.merged, strategy.pipelined) == (shared, merged, True)


FORMS = "must be [constant,F], [uniform,LOW,HIGH], [lognormal,SIGMA] or [choice,F1,F2,...], F 1e-9..1e9"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["simulation.uplink=[normal,1]"], f"simulation.uplink=[normal,1]: {FORMS}"),
        (["simulation.uplink=[uniform,1]"], f"simulation.uplink=[uniform,1]: {FORMS}"),
        (["simulation.uplink=[]"], f"simulation.uplink=[]: {FORMS}"),
        (["simulation.samples=[choice]"], f"simulation.samples=[choice]: {FORMS}"),
        (["simulation.latency=[constant,0]"], f"simulation.latency=[constant,0]: {FORMS}"),
        (["simulation.latency=[choice,1,1e10]"], f"simulation.latency=[choice,1,10000000000.0]: {FORMS}"),
        (["simulation.slowdown=[lognormal,500]"], f"simulation.slowdown=[lognormal,500]: {FORMS}"),
        (["simulation.slowdown=[lognormal,fast]"], f"simulation.slowdown=[lognormal,fast]: {FORMS}"),
        (
            ["simulation.slowdown=[uniform,3,1]"],
            "simulation.slowdown=[uniform,3,1]: must be [uniform,LOW,HIGH]",
        ),
        (["simulation.drop_probability=2"], "simulation.drop_probability=2.0: must be 0..1"),
        (["simulation.notice_s=-1"], "simulation.notice_s=-1.0: must be >= 0 seconds"),
        (
            ["simulation.server_cores=0"],
            "simulation.server_cores=0.0: must be > 0, or null for this machine's",
        ),
        (["simulation.server_slowdown=0"], "simulation.server_slowdown=0.0: must be > 0"),
        (["simulation.max_micro_batches=0"], "simulation.max_micro_batches=0: must be >= 1"),
        (["simulation.traces=[none.csv]"], "simulation.traces=none.csv: must be a readable file"),
        (["simulation.server_profile=none.yaml"], "simulation.server_profile=none.yaml: must be a readable"),
        (
            ["simulation.server_profile=a.yaml", "simulation.facts=b.yaml"],
            "simulation.server_profile=a.yaml: must be null with simulation.facts",
        ),
        (["num_devices=3", "num_servers=4"], "num_servers=4: must be 1..3, the number of devices"),
        (
            ["num_devices=3", "devices.overrides.4.batch_size=3"],
            "devices.overrides.4: devices are numbered 1..3",
        ),
        (["pipeline.labels=device"], "pipeline.labels=device: must be server in a simulation"),
        (["server.order.name=priority"], "server.order.name=priority: must be auto or separate in a sim"),
        (["selector.method=paper"], "selector.method=paper: must be exhaustive in a simulation"),
        (
            ["strategy=fl", "simulation.server_half=merged"],
            "simulation.server_half=merged: must be null with",
        ),
        (
            ["num_servers=2", "simulation.server_half=shared"],
            "num_servers=2: must be 1 with simulation.server_h",
        ),
        (
            ["simulation.server_half=merged", "devices.overrides.2.pipeline.num_micro_batches=2"],
            "devices.overrides.2.pipeline.num_micro_batches=2: must be 4 as of the others",
        ),
        (
            ["simulation.server_half=merged", "devices.overrides.2.pipeline.split_point=1"],
            "devices.overrides.2.pipeline.split_point=1: must be 2 as on device 1",
        ),
        (
            ["num_devices=100000", "data.train_size_per_device=null"],
            "data.train_size_per_device=null: must be a number (data=synthetic has 40000 training samples",
        ),
        (["pipeline.split_point=9"], "pipeline.split_point=9: must be 1..5"),
    ],
)
def test_what_is_wrong_is_one_line(overrides, line):
    assert message(*overrides).startswith(line)
