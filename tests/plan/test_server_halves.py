"""Server halves and their order: which combinations there are, and the older key."""

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.dotted import Choice
from pipar_rpc.folder_names import served_name
from pipar_rpc.plan.same_training import DEFAULTS, of_old
from pipar_rpc.plan.strategies import ORDERS
from pipar_rpc.transport.server_order import ORDERS as OPENED
from tests.support.configuration import message, plan

MERGED, SHARED, PIPAR = "server.half=merged", "server.half=shared", "strategy=pipar"
DPSGD = ("model.norm=group", "privacy.dpsgd.noise_multiplier=1")


@pytest.mark.parametrize(
    ("overrides", "half", "order"),
    [
        ((), "replicated", "separate"),
        (("strategy=sl",), "shared", "separate"),
        (("strategy=fl",), "none", "none"),
        (("strategy=sfl", "sfl.server=shared"), "shared", "rotation"),
        (("strategy=sfl", SHARED), "shared", "rotation"),
        (("strategy=sfl", SHARED, "sfl.server=shared"), "shared", "rotation"),
        ((SHARED, "server.order.name=rotation"), "shared", "rotation"),
        (("sfl.server=shared",), "replicated", "separate"),
        ((MERGED,), "merged", "together"),
        (("server.order.name=priority",), "replicated", "priority"),
        (("num_servers=2", "server.order.name=separate", "num_devices=3"), "replicated", "separate"),
        (("server.order._target_=builtins.dict", SHARED), "shared", "builtins.dict"),
    ],
    ids=str,
)
def test_what_there_is(overrides, half, order):
    labels = plan(*overrides).labels
    assert (labels.server_half, labels.server_order) == (half, order)


def test_the_folders_of_a_sweep_say_what_there_is():
    def ends(*overrides):
        return served_name(_root_=hydra_compose.compose(overrides)[0])

    assert ends() == ""
    assert ends(MERGED) == "_merged"
    assert ends("server.order.name=priority") == "_priority"
    assert ends(SHARED, "server.order._target_=own_server_order.FirstCome") == "_shared_FirstCome"


def test_the_orders_are_those_that_can_be_opened():
    assert {*ORDERS} < OPENED.keys()
    chosen = plan("server.order._target_=builtins.dict", "server.order.args.x=1").settings.strategy.order
    assert chosen == Choice(target="builtins.dict", args={"x": 1})


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("strategy=fl", MERGED), "server.half=merged: must be replicated but with strategy=sfl or pipar"),
        (("strategy=sl", SHARED), "server.half=shared: must be replicated but with strategy=sfl or pipar"),
        (("server.half=one",), "server.half: Invalid value 'one'"),
        (
            ("strategy=sfl", MERGED, "sfl.server=shared"),
            "server.half=merged: must be shared or left out with sfl.server=shared",
        ),
        (
            (MERGED, "pipeline.labels=device"),
            "pipeline.labels=device: must be server with server.half=merged",
        ),
        ((MERGED, *DPSGD), "privacy.dpsgd.noise_multiplier=1.0: must be null with server.half=merged"),
        (
            (MERGED, "devices.overrides.2.privacy.dpsgd.target_epsilon=1", DPSGD[0]),
            "devices.overrides.2.privacy.dpsgd.target_epsilon=1.0: must be null with server.half=merged",
        ),
        (
            (MERGED, "num_servers=2", "num_devices=3"),
            "num_servers=2: must be 1 where the devices share one server half (strategy=pipar, server",
        ),
        (
            (SHARED, "selector.profile_iterations=1"),
            "selector.profile_iterations=1: must be 0 with strategy=pipar, server.half=shared: P is chosen",
        ),
        (
            (MERGED, "devices.overrides.2.pipeline.split_point=2"),
            "devices.overrides.2.pipeline.split_point=2: must be 1 as on device 1: strategy=pipar,",
        ),
        (
            (SHARED, "privacy.updates.noise_multiplier=1", "model.norm=group"),
            "privacy.updates.noise_multiplier=1.0: must be null with server.half=shared: all devices train",
        ),
        (
            ("server.order.name=rotatoin",),
            "server.order.name=rotatoin: must be a known server order: did you",
        ),
        (("server.order.name=together",), "server.order.name=together: must be a known server order: "),
        (("server.order.name=custom",), "server.order._target_=null: must be the dotted name of a function"),
        (("server.order._target_=my.Order",), "server.order._target_=my.Order: must be the dotted name of"),
        (
            ("server.order.args.x=1",),
            "server.order.args={'x': 1}: must be empty but with server.order.name=",
        ),
        (
            ("strategy=sl", "server.order.name=priority"),
            "server.order.name=priority: must be auto with strate",
        ),
        (
            (MERGED, "server.order.name=rotation"),
            "server.order.name=rotation: must be auto with server.half=m",
        ),
        (
            (SHARED, "server.order.name=priority"),
            "server.order.name=priority: must be auto, rotation or custom",
        ),
        (("server.order.name=rotation",), "server.order.name=rotation: must be auto, separate, priority or"),
        (
            ("server.order.name=priority", "num_servers=2", "num_devices=3"),
            "server.order.name=priority: must be auto or separate with num_servers=2: each server rank",
        ),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_one_line(overrides, line):
    assert message(*overrides).startswith(line)


def test_what_the_user_should_know():
    older = "sfl.server=shared is the older name of server.half=shared"
    assert older in plan("strategy=sfl", "sfl.server=shared").notices
    assert f"{older}, and does nothing with strategy=pipar" in plan("sfl.server=shared").notices
    assert any("batch statistics are those of all devices' samples" in line for line in plan(MERGED).notices)
    assert not any("all devices' samples" in line for line in plan(MERGED, "model.norm=group").notices)


def test_the_selector_says_which_order_it_predicts():
    chosen = ("selector.profile_iterations=1", "server.order.name=priority")
    assert plan(*chosen).notices == (
        "selector: predictions are for server.order.name=separate, not priority",
    )
    assert plan(chosen[0]).notices == ()


def test_a_training_goes_on_from_a_checkpoint_that_has_the_older_name():
    same = plan("strategy=sfl", SHARED).checkpoints.same
    assert same["server.half"] == "shared"
    assert plan("strategy=sfl", "sfl.server=shared").checkpoints.same == same
    assert of_old(same) == same
    old = {key: value for key, value in same.items() if key != "server.half"} | {"sfl.server": "shared"}
    assert of_old(old) == same
    assert of_old(old | {"strategy": "fl"})["server.half"] == DEFAULTS["server.half"] == "replicated"
    one, other = (plan("server.order.name=" + name).checkpoints.same for name in ("separate", "priority"))
    assert one == other
