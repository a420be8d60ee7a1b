"""The selector in a running job: what it chooses is done, and layers that move lose nothing."""

import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc.checkpoints import file
from pipar_rpc.models import ModelSpec, Norm, build_meta
from pipar_rpc.testbed.device_profile import DeviceProfile
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support import references
from tests.support.loops import assert_close
from tests.support.overrides import SMALL
from tests.support.results import job_dirs, rows_of

TRACE = "time_s,uplink_mbps,downlink_mbps\n0,10000,10000\n3,5,5\n8,10000,10000\n"
EPOCHS = 7


def write_profile(path):
    """A device on which only the first unit's update takes time: alone, it never waits for the server."""
    spec = ModelSpec("vgg5", Norm.group, 3, 8, 10)
    names = enumerate(build_meta(spec)._modules)
    units = [UnitTimes(name, {10: 0.0}, {10: 0.0}, 0.0 if number else 0.4) for number, name in names]
    DeviceProfile(spec.name, spec.norm, 3, 8, 10, units).write(path)


JOB = (
    *(option for option in SMALL if not option.startswith(("epochs", "network"))),
    *("model.norm=group", "devices.overrides.2.batch_size=4", "checkpoint.keep=20"),
    *("optimizer.name=adamw", "optimizer.momentum=0", "optimizer.weight_decay=0.1", "optimizer.lr=0.003"),
)


def adamw(half):
    return torch.optim.AdamW(half.parameters(), lr=0.003, weight_decay=0.1)


@pytest.fixture(scope="module")
def switched(module_processes):
    """On a fast link the devices train alone; on a slow one their models are too large for that.

    The server half of device 2 is on a server rank of its own, which makes no difference.
    """
    write_profile(module_processes.directory / "device.yaml")
    (module_processes.directory / "drop.csv").write_text(TRACE)
    overrides = [*JOB, f"epochs={EPOCHS}", "network.trace=drop.csv", "testbed.profile=device.yaml"]
    overrides += [
        "selector.profile_iterations=1",
        "selector.min_gain=0",
        "hydra.run.dir=job",
        "num_servers=2",
    ]
    done = module_processes.training(4, *overrides, module="tests.support.float64_main")
    assert done.code == 0, done.err
    job = module_processes.directory / "job"
    return job, (job / "pipar_rpc.log").read_text()


def test_layers_move_to_and_fro_with_the_bandwidth(switched):
    job, log = switched
    points = [row["split_point"] for row in rows_of(job)]
    assert points[0] == points[-1] == "5"
    assert "1" in points
    assert "P=5 N=1 -> P=1" in log
    assert "-> P=5 N=1" in log
    events = EventAccumulator(str(job / "tensorboard"))
    events.Reload()
    changes = events.Tensors("selector/changes/text_summary")
    assert [change.step for change in changes] == [
        number for number in range(1, EPOCHS) if points[number] != points[number - 1]
    ]
    assert b"P=5 N=1 -> P=1" in changes[0].tensor_proto.string_val[0]


@pytest.mark.usefixtures("double_precision")
def test_what_moves_loses_neither_weights_nor_moments(switched):
    job, _ = switched
    reference = references.federated(EPOCHS, optimizer=adamw)
    assert_close(torch.load(job / "model.pt"), reference, 1e-9)


def test_switching_is_what_a_checkpoint_recut_and_resumed_would_be(switched, module_processes):
    """Bit for bit, weights and momentum, in the epoch after the first change."""
    job, _ = switched
    points = [row["split_point"] for row in rows_of(job)]
    last = next(epoch for epoch in range(1, EPOCHS) if points[epoch] != points[epoch - 1])
    saved = [file.read(job / "checkpoints" / f"round_{n:06}.pt") for n in (last - 1, last, last + 1)]
    assert saved[0].cuts != saved[1].cuts
    cuts = [
        f"devices.overrides.{number}.pipeline={{split_point:{p},num_micro_batches:{n}}}"
        for number, (p, n) in enumerate(saved[1].cuts, start=1)
    ]
    resumed = (f"resume={job}/checkpoints/round_{last:06}.pt", f"epochs={last + 1}", "hydra.run.dir=recut")
    done = module_processes.training(
        3, *JOB, *cuts, *resumed, "network=none", module="tests.support.float64_main"
    )
    assert done.code == 0, done.err
    recut = file.read(module_processes.directory / "recut" / "checkpoints" / f"round_{last + 1:06}.pt")
    assert recut.cuts == saved[1].cuts
    for one, two in zip(
        [*recut.networks, *recut.optimizers], [*saved[2].networks, *saved[2].optimizers], strict=True
    ):
        assert one.keys() == two.keys() != set()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


def test_the_choice_is_shown_and_predicted(switched):
    job, log = switched
    assert "the best P and N of" in log
    (handling,) = re.findall(r"a micro-batch takes ([\d.]+) ms .* at once ([\d.]+) ms", log)
    assert all(0 <= float(milliseconds) < 1000 for milliseconds in handling)  # 0 where load hides it
    (cpu,) = re.findall(r"of CPU it takes ([\d.]+) ms on the server and ([\d.]+) ms on device1", log)
    assert all(0 < float(milliseconds) < 1000 for milliseconds in cpu)
    assert "2 devices share the server's" in log
    rows = rows_of(job)
    assert all(float(row["predicted_iteration_s"]) > 0 for row in rows)


def test_profiling_leaves_the_job_as_it_would_be_without(module_processes):
    """Batch norm, dropout, random numbers: the weights are those of the same P and N when given."""
    overrides = [*SMALL, "model=mobilenet_small", "batch_size=2", "pipeline.split_point=2"]
    overrides += ["selector.split_points=[2]"]
    overrides += ["pipeline.num_micro_batches=1"]  # as is chosen: batch norm needs 2 samples here
    done = module_processes.training(3, *overrides, "--multirun", "selector.profile_iterations=0,2")
    assert done.code == 0, done.err
    folders = [path for _, path in sorted(job_dirs(module_processes).items())]
    assert folders[0].name.endswith("_P2_N1")
    assert folders[1].name.endswith("_selected")
    given, chosen = (torch.load(path / "model.pt") for path in folders)
    assert [key for key in given if not torch.equal(given[key], chosen[key])] == []


def test_a_device_without_memory_is_one_line(processes):
    done = processes.training(2, *SMALL, "selector.profile_iterations=1", "node.memory_limit=10")
    assert done.code != 0
    assert "node.memory_limit: device 1: P = 1 needs" in done.out


def test_who_has_left_does_not_count_and_a_resumed_trace_goes_on(processes):
    (processes.directory / "drop.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,50,50\n0.3,10,20\n")
    (processes.directory / "slow.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,0.2,0.2\n")
    overrides = [*JOB, "network.trace=drop.csv", "devices.overrides.2.network.trace=slow.csv"]
    overrides += ["selector.profile_iterations=1", "selector.split_points=[1]", "fault.leave.2=2"]
    for epochs in (3, 4):
        more = (f"epochs={epochs}", "hydra.run.dir=job", "resume=auto")
        done = processes.training(3, *overrides, *more)
        assert done.code == 0, done.err
    rows = rows_of(processes.directory / "job")
    predicted = [float(row["predicted_iteration_s"]) for row in rows]
    links = [row["link_uplink_mbps"] for row in rows]
    assert (links[0], links[2]) == ("50;0.2", "10;")
    assert predicted[0] > 2 * predicted[2]  # device 2 took most of the time
    assert links[3] == "10;0.2"  # when the run went on, before device 2 left again
