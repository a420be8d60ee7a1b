"""What a device rank of a real run has imported at the end of each job."""

import subprocess
import sys

from tests.support.light import light_environment
from tests.support.overrides import SMALL, sweep_of
from tests.support.processes import free_port

DIGITS = ("data.name=digits", "data.channels=1", "data.mean=[0.5]", "data.std=[0.5]")
JOBS = {
    "plain": (
        *("optimizer.name=adam", "optimizer.clip_norm=1.0", "schedule.name=cosine", "schedule.args.T_max=2"),
        *("pipeline.labels=device", "compression.activations.name=int8"),
    ),
    "torchvision": ("model=resnet18", "data.image_size=16", "model.norm=group"),
    "scikit_learn": DIGITS,
}


def test_a_device_imports_only_what_its_model_and_data_are_made_of(processes):
    """A board has little memory: torch's compiler would take more than all the rest of a device's imports."""
    arguments = [*SMALL, "pipeline.num_micro_batches=3", *sweep_of(processes.directory, JOBS)]
    size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    (server,) = processes.ranks(2, *arguments, only=(0,), env=size, module="tests.support.without_pictures")
    own = size | {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    device = processes.start([sys.executable, "-m", "tests.support.listing_main", *arguments], **own)
    done = processes.finish(server)
    assert done.code == 0, done.out + done.err
    done = processes.finish(device)
    begun, plain, torchvision, scikit_learn = map(set, map(str.split, done.out.splitlines()))
    assert begun == plain == set()
    assert torchvision >= {"torchvision"}
    assert scikit_learn >= {"sklearn"}
    assert not (torchvision | scikit_learn) & {"hydra", "matplotlib", "tensorboard", "opacus", "torchmetrics"}


def test_a_device_runs_with_the_light_install_alone(processes):
    """With launch/device-requirements.txt and `pip install --no-deps`; the server has everything."""
    python = light_environment(processes.directory / "light")
    arguments = [*SMALL, "pipeline.num_micro_batches=3", *JOBS["plain"], "strategy=pipar"]
    size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    (server,) = processes.ranks(2, *arguments, only=(0,), env=size)
    own = size | {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": ""}
    device = processes.start([str(python), "-m", "pipar_rpc", *arguments], **own)
    done = processes.finish(server)
    assert done.code == 0, done.out + done.err
    assert processes.finish(device).code == 0
    missing = [str(python), "-c", "import hydra"]
    assert subprocess.run(missing, capture_output=True, check=False, env={"PYTHONPATH": ""}).returncode == 1
