"""Columns: scripts rely on their names and order, TensorBoard's users on its names."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from pipar_rpc.objective import check_objective
from pipar_rpc.results.columns import COLUMNS, mean
from pipar_rpc.results.csv_table import CsvTable
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.results.terminal import summary_table, sweep_table

HEADER = (
    "job,epoch,strategy,model,data,partition,network,testbed,num_devices,split_point,num_micro_batches,"
    "batch_size,iterations,seed,time_scale,epoch_time_s,iteration_time_s,server_idle_s,device_idle_s,"
    "uplink_bytes,downlink_bytes,uplink_mbps,downlink_mbps,device_uplink_mbps,device_downlink_mbps,bound_s,"
    "efficiency,train_loss,train_accuracy,val_accuracy,test_accuracy,device_val_accuracy,overlap,"
    "training_time_s,model_bytes,predicted_iteration_s,link_uplink_mbps,link_downlink_mbps,"
    "server_peak_rss_mb,device_peak_rss_mb,each_device_peak_rss_mb,devices_alive,devices_lost,"
    "compression,iteration_uplink_bytes,iteration_downlink_bytes,compression_ratio,device_coding_s,"
    "server_coding_s,optimizer,schedule,loss,learning_rate,val_loss,test_loss,coded_test_accuracy,devices_trained,val_metrics,"
    "test_metrics,clipped_share,epsilon_dpsgd,epsilon_activations,epsilon_updates,updates_clipped,privacy,"
    "checkpoint_wait_s,server_half,server_order"
)
NAMES = ("strategy", "model", "data", "partition", "network", "testbed", "devices_lost", "compression")
NAMES += ("optimizer", "schedule", "loss", "privacy", "server_half", "server_order")
TAGS = {
    *("time/epoch_s", "time/iteration_s", "time/iteration_bound_s", "time/iteration_predicted_s"),
    *("time/efficiency", "time/overlap", "pipeline/split_point", "pipeline/num_micro_batches"),
    *("idle/server_s", "idle/device_s", "network/uplink_mbps", "network/downlink_mbps"),
    *("network/uplink_bytes", "network/downlink_bytes", "train/loss", "accuracy/train", "accuracy/val"),
    *("network/iteration_uplink_bytes", "network/iteration_downlink_bytes", "network/compression_ratio"),
    *("time/device_coding_s", "time/server_coding_s", "time/checkpoint_wait_s"),
    *("accuracy/test", "memory/server_peak_rss_mb", "memory/device_peak_rss_mb", "devices/alive"),
    *(
        "accuracy/test_coded",
        "devices/trained",
        "train/learning_rate",
        "val/loss",
        "privacy/clipped_share",
        "test/loss",
        "val/metric/f1",
        "test/metric/f1",
        "privacy/clipped_share",
        "privacy/updates_clipped",
    ),
}
TAGS_OF_DEVICES = {
    *("network_per_device/uplink_mbps", "network_per_device/downlink_mbps", "links/uplink_mbps"),
    *("links/downlink_mbps", "accuracy_per_device/val", "memory_per_device/peak_rss_mb"),
    *("privacy/epsilon_dpsgd", "privacy/epsilon_activations", "privacy/epsilon_updates"),
}
SETTINGS = {
    *("strategy", "model", "data", "partition", "network", "testbed", "num_devices", "split_point"),
    *("num_micro_batches", "batch_size", "seed", "compression", "optimizer", "schedule", "loss"),
    *("privacy", "server_half", "server_order"),
}
OVER_EPOCHS = (
    *("epoch_time_s", "server_idle_s", "device_idle_s", "uplink_mbps", "downlink_mbps"),
    "compression_ratio",
)
LEARNED = ("train_loss", "train_accuracy", "val_accuracy", "test_accuracy")
ONE_OR_EACH = ("split_point", "num_micro_batches", "batch_size", "compression", "privacy")


def row(epoch):
    """A value in every column, another one in each epoch."""
    values = {name: float(epoch) for name in COLUMNS} | dict.fromkeys(NAMES, "name")
    each = {name for name, column in COLUMNS.items() if column.devices == "each"} - {*ONE_OR_EACH}
    values |= {name: {"f1": 0.5} for name in ("val_metrics", "test_metrics")}
    return values | dict.fromkeys(each, (0.5, None, 1.5)) | {"epoch": epoch, "time_scale": 1.0}


@pytest.fixture
def events(tmp_path):
    outputs = Outputs(tmp_path)
    for epoch in (1, 2):
        outputs.add(row(epoch))
    outputs.close()
    return EventAccumulator(str(tmp_path / "tensorboard")).Reload()


def test_the_header_is_what_scripts_rely_on(tmp_path):
    CsvTable(tmp_path / "results.csv", [row(1)]).close()
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == HEADER


def test_a_column_that_is_not_declared_is_refused(tmp_path):
    table = CsvTable(tmp_path / "results.csv", [])
    with pytest.raises(ValueError, match="not_declared"):
        table.add(row(1) | {"not_declared": 1})
    table.close()


def test_a_job_in_tensorboard(events):
    curves = TAGS | {f"{tag}/device{number}" for tag in TAGS_OF_DEVICES for number in (1, 3)}
    figures = {f"hparam/{name}": 1.5 for name in OVER_EPOCHS} | {f"hparam/{name}": 2.0 for name in LEARNED}
    assert set(events.Tags()["scalars"]) == curves | figures.keys()
    assert {name: events.Scalars(name)[-1].value for name in figures} == figures
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(settings) == SETTINGS


def test_the_tables_on_the_terminal():
    headings = "time s  server idle s  device idle s  up Mbit/s  down Mbit/s  efficiency    loss  train acc"
    lines = summary_table([row(1), row(2)]).splitlines()
    assert lines[0] == f"epoch  {headings}  val acc  test acc"
    assert lines[3].split() == ["2", *["2.00"] * 6, *["2.0000"] * 4]
    assert lines[4].split() == ["mean", *["1.50"] * 6]
    assert lines[5] == (
        "Mbit/s: sum over the devices; device idle: mean over the devices; efficiency: bound / measured"
    )
    assert sweep_table({"0_first": row(2)})[1] == f"    job  {headings}  val acc  test acc"


def test_every_number_may_be_an_objective():
    for name in HEADER.split(","):
        if name not in {*NAMES, "val_metrics", "test_metrics"}:
            check_objective(name, "")


def test_means_leave_out_epochs_without_a_figure():
    assert mean([{"overlap": 1.0}, {"overlap": None}, {}, {"overlap": 2.0}], "overlap") == 1.5
    assert mean([{"overlap": None}], "overlap") is None


def test_every_column_has_a_meaning_and_a_curve_of_its_own():
    tags = [column.tag for column in COLUMNS.values() if column.tag]
    assert len(set(tags)) == len(tags)
    assert all(column.meaning for column in COLUMNS.values())
