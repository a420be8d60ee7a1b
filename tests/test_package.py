"""What a new user has: the installed package and the scripts."""

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from launch import report
from pipar_rpc.errors import UserError

from .conftest import ROOT
from .test_floors import imports


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    (path,) = folder.glob("*.whl")
    return path


def test_conf_travels_inside_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"pipar_rpc/conf/{path.relative_to(ROOT / 'conf')}" in names


def test_the_installed_package_runs_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site)}
    code = "import pipar_rpc, pipar_rpc.composition as c; print(pipar_rpc.__file__, c.config_dir())"
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 60}
    shown = subprocess.run([sys.executable, "-c", code], check=True, **options)
    assert shown.stdout.split() == [str(site / "pipar_rpc/__init__.py"), str(site / "pipar_rpc/conf")]
    command = [sys.executable, "-m", "pipar_rpc", "--cfg", "job", "network=4g_plus"]
    shown = subprocess.run(command, check=True, **options)
    assert "uplink_mbps: 20" in shown.stdout


def test_the_wheel_says_what_it_needs_and_offers(wheel):
    (info,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(info))
    needed = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    names = {re.match(r"[\w-]+", need)[0] for need in needed}
    assert "jinja2" not in names  # of launch/ alone
    assert "scipy" in names
    assert set(metadata.get_all("Provides-Extra")) == {"dev", "report"}
    assert metadata["Project-URL"] == "Paper, https://arxiv.org/abs/2302.12803"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert "pipar_rpc/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_all_that_is_imported_is_declared():
    """By the package in `dependencies`, by scripts and tests in these or an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.match(r"[\w-]+", need)[0].lower() for need in project["dependencies"]}
    extra = {
        re.match(r"[\w-]+", need)[0] for needs in project["optional-dependencies"].values() for need in needs
    }
    distributions = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "hydra": "hydra-core"}
    for folder, declared in (("pipar_rpc", core), ("launch", core | extra), ("tests", core | extra)):
        for path in (ROOT / folder).rglob("*.py"):
            own = {"pipar_rpc", "launch", "None", *(other.stem for other in path.parent.glob("*.py"))}
            tops = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - own
            assert {distributions.get(top, top) for top in tops} <= declared, path


def test_the_installed_command_is_python_m(wheel, tmp_path):
    """It finds the user's networks in the current folder; checks and starts as `python -m pipar_rpc`."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (info,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    module, function = re.search(r"^pipar_rpc = (\S+):(\S+)$", info.read_text(), flags=re.MULTILINE).groups()
    script, work = tmp_path / "bin" / "pipar_rpc", tmp_path / "work"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    work.mkdir()
    (work / "my_nets.py").write_text(
        "from torch import nn\nbuild = lambda: [nn.Flatten(), nn.LazyLinear(10)]\n"
    )
    options = ["model=custom", "model._target_=my_nets.build", "pipeline.split_point=9"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, str(script), *options],
        cwd=work,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 2
    assert shown.stderr.startswith("pipar_rpc: error: pipeline.split_point=9: must be 1.."), shown.stderr


@pytest.mark.parametrize(("version", "accepted"), [((3, 10), 0), ((3, 11), 1), ((3, 13), 1), ((3, 14), 0)])
def test_scripts_refuse_versions_of_python_that_were_not_run(tmp_path, version, accepted):
    python = tmp_path / "python"
    as_that = f'exec {sys.executable} -c "import sys; sys.version_info = {version}; $2"'
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 77\n{as_that}\n')
    python.chmod(0o755)
    source = f"set -e; source {ROOT}/launch/environment.sh; make_environment ."
    env = {**os.environ, "PYTHON": str(python), "PIPAR_VENV": str(tmp_path / "venv")}
    shown = subprocess.run(["bash", "-c", source], env=env, check=False, capture_output=True, text=True)
    if accepted:
        assert shown.returncode == 77  # it went on to make the environment
    else:
        assert shown.returncode == 1
        assert shown.stderr.startswith("pipar_rpc needs Python 3.11, 3.12 or 3.13")
        assert shown.stderr.count("\n") == 1


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(sys, "argv", ["report", "somewhere"])
    with pytest.raises(UserError, match=r"jinja2 is missing: pip install '\.\[report\]'"):
        report.main()


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh", ".ci/run"])
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text()


def test_nothing_names_the_machines_it_was_made_on():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True)
    for name in tracked.stdout.split():
        if name.endswith((".py", ".md", ".sh", ".yaml", ".toml")):
            text = (ROOT / name).read_text()
            assert "/" + "work/" not in text, name
            assert "../" + "shared" not in text, name
