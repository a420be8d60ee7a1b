"""How much room checkpoints need, and what is refused."""

import pytest

from pipar_rpc.checkpoints.saving import needed_bytes
from tests.support.configuration import message, plan


@pytest.mark.parametrize(
    ("rule", "networks"), [("fedavg", 0), ("trimmed_mean", 0), ("fedavgm", 1), ("fedadam", 2), ("fedyogi", 2)]
)
def test_what_a_rule_remembers_is_counted(rule, networks):
    """Two models, and in each of two checkpoints the global network, the best one and four momenta."""
    made = plan(f"aggregation/rule={rule}", "checkpoint.keep=1")
    assert needed_bytes(made) == made.network.num_bytes * (2 + 2 * (6 + networks))


def test_an_optimisers_state_is_counted():
    """Of Adam two moments for each of four devices."""
    made = plan("optimizer=adam", "checkpoint.keep=1", "enable_val=false", "enable_test=false")
    assert needed_bytes(made) == made.network.num_bytes * (1 + 2 * (1 + 8))


def test_one_network_is_assumed_of_a_rule_of_the_users():
    target = "aggregation.rule._target_=pipar_rpc.aggregation.fedavg.FedAvg"
    made = plan("aggregation/rule=custom", target, "checkpoint.keep=1")
    assert needed_bytes(made) == made.network.num_bytes * (2 + 2 * (6 + 1))


@pytest.mark.parametrize(("most", "kept"), [(0.1, 1), (2.5, 2), (100, 3)])
def test_a_limit_of_bytes_limits_the_room(most, kept):
    """Of checkpoints with the global network, the best one and four momenta, one more is being written."""
    size = plan().network.num_bytes
    made = plan("checkpoint.keep=3", f"checkpoint.max_mb={most * 6 * size / 1e6}")
    assert needed_bytes(made) == size * (2 + 6 * (kept + 1))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("checkpoint.minutes=-1", "checkpoint.minutes=-1.0: must be >= 0 minutes"),
        ("checkpoint.max_mb=0", "checkpoint.max_mb=0.0: must be > 0 MB, or null for no limit"),
    ],
)
def test_what_is_out_of_range_is_one_line(option, line):
    assert message(option) == line
