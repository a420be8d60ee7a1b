"""Kills a random process at a random moment, again and again: every training must end as it should.

    python -m launch.faults --times 30

Each time a strategy, a victim (the server or one of three devices), a moment (while the ranks start, or after
a round) and a way of starting are drawn: single processes, one torchrun with restarts, or one torchrun for
each rank. After a killed server the training is resumed (by torchrun, or by the same command with
resume=auto) and its weights must be those of an uninterrupted run, bit for bit; after a killed device those
of a run in which that device was told to leave in the same round, unless it came back. Nothing may be left:
no process and no listening port.
"""

import argparse
import random
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from launch.script import run_script
from launch.trial import NUM_RANKS, Trial

STARTING_S = (1.0, 8.0)  # from the start of the processes to a kill while they start
STARTING_SHARE = 0.2  # of the kills
ROUNDS = 20
ROUND_S = 0.3
JOB = (
    *("data=synthetic", "data.image_size=8", "data.train_size=300", "data.train_size_per_device=20"),
    *("data.val_size=10", "data.test_size=20", "batch_size=10", "epochs=4", "aggregation.every=1"),
    *("network=none", "pipeline.num_micro_batches=3", "devices.overrides.1.batch_size=4"),
    *("node.timeout_s=40", "checkpoint.keep=100"),
)
STRATEGIES = {  # links that make a round take about 0.2 s
    "fl": ("strategy=fl", "network.uplink_mbps=10"),
    "sl": ("strategy=sl", "network.uplink_mbps=1"),
    "sfl": ("strategy=sfl", "network.uplink_mbps=0.5"),
    "pipar": ("strategy=pipar", "network.uplink_mbps=0.5"),
}
WAYS = ("processes", "torchrun", "hosts")


def victim_of(way: str, processes: list[subprocess.Popen[bytes]], rank: int) -> psutil.Process:
    """The process of a rank."""
    if way == "processes":
        return psutil.Process(processes[rank].pid)
    torchrun = processes[0 if way == "torchrun" else rank]
    workers = sorted(psutil.Process(torchrun.pid).children(), key=lambda child: child.pid)
    return workers[rank if way == "torchrun" else 0]


class Chaos:
    """Runs trials and the trainings that they are compared with, each once.

    Args:
        folder: folder that everything is written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._references = folder, dict[tuple[str, ...], Path]()

    def trial(
        self, number: int, strategy: str, way: str, rank: int, after: int | None, delay_s: float
    ) -> str:
        """Kills rank `rank` `delay_s` after the start, or after round `after`; returns what happened."""
        trial = Trial(self._new(f"trial{number}"), (*JOB, *STRATEGIES[strategy]))
        processes = trial.start(way)
        if after is not None:
            trial.wait_for(f"outputs/*/*/checkpoints/round_{after:06}.pt")
        time.sleep(delay_s)
        with suppress(psutil.NoSuchProcess, IndexError):  # it had ended before
            victim_of(way, processes, rank).kill()
        codes = trial.wait(processes)
        resumed = "resumed from" in trial.log()
        what = "resumed by torchrun" if resumed else "begun anew by torchrun" if rank == 0 else "went on"
        if way == "processes" and (rank == 0 or codes[0]):
            assert codes[0], "the server was killed and ended well"
            assert trial.wait(trial.start("processes", "resume=auto")) == [0] * NUM_RANKS, trial.log()
            what = "resumed with resume=auto"
        elif codes[0]:
            raise AssertionError(f"exit codes {codes}\n{trial.log()}")
        (model,) = trial.folder.glob("outputs/*/*/model.pt")
        said = trial.log()
        left = re.findall(r"device(\d) leaves (in|after) round (\d+)", said)
        if left and "resumed from" not in said:
            device, when, round_number = left[0]
            leaves = int(round_number) + (when == "after")
            reference = self._reference(strategy, f"fault.leave.{device}={leaves}")
            what = f"left in round {leaves}"
        else:
            reference = self._reference(strategy)
            what = "left and came back" if left else what
        same = _same(model, reference / "model.pt")
        assert same or left, f"weights differ\n{said}"
        assert same or what == "left and came back", (
            f"weights differ from those of a planned departure\n{said}"
        )
        assert not trial.left_over(), trial.left_over()
        shutil.rmtree(trial.folder)
        return f"{what}, {'the same weights' if same else 'other weights'}"

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _reference(self, strategy: str, *more: str) -> Path:
        key = (strategy, *more)
        if key not in self._references:
            trial = Trial(self._new("_".join(key)), (*JOB, *STRATEGIES[strategy], "network.uplink_mbps=100"))
            self._references[key] = trial.train(*more)
        return self._references[key]


def _same(first: Path, second: Path) -> bool:
    one, two = torch.load(first, weights_only=True), torch.load(second, weights_only=True)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30, help="how many kills (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pipar-faults") as name:
        chaos = Chaos(Path(name))
        for number in range(1, args.times + 1):
            strategy, way = draw.choice(list(STRATEGIES)), draw.choice(WAYS)
            starting, rank = draw.random() < STARTING_SHARE, draw.randrange(NUM_RANKS)
            after = None if starting else draw.randrange(ROUNDS - 2)
            delay_s = draw.uniform(*STARTING_S) if starting else draw.uniform(0, ROUND_S)
            began = time.monotonic()
            try:
                what = chaos.trial(number, strategy, way, rank, after, delay_s)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed, what = failed + 1, f"FAILED: {error}"
            victim = "server" if rank == 0 else f"device{rank}"
            seconds = time.monotonic() - began
            moment = "the start" if after is None else f"round {after}"
            who = f"{strategy:6} {way:10} {victim} killed {delay_s:.2f} s after {moment}"
            print(f"{number:3} {who}: {what} ({seconds:.0f} s)", flush=True)
    print(f"{args.times} kills, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script("launch.faults", main)
