"""The headline figures, from runs and measurements that are made up, reckoned by hand."""

import csv
import math

import pytest
import yaml

from launch.headline_cases import Reckoner, Runs
from launch.headline_figures import bars
from launch.headline_tables import largest_lines, origin, speed_table, verdict
from launch.headline_values import Figures, Link, Place
from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ModelSpec, Norm, build_meta, summarise
from pipar_rpc.results.published import read_published
from pipar_rpc.results.runs import load
from pipar_rpc.selector.facts import DeviceFacts, Facts, ServerFacts, UnitSizes
from pipar_rpc.selector.facts_file import write_facts
from pipar_rpc.testbed.device_profile import DeviceProfile
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.stage_recurrence import StageTimes, iteration_seconds
from tests.support.commands import run_here
from tests.support.results import FL, PIPAR, SFL, write

# Ten samples; each of five units takes a device 1 s forward, 2 s backward and 0.5 s for its update, and the
# server a tenth. The first activation with its labels takes the slow uplink 1 s, as do each unit's weights.
SPEC = ModelSpec("vgg5", Norm.batch, 3, 32, 10)
NAMES = list(build_meta(SPEC)._modules)
UNITS = [UnitTimes(name, {10: 1.0}, {10: 2.0}, 0.5) for name in NAMES]
BYTES = [unit.activation_bytes for unit in summarise(build_meta(SPEC), SPEC)]
LABELS = 8
WEIGHTS = 10 * (BYTES[0] + LABELS)
MBPS = WEIGHTS * 8e-6
SIZES = [UnitSizes(activation, WEIGHTS, 0) for activation in BYTES]
SLOW, FAST = Link(MBPS, 2 * MBPS), Link(2 * MBPS, 2 * MBPS)
LABELS_S = 10 * LABELS * 8e-6 / SLOW.downlink_mbps  # the gradient has none and takes so much less than 0.5 s
DEVICE = DeviceFacts(UNITS, *SLOW, 0.0, 0.0, 10, 1, math.inf)
SERVER = ServerFacts([unit.scaled(0.1) for unit in UNITS], {10: 2.0}, 0.01, 0.02)  # 0.04 s for two halves
FACTS = Facts([DEVICE, DEVICE], SERVER, SIZES)
SFL_S = 1 + 1 + 0.04 + 0.4 + 0.8 + (0.5 - LABELS_S) + 2 + 0.5
PARTS_OF_TWO = StageTimes(0.5, 0.5, 0.2 + 0.04, 0.4, (0.5 - LABELS_S) / 2, 1.0, update=0.5)


def test_federated_learning_is_all_units_and_leaves_the_server_idle():
    assert Reckoner(FACTS, SLOW).federated() == Figures(
        5, 1, pytest.approx(17.5), pytest.approx(17.5), pytest.approx(5 * (1 + 0.5))
    )


def test_the_best_split_is_found_and_the_server_idles_the_rest():
    own = Reckoner(FACTS, SLOW).best_split()
    busy_s = 4 * (0.1 + 0.2 + 0.05)
    assert own == Figures(1, 1, pytest.approx(SFL_S), pytest.approx(SFL_S - busy_s), pytest.approx(1.5))


def test_micro_batches_overlap_as_the_recurrence_says():
    own = Reckoner(FACTS, SLOW).figures(1, 2)
    assert own.iteration_s == pytest.approx(float(iteration_seconds(PARTS_OF_TWO, 2)))
    assert own.server_idle_s == pytest.approx(own.iteration_s - 1.4)


def test_another_link_is_reckoned_with_its_rates():
    assert Reckoner(FACTS, FAST).best_split().iteration_s == pytest.approx(SFL_S - 0.5)
    assert Reckoner(FACTS, FAST).best_split().models_s == pytest.approx(1.0)


def test_an_epoch_has_100_iterations_and_one_aggregation():
    own = Figures(1, 5, 2.0, 0.5, 3.0)
    assert (own.epoch_s, own.epoch_idle_s) == (203, 53)


