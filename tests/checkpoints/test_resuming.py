"""What of a checkpoint must agree with the run that goes on from it."""

from pipar_rpc.checkpoints.resuming import _different


def test_a_checkpoint_from_before_there_were_rules_is_of_fedavg():
    new = {"aggregation.every": 1, "aggregation.rule.name": "fedavg", "aggregation.rule._target_": None}
    new["aggregation.rule.args"] = {}
    assert _different(new, {"aggregation.every": 1}) is None
    key = "aggregation.rule.name"
    assert _different(new | {key: "fedavgm"}, {"aggregation.every": 1}) == key
