"""The architecture: imports only go down, and what is confined stays confined."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipar_rpc"
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"


def modules() -> dict[str, list[Path]]:
    """Unit of the architecture (a file, or a folder as a whole) -> its files."""
    units = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    units |= {path.parent.name: sorted(path.parent.glob("*.py")) for path in PACKAGE.glob("*/__init__.py")}
    return units


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def own_imports(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("pipar_rpc.")} & modules().keys()


def floors() -> dict[str, int]:
    """The table in CONTRIBUTING.md: `| floor | modules |`."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", CONTRIBUTING.read_text(), flags=re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}


def test_every_module_has_a_floor():
    assert floors().keys() == modules().keys()


@pytest.mark.parametrize("unit", sorted(modules()))
def test_imports_only_go_down(unit):
    floor = floors()
    for path in modules()[unit]:
        upwards = {name for name in own_imports(path) - {unit} if floor[name] >= floor[unit]}
        assert not upwards, f"{path.name} on floor {floor[unit]} imports {upwards}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("torch.distributed", {"actor", "port", "exchange", "contexts", "session", "meeting"}),
        ("hydra", {"composition"}),
        ("omegaconf", {"jobs", "composition", "config", "plan", "device_profile", "resuming"}),
        ("matplotlib", {"figures", "gantt"}),
        ("threading", {"worker", "link", "session", "exchange"}),
        ("concurrent.futures.ThreadPoolExecutor", {"worker", "exchange", "rotation"}),
        ("tqdm", {"display", "profiler"}),
        ("torch.utils.tensorboard", {"sinks"}),
    ],
)
def test_confined(module, allowed):
    users = {
        unit
        for unit, paths in modules().items()
        for path in paths
        for name in imports(path)
        if name == module or name.startswith(module + ".")
    }
    assert users <= allowed, f"{module} is imported by {users - allowed}"


def test_only_worker_starts_threads():
    for unit, paths in modules().items():
        for path in paths:
            starts = re.search(r"ThreadPoolExecutor\(|threading\.(Thread|Timer)\(", path.read_text())
            assert unit == "worker" or not starts, path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_files_and_functions_stay_short(path):
    assert len(path.read_text().splitlines()) <= 280
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 45, f"{node.name} has {length} lines"
