"""What the selector measured, kept as a file."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.selector.facts import Crossing, DeviceFacts, Facts, MessageCost, ServerFacts, UnitSizes
from pipar_rpc.selector.facts_file import read_facts, write_facts
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.selection import Selection
from pipar_rpc.testbed.unit_times import UnitTimes

UNITS = [
    UnitTimes(name, {1: 0.1, 10: 0.7}, {1: 0.3, 10: 1.1}, 0.01, {1: 0.02, 10: 0.03}, {1: 0.01, 10: 0.05})
    for name in ("first", "last")
]
CROSSING = Crossing(1e5 * np.arange(22.0).reshape(2, 11), 3e5 * np.arange(22.0).reshape(2, 11), UNITS)
LINKED = DeviceFacts(UNITS, 10.0, 25.0, 0.002, 0.001, 10, 1, 7, 1e9, 70, CROSSING)
UNLIMITED = DeviceFacts(UNITS, math.inf, math.inf, 0.0, 0.0, 10, 2, math.inf)
MESSAGE = MessageCost(submit_s=0.01, answer_s=0.02, cpu_s=0.5, beside_server=True)
LINKED = replace(LINKED, message=MESSAGE)
SERVER = ServerFacts(
    [unit.scaled(0.1) for unit in UNITS], {1: 1.5, 10: np.float64(2.0)}, 0.003, 0.002, 0.4, 2, 3
)
SIZES = [UnitSizes(50_000, 4000, 7000), UnitSizes(400, 9000, 500, False, 1000, 18_000)]
FACTS = Facts([LINKED, replace(LINKED), UNLIMITED], SERVER, SIZES)


def totals(facts):
    predictors = [Predictor(device, facts.server, facts.sizes, 3) for device in facts.devices]
    return np.concatenate([predictor.totals().ravel() for predictor in predictors])


def test_what_was_read_predicts_what_was_written(tmp_path):
    write_facts(tmp_path / "facts.yaml", FACTS)
    read = read_facts(tmp_path / "facts.yaml")
    assert read.sizes == FACTS.sizes
    assert read.devices[2] == UNLIMITED
    np.testing.assert_array_equal(totals(read), totals(FACTS))


def test_devices_that_are_alike_are_written_once(tmp_path):
    write_facts(tmp_path / "facts.yaml", FACTS)
    assert (tmp_path / "facts.yaml").read_text().count("uplink_mbps") == 2


def test_in_another_time_everything_takes_as_much_longer():
    np.testing.assert_allclose(totals(FACTS.scaled(4.0)), 4 * totals(FACTS), rtol=1e-12)


def test_a_selection_writes_times_and_rates_of_the_results(tmp_path):
    plan = SimpleNamespace(settings=SimpleNamespace(time_scale=4.0))
    Selection(plan, [], FACTS, (True,) * 3).write_facts(tmp_path / "facts.yaml")
    np.testing.assert_allclose(totals(read_facts(tmp_path / "facts.yaml")), 4 * totals(FACTS), rtol=1e-12)
    assert read_facts(tmp_path / "facts.yaml").devices[0].uplink_mbps == 2.5


@pytest.mark.parametrize("text", ["[1]", "devices: [", "{devices: [{}], server: {}, sizes: []}"])
def test_a_file_of_another_kind_is_one_line(tmp_path, text):
    (tmp_path / "facts.yaml").write_text(text)
    with pytest.raises(UserError, match=r"facts.yaml: not what the selector wrote \(.*\)$"):
        read_facts(tmp_path / "facts.yaml")
