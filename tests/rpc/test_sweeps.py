"""A sweep of the user's own file: jobs of several sizes, a sweeper that is told a figure."""

import json
import math
import sys
import textwrap

import pytest

from tests.support.overrides import SMALL
from tests.support.results import rows_of

# A network that notes where it is built, and with how many threads; a sweeper that notes what it is told.
NETWORK = """
    import os
    from pathlib import Path

    import torch

    from tests.support.own_network import build

    def noting(channels, image_size, num_classes):
        if "RANK" in os.environ:
            note = f"{torch.get_num_threads()} {os.getcwd()}"
            (Path(__file__).parent / f"rank{os.environ['RANK']}").write_text(note)
        return build(channels, image_size, num_classes, width=4)
"""
SWEEPER = """
    import json
    from pathlib import Path

    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    class Told(BasicSweeper):
        def sweep(self, arguments):
            returned = super().sweep(arguments)
            Path("told.json").write_text(json.dumps([job.return_value for jobs in returned for job in jobs]))
"""
OWN = """
    defaults:
      - config
      - override model: custom
      - _self_
    model:
      _target_: own_network.noting
    objective: val_accuracy
    node:
      threads: 2
    hydra:
      mode: MULTIRUN
      job:
        chdir: true
      sweeper:
        _target_: hydra_plugins.told.Told
        params:
          num_devices: 1,2
          pipeline.split_point: 1,9
"""


@pytest.fixture
def own_files(processes):
    """A directory with a configuration file of the user's, and what it names."""
    files = {"own_network.py": NETWORK, "hydra_plugins/told.py": SWEEPER, "settings/mine.yaml": OWN}
    for name, text in files.items():
        path = processes.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (processes.directory / "links.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,500,500\n")
    return processes


def test_a_sweep_of_the_users_own_file(own_files):
    """Started without torchrun: ranks for its largest job, node keys for all, numbers for its sweeper.

    Relative paths are those of here, although Hydra goes into each job's folder.
    """
    command = [sys.executable, "-m", "pipar_rpc", *SMALL, "--config-name", "mine", "network.trace=links.csv"]
    done = own_files.finish(own_files.start([*command, "-cd", "settings"]))
    assert "2 jobs done, 2 failed" in done.out, done.err
    jobs = sorted(own_files.directory.glob("outputs/pipar/*_multirun/*_P1_N8"))
    one, two = (rows_of(job)[-1] for job in jobs)
    assert (one["num_devices"], two["num_devices"]) == ("1", "2")
    told = json.loads((own_files.directory / "told.json").read_text())
    reached = [float(one["val_accuracy"]), math.nan, float(two["val_accuracy"]), math.nan]
    assert told == pytest.approx(reached, nan_ok=True)
    for rank in (1, 2):
        assert (own_files.directory / f"rank{rank}").read_text() == f"2 {own_files.directory}"
    assert not list(own_files.directory.glob("outputs/**/outputs"))
