"""What a new user has: the installed package and the scripts."""

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
