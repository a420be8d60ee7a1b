"""The real thing: torchrun, several processes, RPC, sweeps. One run serves several tests."""

import itertools

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.data import Batches, DataSpec, Transform, load_train_part, open_source
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.results.columns import COLUMNS
from pipar_rpc.results.privacy_columns import PRIVACY
from tests.support.commands import run_here
from tests.support.loops import assert_close
from tests.support.overrides import SMALL
from tests.support.results import job_dirs, rows_of

SPLITS, COUNTS = (1, 2, 3, 4, 5), (1, 7)


def unsplit_reference():
    """What two devices and an average should give: plain training of whole networks on the devices' data."""
    torch.manual_seed(0)
    network = build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    spec = DataSpec("synthetic", 3, 8, 10, seed=0, train_size_per_device=20, train_size=200)
    source = open_source(spec, None, False)
    transform = Transform((0.5,) * 3, (0.4,) * 3)
    states, losses = [], []
    for device in (1, 2):
        network.load_state_dict(initial)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        batches = Batches(load_train_part(source, spec, device, 2), 10, transform, seed=0, device=device)
        for iteration in range(2):
            images, labels = batches.get(1, iteration)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    return weighted_average(states, [20, 20]), sum(losses) / 4


@pytest.fixture(scope="module")
def sweep(module_processes):
    """Every split point, one micro-batch and several: 10 jobs in one torchrun, in double precision."""
    overrides = [*SMALL, "model.norm=group", "--multirun"]
    overrides += [f"pipeline.split_point={','.join(map(str, SPLITS))}"]
    overrides += [f"pipeline.num_micro_batches={','.join(map(str, COUNTS))}"]
    done = module_processes.torchrun(3, *overrides, module="tests.support.float64_without_pictures")
    return done, job_dirs(module_processes)


def test_all_jobs_of_a_sweep_run_in_one_torchrun(sweep):
    done, jobs = sweep
    assert done.code == 0, done.err
    assert sorted(jobs) == list(range(10))
    assert "10 jobs done, 0 failed" in done.out


def test_what_the_server_of_a_run_could_learn_is_measured_from_its_folder(sweep, tmp_path):
    _, jobs = sweep
    how = ("--split-points=4", "--num-images=20", "--epochs=1", f"--output={tmp_path}")
    done = run_here("pipar_rpc.leakage", jobs[0], *how)
    assert done.code == 0, done.err
    assert (tmp_path / "leakage.csv").read_text().splitlines()[1].startswith("4,none,0,,")


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("number", range(10))
def test_over_rpc_split_with_micro_batches_equals_unsplit(sweep, number):
    _, jobs = sweep
    split_point, num_micro_batches = list(itertools.product(SPLITS, COUNTS))[number]
    (row,) = rows_of(jobs[number])
    assert (int(row["split_point"]), int(row["num_micro_batches"])) == (split_point, num_micro_batches)
    reference, loss = unsplit_reference()
    assert_close(torch.load(jobs[number] / "model.pt"), reference, 1e-9)
    assert float(row["train_loss"]) == pytest.approx(loss, rel=1e-5)


def test_what_crosses_is_what_must(sweep):
    """Activations and labels up, gradients down, and both ways the device's half of the model."""
    _, jobs = sweep
    (row,) = rows_of(jobs[0])  # P = 1, double precision: 32 maps of 4x4
    activation, half = 32 * 4 * 4 * 8, (32 * 3 * 9 + 32 + 2 * 32) * 8
    assert int(row["uplink_bytes"]) == 2 * (20 * (activation + 8) + half)
    assert int(row["downlink_bytes"]) == 2 * (20 * activation + half)
    (row,) = rows_of(jobs[8])  # P = Q: only models cross
    whole = sum(tensor.nbytes for tensor in torch.load(jobs[8] / "model.pt").values())
    assert int(row["uplink_bytes"]) == int(row["downlink_bytes"]) == 2 * whole


@pytest.fixture(scope="module")
def repeated(module_processes, tmp_path_factory):
    """One seed over different links: other arrival orders, and a job that fails in between."""
    group = type(module_processes)(tmp_path_factory.mktemp("repeated"))
    overrides = [option for option in SMALL if not option.startswith(("network", "epochs"))]
    overrides += ["epochs=2", "pipeline.num_micro_batches=7", "aggregation.every=1", "--multirun"]
    overrides += ["network=none,4g,wifi", "pipeline.split_point=1,9"]
    done = group.training(4, *overrides)
    assert group.left_over() == []
    return done, job_dirs(group)