def job(folder, row, link=SLOW, facts=None, method="exhaustive"):
    write(folder, row)
    network = {"uplink_mbps": link.uplink_mbps, "downlink_mbps": link.downlink_mbps}
    (folder / "config.yaml").write_text(yaml.safe_dump({"network": network, "selector": {"method": method}}))
    if facts:
        write_facts(folder / "facts.yaml", facts)


def seconds(iteration_s, idle_s):
    """Columns of an epoch of two iterations."""
    epoch = {"epoch_time_s": 2 * iteration_s, "training_time_s": 2 * iteration_s}
    return epoch | {"iterations": 2, "iteration_time_s": iteration_s, "server_idle_s": 2 * idle_s}


@pytest.fixture
def folder(tmp_path):
    """VGG5 was run over 4G; of the same with 3 devices, and over WiFi, PiPar alone."""
    two = {"num_devices": 2}
    pipar = PIPAR | two | {"num_micro_batches": 2}
    pipar_s = float(iteration_seconds(PARTS_OF_TWO, 2))
    job(tmp_path / "0", FL | two | seconds(17.5, 17.5))
    job(tmp_path / "1", SFL | two | seconds(SFL_S * 1.02, 4.0))
    job(tmp_path / "2", pipar | seconds(pipar_s, 2.0), facts=FACTS)
    job(tmp_path / "3", pipar | seconds(pipar_s + 1, 2.0), facts=FACTS)
    job(tmp_path / "4", pipar | {"network": "wifi"} | seconds(pipar_s * 0.98, 2.0), FAST, FACTS)
    three = Facts([DEVICE] * 3, SERVER, SIZES)
    job(tmp_path / "5", pipar | {"num_devices": 3} | seconds(pipar_s, 2.0), facts=three)
    return tmp_path


def test_what_was_run_is_measured_and_the_rest_computed(folder):
    cases = {case.place: case for case in Runs(load([folder])).cases()}
    assert [(*place, case.measured) for place, case in cases.items()] == [
        ("vgg5", 2, "4g", True),
        ("vgg5", 2, "wifi", False),
        ("vgg5", 3, "4g", False),
        ("vgg5", 3, "wifi", False),
    ]
    run = cases[Place("vgg5", 2, "4g")].of
    assert run["sfl"] == Figures(1, 1, pytest.approx(SFL_S * 1.02), pytest.approx(4.0), pytest.approx(1.5))
    assert (run["fl"].split_point, run["pipar"].num_micro_batches) == (5, 2)
    assert cases[Place("vgg5", 2, "wifi")].of["sfl"].iteration_s == pytest.approx(SFL_S - 0.5)
    three_s = cases[Place("vgg5", 3, "4g")].of["sfl"].iteration_s  # each half takes 3/2, a micro-batch 0.06 s
    assert three_s == pytest.approx(SFL_S + 0.5 * 1.2 + 0.02)


def test_each_run_is_compared_with_what_is_computed_for_its_cut(folder):
    checks = Runs(load([folder])).checks()
    assert [(check.place.network, check.strategy) for check in checks[:4]] == [
        *(("4g", "fl"), ("4g", "sfl"), ("4g", "pipar"), ("wifi", "pipar"))
    ]
    assert [check.deviation for check in checks[:3]] == pytest.approx([0, 1 / 1.02 - 1, 0], abs=1e-9)
    assert verdict(checks[:3]) == (
        "largest deviation of computed iterations from 3 measured ones, 3 of them within 5%: "
        "-2.0% (vgg5, K = 2, 4g, sfl)"
    )


def test_beyond_five_per_cent_nothing_that_is_computed_for_so_many_devices_is_valid(folder):
    runs = Runs(load([folder]))
    worst = "+7.3% (vgg5, K = 3, 4g, pipar)"
    assert verdict(runs.checks()) == (
        f"NOT VALID, as computed: {worst}\n\n"
        f"largest deviation of computed iterations from 5 measured ones, 4 of them within 5%: {worst}"
    )
    assert {(case.place[1], origin(case)) for case in runs.cases()} == {
        *((2, "measured"), (2, "computed"), (3, "computed, not valid"))
    }
    assert "K = 3" not in "".join(largest_lines(runs.cases(), read_published().largest))
    (legend,) = bars(runs.cases(), lambda case: 1.0, "ones", None).legends
    assert "computed, not valid" in [text.get_text() for text in legend.texts]
    assert verdict([]).startswith("NOT VALID: nothing was run")


