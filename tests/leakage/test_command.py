"""The command, from the folder of a run to table and pictures."""

import csv
import sys
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from pipar_rpc.leakage.arguments import asked, parse
from pipar_rpc.plan.finished import Protection, read_finished
from tests.support.commands import run_here
from tests.support.finished import finished_run

DIGITS = ("data=digits", "data.image_size=8", "model.norm=group", "network=4g", "batch_size=10")
QUICK = ("--num-images=40", "--epochs=1")
leakage = partial(run_here, "pipar_rpc.leakage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "run", *DIGITS)


def rows_in(folder):
    with (folder / "leakage.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_and_two_pictures(folder, tmp_path):
    threads = torch.get_num_threads()
    how = ("--split-points=1,4", "--noise=0,0.5", "--compression=none,int8", f"--output={tmp_path}", *QUICK)
    done = leakage(folder, *how)
    assert done.code == 0, done.err
    rows = rows_in(tmp_path)
    ways = [(row["split_point"], row["compression"], row["noise"]) for row in rows]
    assert ways == list(product("14", ("none", "int8"), ("0", "0.5")))
    assert all(0 < float(row["distance_correlation"]) <= 1 for row in rows)
    assert all(0 < float(row["mse"]) < 1 and -1 <= float(row["ssim"]) <= 1 for row in rows)
    assert [row["max_norm"] == "" for row in rows] == [True, False] * 4
    by_codec = {row["compression"]: float(row["predicted_iteration_s"]) for row in rows[:4]}
    assert by_codec["int8"] < by_codec["none"]
    for name in ("leakage.png", "reconstructions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "model.pt"}
    assert "30 held-out images to learn from, 10 scored" in done.out
    assert len([line for line in done.out.splitlines() if line.split()[:1] in (["1"], ["4"])]) == 8
    assert torch.get_num_threads() == threads


def test_the_same_command_gives_the_same_table(folder, tmp_path):
    found = []
    for seed in (0, 0, 1):
        how = ("--split-points=4", "--noise=0.1", f"--seed={seed}", f"--output={tmp_path}", *QUICK)
        assert leakage(folder, *how).code == 0
        found.append((tmp_path / "leakage.csv").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_by_default_all_cuts_with_the_runs_codecs_and_noise(tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run", *DIGITS, "compression=int8", "compression.gradients.name=topk")
    read = replace(read_finished(run / "config.yaml", ()), protection=Protection(2.0, 0.75), tail_units=2)
    monkeypatch.setattr(sys, "argv", ["leakage", str(run), "--num-images=30"])
    wanted = asked(parse(None), read)
    assert (wanted.split_points, wanted.noises, wanted.max_norm) == ([1, 2, 3, 4], [0.0, 0.75], 2.0)
    assert (wanted.tail_units, wanted.seed) == (2, 0)
    assert wanted.codings == {"int8/topk": read.plan.devices[0].coding}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--split-points=1,5"], "--split-points=5: must be 1..4 (P = 5 sends nothing but models)"),
        (["--split-points=1.5"], "--split-points=1.5: must be numbers of 1..4, with commas between them"),
        (["--noise=-1"], "--noise=-1: must be >= 0"),
        (["--max-norm=0"], "--max-norm=0.0: must be > 0"),
        (["--compression=int9"], "--compression=int9: must be a known codec: did you mean int8?"),
        (["--num-images=3"], "--num-images=3: must be >= 20"),
        (["--best"], "no trained network is there: no model_best.pt"),
        (["seed"], "seed: must be key=value, with a key of the run's configuration"),
        (["sed=1"], "sed: no such key: did you mean seed?"),
        (["model.name=vgg11", "data.image_size=32"], "model.weights="),
        (["data.name=imagefolder", "node.data_root=nowhere"], "node.data_root=nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line(folder, arguments, line):
    done = leakage(folder, *arguments)
    assert done.code == 2
    assert done.err.startswith("pipar_rpc: error: ")
    assert line in done.err
    assert done.err.count("\n") == 1


def test_a_folder_without_a_run_is_refused(tmp_path):
    done = leakage(tmp_path)
    assert done.code == 2
    assert done.err == f"pipar_rpc: error: {tmp_path}: no run is there: no config.yaml\n"


def test_images_that_are_too_small_are_refused(tmp_path):
    run = finished_run(tmp_path / "run", *DIGITS, "data.image_size=4")
    done = leakage(run)
    assert done.code == 2
    assert done.err == "pipar_rpc: error: data.image_size=4: must be >= 6, for SSIM\n"


def test_data_that_is_no_image_is_refused(tmp_path):
    own = ("data=custom", "data._target_=tests.support.own_data.regression", "loss=mse", "model=custom")
    run = finished_run(
        tmp_path / "run",
        *own,
        "model._target_=tests.support.own_network.vectors",
        "batch_size=8",
        "enable_val=false",
    )
    done = leakage(run)
    assert done.code == 2
    assert "data=custom: must be images: there is nothing to draw in 5 float" in done.err
