"""A run that is replaced by another one."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc.checkpoints import replacing
from tests.support.overrides import BASE, merged
from tests.support.processes import PATIENCE_S, child_of
from tests.support.results import files, rows_of

DYING = "tests.support.dying_main"
# One right answer of ten is enough.
UNTIL = ("until.test_accuracy=0.01", "until.val_accuracy=0.01", "data.val_size=90", "data.test_size=100")


def assert_ended_early(job):
    """After the first of three epochs, as was told once."""
    reached = "until.val_accuracy=0.01 reached, until.test_accuracy=0.01 reached"
    ends, log = f"the job ends after epoch 1: {reached}", (job / "pipar_rpc.log").read_text()
    events = EventAccumulator(str(job / "tensorboard"))
    events.Reload()
    told = [event.tensor_proto.string_val[0] for event in events.Tensors("devices/events/text_summary")]
    assert sum(ends.encode() in text for text in told) == 1
    assert log.count(f" down; {reached}\n") == log.count(ends) == 1
    assert [row["epoch"] for row in rows_of(job)] == ["1"]


def test_an_older_run_is_there_until_the_new_one_has_a_checkpoint(processes):
    """One folder: a run that ends early, its model cut off; one killed as it begins; one whose server is."""
    fixed = (*BASE, "hydra.run.dir=job")
    job = processes.directory / "job"
    early = merged(*fixed, *UNTIL)
    torchrun = processes.start_torchrun(3, *early, module=DYING, options=("--max-restarts=1",))
    done = processes.finish(torchrun)
    assert done.code == 0, done.err
    assert "nothing is left to train" in done.out
    assert torch.load(job / "model.pt", weights_only=True)  # half of it is no finished training
    assert_ended_early(job)
    assert {path.name for path in job.iterdir()} <= {*replacing.PARTS, ".lock"}
    before = files(job)
    killed = processes.ranks(3, *fixed, "seed=1", "overwrite=true")
    processes.wait_for("job/replaced")
    for rank in killed:
        rank.kill()
        rank.wait(PATIENCE_S)
    assert files(job / replacing.ASIDE) == before
    torchrun = processes.start_torchrun(3, *fixed, "overwrite=true", options=("--max-restarts=2",))
    processes.wait_for("job/checkpoints/round_000006.pt")
    child_of(torchrun).kill()
    done = processes.finish(torchrun)
    assert done.code == 0, done.err
    assert "resumed from the end of round " in done.out, done.out + done.err
    assert not (job / replacing.ASIDE).exists()
    assert [row["epoch"] for row in rows_of(job)] == ["1", "2", "3"]
    assert (job / "pipar_rpc.log").read_text().count("epoch 3/3") == 1
    before = files(job)
    refusal = processes.training(3, *fixed)
    assert "error: hydra.run.dir=job: holds a run (checkpoints/round_" in refusal.out + refusal.err
    assert files(job) == before