def test_ratios_are_those_of_epochs(folder):
    (case, *_) = Runs(load([folder])).cases()
    pipar_s = 100 * case.of["pipar"].iteration_s + 1.5
    table = speed_table([case])
    shown = dict(zip(table.headings, table.rows[0], strict=True))
    assert shown["figures"] == "measured"
    assert shown["FL / PiPar"] == f"{(1750 + 7.5) / pipar_s:.2f}x"
    assert shown["SFL / PiPar"] == f"{(102 * SFL_S + 1.5) / pipar_s:.2f}x"
    assert shown["server idle, FL / PiPar"] == f"{(1750 + 7.5) / (200 + 1.5):.2f}x"
    lines = largest_lines([case], read_published().largest)
    assert lines[1] == "FL / PiPar, published, other hardware: up to 34.6x"


def test_a_better_split_point_than_that_which_was_run_is_told(folder):
    assert Runs(load([folder])).better_splits() == []
    job(folder / "7", SFL | {"num_devices": 3, "split_point": 2} | seconds(9.0, 4.0))
    job(folder / "8", FL | {"num_devices": 3} | seconds(17.5, 16.0))
    assert Runs(load([folder])).better_splits() == [(Place("vgg5", 3, "4g"), 1, 2)]


def test_without_a_selector_nothing_can_be_computed(tmp_path):
    job(tmp_path / "0", FL)
    with pytest.raises(UserError, match=r"no run with facts.yaml"):
        Runs(load([tmp_path]))


def test_the_command_writes_tables_pictures_and_table_iv(folder):
    DeviceProfile("vgg5", Norm.batch, 3, 32, 10, UNITS).write(folder / "board.yaml")
    row = PIPAR | {"num_devices": 3, "testbed": "board", "num_micro_batches": 4} | seconds(4.0, 2.0)
    job(folder / "9", row, method="paper")
    done = run_here("launch.headline", folder, "--boards", folder / "board.yaml")
    assert done.code == 1, done.err  # the run over WiFi is not what is computed for it
    text = (folder / "headline.md").read_text()
    assert "NOT VALID" in text
    assert "| vgg5 | 2 | 4g | measured | 17.500 |" in text
    # N = 1 + ceil((1 + 0.06 + 1.5 * 1.2 + 0.5) / 1) = 5 for three devices
    assert "| vgg5 | 4g | " in text
    (line,) = [line for line in text.splitlines() if line.startswith("| vgg5 | 4g | ")]
    paper = Reckoner(Facts([DEVICE] * 3, SERVER, SIZES), SLOW).figures(1, 5)
    assert f"| {paper.epoch_s:.1f} (1, 5) |" in line
    assert line.endswith("| 401.5 |  | 330.5 (1, 12) | 330.5 (12) |")
    for name in ("speedup_over_fl", "speedup_over_sfl", "server_idle"):
        assert (folder / f"headline_{name}.png").stat().st_size > 5000
    with (folder / "headline.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3
    assert rows[0]["strategy"] == "fl"
    assert float(rows[0]["epoch_s"]) == pytest.approx(1757.5)


@pytest.mark.parametrize(("model", "size"), [("resnet18", 32), ("vgg11", 32), ("vgg5", 16)])
def test_a_board_that_nothing_is_known_of_is_refused(folder, model, size):
    names = build_meta(ModelSpec(model, Norm.batch, 3, size, 10))._modules
    units = [UnitTimes(name, {10: 1.0}, {10: 2.0}, 0.5) for name in names]
    DeviceProfile(model, Norm.batch, 3, size, 10, units).write(folder / "board.yaml")
    done = run_here("launch.headline", folder, "--boards", folder / "board.yaml")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert (
        f"must be a profile of vgg5 or resnet18, images as in a run with the selector; it is of {model}"
        in (done.err)
    )
