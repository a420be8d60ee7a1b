"""An environment that has what launch/device-requirements.txt names, and nothing else."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.processes import ROOT


def light_environment(folder: Path) -> Path:
    """Makes the environment, of links to what is installed here; returns its Python.

    That is what `pip install --requirement device-requirements.txt` leaves, and `pip install --no-deps` of
    this package.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "pipar_rpc").symlink_to(ROOT / "pipar_rpc")
    lines = (ROOT / "launch/device-requirements.txt").read_text().splitlines()
    for name in _with_what_they_need([line for line in lines if line and not line.startswith("#")]):
        installed = distribution(name)
        tops = {path.parts[0] for path in installed.files or [] if path.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(str(installed.locate_file(top)))
    return folder / "bin" / "python"


def _with_what_they_need(requirements: list[str]) -> set[str]:
    found, waiting = set[str](), list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += distribution(name).requires or []
    return found
