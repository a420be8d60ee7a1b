"""What a new user has: the installed package and the scripts."""

import email
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions

import pytest
import yaml

import pipar_rpc
from tests.support.processes import ROOT
from tests.support.results import PIPAR, write
from tests.support.source import imports


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    (path,) = folder.glob("*.whl")
    return path


def test_conf_and_the_report_travel_inside_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"pipar_rpc/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert {f"pipar_rpc/results/{name}" for name in ("report.html.j2", "published.yaml")} <= names


def test_the_wheel_declares_what_it_imports():
    """As a requirement or as an extra; what an environment has beside that is not there for others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [texts for name, texts in project["optional-dependencies"].items() if name != "dev"]
    requirements = itertools.chain(project["dependencies"], *extras)
    declared = {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in requirements}
    packages = packages_distributions()
    for path in (ROOT / "pipar_rpc").rglob("*.py"):
        names = {name.partition(".")[0] for name in imports(path)} - sys.stdlib_module_names
        for name in names - {"pipar_rpc"}:
            assert declared & {package.lower() for package in packages[name]}, f"{path} imports {name}"


def test_a_device_needs_a_part_of_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "launch/device-requirements.txt").read_text().splitlines()
    light = {line for line in lines if not line.startswith("#")}
    assert {re.split(r"[<>=]", line)[0] for line in light} == {"torch", "numpy", "omegaconf", "psutil"}
    assert light < set(project["dependencies"])


def test_the_installed_package_runs_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site)}
    code = "import pipar_rpc, pipar_rpc.hydra_compose as c; print(pipar_rpc.__file__, c.config_dir())"
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 60}
    shown = subprocess.run([sys.executable, "-c", code], check=True, **options)
    assert shown.stdout.split() == [str(site / "pipar_rpc/__init__.py"), str(site / "pipar_rpc/conf")]
    command = [sys.executable, "-m", "pipar_rpc", "--cfg", "job", "network=4g_plus"]
    shown = subprocess.run(command, check=True, **options)
    assert "uplink_mbps: 20" in shown.stdout
    write(tmp_path / "run", PIPAR)
    command = [sys.executable, "-m", "pipar_rpc.report", "run"]
    subprocess.run(command, check=True, **options)
    assert "Training time per epoch" in (tmp_path / "run/report.html").read_text()


def test_the_wheel_says_what_it_needs_and_offers(wheel):
    (info,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(info))
    needed = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    names = {re.match(r"[\w-]+", need)[0] for need in needed}
    assert "scipy" in names
    assert metadata.get_all("Provides-Extra") == ["dev", "metrics", "privacy"]
    assert metadata["Project-URL"] == "Paper, https://arxiv.org/abs/2302.12803"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert "pipar_rpc/py.typed" in zipfile.ZipFile(wheel).namelist()


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
    source = f"set -e; source '{ROOT}/launch/environment.sh'; make_environment ."
    env = {**os.environ, "PYTHON": str(python), "PIPAR_VENV": str(tmp_path / "venv")}
    shown = subprocess.run(["bash", "-c", source], env=env, check=False, capture_output=True, text=True)
    if accepted:
        assert shown.returncode == 77  # it went on to make the environment
    else:
        assert shown.returncode == 1
        assert shown.stderr.startswith("pipar_rpc needs Python 3.11, 3.12 or 3.13")
        assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/lint.sh", "launch/test.sh", ".ci/run"])
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text()


def test_hooks_and_public_ci_run_the_same_scripts():
    assert "bash launch/lint.sh" in (ROOT / "launch/test.sh").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]] == ["bash launch/lint.sh"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]


def test_one_version_is_named_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == pipar_rpc.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_names_a_folder_of_one_machine():
    """Somebody's home or working folder; read file by file, so that it holds outside a git checkout too."""
    folders = (".ci", ".github", "conf", "docs", "launch", "pipar_rpc", "tests")
    paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in paths if path.suffix in {".py", ".md", ".sh", ".yaml", ".yml", ".toml", ".cff"}]
    assert len(texts) > 150
    for path in texts:
        named = re.findall(r"(?<![\w.}>])/(?:home|mnt|root|shared|Users|work)/|\.\./shared", path.read_text())
        assert not named, f"{path} names {named}"
