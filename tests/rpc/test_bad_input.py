"""Every kind of bad input is one line and exit code 2, from the real command, and nothing is written."""

import contextlib
import subprocess
import zipfile

import pytest
import torch

from tests.support.forked import Forked
from tests.support.processes import PATIENCE_S, environment

BAD = {  # what is wrong: arguments, what the line must say
    "P beyond the network": (["pipeline.split_point=6"], "pipeline.split_point=6: must be 1..5 (vgg5 has 5"),
    "P below 1": (["pipeline.split_point=0"], "pipeline.split_point=0: must be 1..Q"),
    "N below 1": (["pipeline.num_micro_batches=0"], "pipeline.num_micro_batches=0: must be >= 1"),
    "not a number": (["epochs=many"], "epochs: Value 'many' of type 'str' could not be converted"),
    "a misspelt key": (["pipeline.spilt_point=2"], "no such key: did you mean pipeline.split_point?"),
    "an unknown key": (["xyz=3"], "xyz: no such key"),
    "an unknown model": (["model=vgg7"], "model=vgg7: no such choice: did you mean vgg5?"),
    "an unknown data set": (["data=cifar"], "data=cifar: no such choice: did you mean cifar10?"),
    "an unknown network": (["network=5g"], "network=5g: no such choice: did you mean 4g?"),
    "an unknown strategy": (["strategy=slf"], "strategy=slf: must be a known strategy: did you mean sl?"),
    "an unknown codec": (
        ["compression.gradients.name=int9"],
        "compression.gradients.name=int9: must be a known codec: did you mean int8?",
    ),
    "a rate of zero": (["network.uplink_mbps=0"], "network.uplink_mbps=0.0: must be > 0 Mbit/s"),
    "a negative rate": (["network.downlink_mbps=-1"], "network.downlink_mbps=-1.0: must be > 0 Mbit/s"),
    "a missing trace": (["network.trace=no.csv"], "network.trace=no.csv: must be a readable file"),
    "missing data": (["data=cifar10", "node.download=false"], "data=cifar10: put cifar-10-batches-py/"),
    "more data than there is": (["data.train_size_per_device=400"], "must be 1..359 (digits has 1438"),
    "a batch beyond the data": (["batch_size=360"], "batch_size=360: must be 1..359"),
    "a device that does not exist": (["devices.overrides.5.batch_size=9"], "devices are numbered 1..4"),
    "a key of all for one": (["devices.overrides.1.epochs=2"], "no such key for a single device"),
    "no learning rate": (["optimizer.lr=0"], "optimizer.lr=0.0: must be > 0"),
    "missing weights": (["model.weights=no.pt"], "model.weights=no.pt: must be an existing file"),
    "a text for weights": (["model.weights=text.csv"], "model.weights=text.csv: not a state dict in"),
    "a network that is not there": (
        ["model=custom", "model._target_=nets.build"],
        "model._target_=nets.build",
    ),
    "a profile that is not there": (
        ["testbed.profile=no.yaml"],
        "testbed.profile=no.yaml: must be a",
    ),
    "several values without a sweep": (["seed=1,2"], "seed: several values need --multirun"),
    "a folder for each job": (
        ["--multirun", "seed=1,2", "hydra.sweep.dir=a,b"],
        """hydra.sweep.dir: must be one value; if there is a comma in it, write "hydra.sweep.dir='A,B'\"""",
    ),
    "a sweep to look at": (
        ["--multirun", "seed=1,2", "--cfg", "job"],
        "--multirun: leave it out to be shown",
    ),
    "too many to be kept": (
        ["fault.min_devices=9"],
        "fault.min_devices=9: must be 1..4, the number",
    ),
    "a departure of nobody": (["fault.leave.7=1"], "fault.leave.7: devices are numbered 1..4"),
    "a round before the first": (["fault.leave.2=0"], "fault.leave.2=0: must be the number of a round"),
    "no checkpoint to keep": (["checkpoint.keep=0"], "checkpoint.keep=0: must be >= 1"),
    "no such checkpoint": (["resume=no.pt"], "resume=no.pt: must be auto, a checkpoint, or the folder"),
    "a foreign checkpoint": (["resume=foreign.pt"], "foreign.pt: not a checkpoint of this version"),
    "half a checkpoint": (["resume=half.pt"], "half.pt: not a whole checkpoint"),
    "a checkpoint that is none inside": (["resume=text.pt"], "text.pt: not a whole checkpoint"),
    "an unknown machine": (["node.device=tpu"], "node.device=tpu: must be auto, cpu, cuda or cuda:i"),
}
MACHINE = {  # by whoever starts torchrun, and by rank 0 before it joins the group
    "an unknown interface": (["node.interface=eth77"], "node.interface=eth77: must be auto or an interface"),
    "a missing GPU": (["node.device=cuda:97"], "node.device=cuda:97: must be auto, cpu or one of"),
    "a missing GPU for a sweep": (
        ["--multirun", "seed=1,2", "node.device=cuda:97"],
        "node.device=cuda:97: must be auto, cpu or one of",
    ),
    "a folder that cannot be": (["hydra.run.dir=a_file/run"], "hydra.run.dir=a_file/run: cannot be written"),
    "a folder of a sweep that cannot be": (
        ["--multirun", "seed=1,2", "hydra.sweep.dir=a_file/sweep"],
        "hydra.sweep.dir=a_file/sweep: cannot be written",
    ),
    "a file system without files": (
        ["hydra.run.dir=/proc/run"],
        "hydra.run.dir=/proc/run: cannot be",
    ),
}
AS_SERVER = {  # under torchrun alone
    "too few ranks": (
        ["placement.devices_per_rank=[1,1,1,1,1]"],
        "placement.devices_per_rank=[1, 1, 1, 1, 1]: must be at most 4 numbers (torchrun started 5 ranks",
    ),
}
SERVER = {
    **{"RANK": "0", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "5"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
}


def run(tmp_path, arguments, variables):
    work = tmp_path / "work"
    work.mkdir()
    (work / "a_file").write_text("")
    (work / "text.csv").write_text("epoch,loss\n")
    torch.save({"state_dict": {}}, work / "foreign.pt")
    (work / "half.pt").write_bytes((work / "foreign.pt").read_bytes()[:200])
    with zipfile.ZipFile(work / "foreign.pt") as whole, zipfile.ZipFile(work / "text.pt", "w") as text:
        for name in whole.namelist():
            text.writestr(name, b"epoch,loss\n" if name.endswith("data.pkl") else whole.read(name))
    before = sorted(work.rglob("*"))
    process = Forked("pipar_rpc", arguments, work, tmp_path / "output", environment(**variables))
    out, err = process.communicate(PATIENCE_S)
    assert sorted(work.rglob("*")) == before
    return process.wait(), out, err


@pytest.mark.parametrize(
    ("what", "server"),
    [(what, False) for what in BAD | MACHINE] + [(what, True) for what in MACHINE | AS_SERVER],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, what, server):
    arguments, line = (BAD | MACHINE | AS_SERVER)[what]
    code, out, err = run(tmp_path, arguments, SERVER if server else {})
    assert code == 2, err
    assert line in err
    assert err.startswith("pipar_rpc: error: ")
    assert err.count("\n") == 1, err
    assert out == "" or server


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield disk
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found_before_the_training(tmp_path, small_disk):
    code, _, err = run(tmp_path, [f"hydra.run.dir={small_disk}/run"], SERVER)
    assert code == 2
    assert "1 MB are free, checkpoints and results need" in err
    assert list(small_disk.iterdir()) == []