def test_one_seed_gives_bit_identical_weights_whatever_the_order_of_arrival(repeated):
    _, jobs = repeated
    states = [torch.load(jobs[number] / "model.pt") for number in (0, 2, 4)]
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key]), key
        assert torch.equal(states[0][key], states[2][key]), key


def test_a_failing_job_does_not_stop_the_others(repeated):
    done, jobs = repeated
    assert done.code == 2
    line = "pipeline.split_point=9: must be 1..5 (vgg5 has 5 cut units)"
    assert done.out.count(f"[ERROR] pipar_rpc: error: {line}") == 3
    assert f"failed: {jobs[3].name}: {line}" in done.out
    assert "3 jobs done, 3 failed" in done.out
    assert [number for number, path in sorted(jobs.items()) if (path / "model.pt").exists()] == [0, 2, 4]


def test_results_are_complete(repeated):
    _, jobs = repeated
    rows = rows_of(jobs[2])
    assert list(rows[0]) == list(COLUMNS)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert row["job"] == "2"
        assert (row["strategy"], row["model"], row["data"], row["network"]) == (
            *("pipar", "vgg5"),
            *("synthetic", "4g"),
        )
        assert row["num_devices"] == row["devices_alive"] == "3"
        for column in ("epoch_time_s", "server_idle_s", "device_idle_s", "uplink_mbps", "bound_s"):
            assert float(row[column]) > 0
        for column in ("efficiency", "train_accuracy", "val_accuracy", "test_accuracy"):
            assert 0 <= float(row[column]) <= 1
        assert float(row["server_idle_s"]) < float(row["epoch_time_s"])
        assert len(row["device_uplink_mbps"].split(";")) == 3
        assert 50 < float(row["device_peak_rss_mb"]) < 4000
        assert len(row["each_device_peak_rss_mb"].split(";")) == 3
        for total, single in (
            *(("uplink_mbps", "device_uplink_mbps"), ("downlink_mbps", "device_downlink_mbps")),
            ("device_peak_rss_mb", "each_device_peak_rss_mb"),
        ):
            over = {"sum": sum, "max": max}[COLUMNS[total].devices]
            values = map(float, row[single].split(";"))
            assert float(row[total]) == pytest.approx(over(values), rel=1e-4)
    resolved = OmegaConf.load(jobs[2] / "config.yaml")
    assert resolved.num_devices == 3
    assert resolved.network.uplink_mbps == 10
    assert (jobs[2] / "pipar_rpc.log").read_text().count("[rank 0 server][INFO] epoch ") == 2


def test_tensorboard_has_every_figure_of_every_epoch(repeated):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    _, jobs = repeated
    events = EventAccumulator(str(jobs[2] / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    of_the_selector = {"predicted_iteration_s", "link_uplink_mbps", "link_downlink_mbps"}
    of_codecs = {"device_coding_s", "server_coding_s"}
    not_asked_for = of_the_selector | of_codecs | {"overlap", "device_val_accuracy"}
    not_asked_for |= {"val_metrics", "test_metrics", "coded_test_accuracy"}
    not_asked_for |= {column.name for column in PRIVACY}
    wanted = {column.tag for name, column in COLUMNS.items() if column.tag and name not in not_asked_for}
    per_device = {tag for tag in wanted if "_per_device/" in tag}
    assert wanted - per_device <= tags
    assert {f"{tag}/device{k}" for tag in per_device for k in (1, 2, 3)} <= tags
    assert [scalar.step for scalar in events.Scalars("train/loss_by_iteration")] == [1, 2, 3, 4]
    assert events.Tags()["images"] == ["data/partition", "test/confusion"]
    assert {"hparam/epoch_time_s", "hparam/test_accuracy"} <= tags
    settings = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert settings["strategy"].string_value == "pipar"
    assert settings["num_micro_batches"].number_value == 7
    rows = rows_of(jobs[2])
    for column in ("epoch_time_s", "test_accuracy", "uplink_mbps"):
        scalars = events.Scalars(COLUMNS[column].tag)
        assert [scalar.step for scalar in scalars] == [1, 2]
        assert [scalar.value for scalar in scalars] == pytest.approx(
            [float(row[column]) for row in rows], rel=1e-4
        )


def test_the_trained_model_loads_into_the_uncut_network(repeated):
    _, jobs = repeated
    network = build_model(ModelSpec("vgg5", Norm.batch, channels=3, image_size=8, num_classes=10))
    network.load_state_dict(torch.load(jobs[0] / "model.pt", weights_only=True))


def test_the_terminal_shows_a_table_and_no_noise(sweep):
    done, _ = sweep
    assert "server idle s" in done.out
    assert "tensorboard --logdir" in done.out
    assert "Warning" not in done.out
    assert done.err == ""
