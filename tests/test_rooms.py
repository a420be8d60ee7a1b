"""The architecture: a room imports only from rooms below it, and what is confined stays confined."""

import ast
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import DictConfig

from pipar_rpc.plan import schema
from tests.support.configuration import plan
from tests.support.source import imports

PACKAGE = Path(__file__).parents[1] / "pipar_rpc"
TESTS = Path(__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
TOP = "(top)"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "conf" not in path.relative_to(PACKAGE).parts)


def name_of(path: Path) -> str:
    """Dotted name of the module in a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """The folder that a module is in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else TOP


def rooms() -> list[str]:
    """From the top down, as the table in CONTRIBUTING.md has them; those in one row share a floor."""
    rows = re.findall(r"^\| ((?:`\w+/`(?:, )?)+|\(top\)) \|", CONTRIBUTING.read_text(), flags=re.MULTILINE)
    return [row.replace("`", "").replace("/", "") for row in rows]


def floors() -> dict[str, int]:
    return {room: -number for number, row in enumerate(rooms()) for room in row.split(", ")}


@cache
def own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports itself; a package's __init__ only if it is named."""
    found = set()
    for name in imports(MODULES[module]):
        if name in MODULES:
            found.add(name)
    return found - {module, "pipar_rpc"}


@cache
def reached(module: str) -> frozenset[str]:
    """All modules of this package that importing a module imports, and itself."""
    seen, waiting = {module}, [module]
    while waiting:
        for name in own_imports(waiting.pop()) - seen:
            seen.add(name)
            waiting.append(name)
    return frozenset(seen)


def test_every_folder_is_a_room_with_a_purpose():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert floors().keys() == folders | {TOP}
    for folder in folders:
        text = (PACKAGE / folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(text)), folder


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_from_rooms_below_it(module):
    floor, own = floors(), room_of(module)
    upwards = {
        name for name in own_imports(module) if room_of(name) != own and floor[room_of(name)] >= floor[own]
    }
    assert not upwards, f"{module} imports {upwards}"


def test_no_two_modules_import_each_other():
    for module in MODULES:
        for name in own_imports(module):
            assert module not in reached(name), f"{module} and {name}"


@pytest.mark.parametrize("library", ["torch.distributed", "hydra"])
@pytest.mark.parametrize("room", ["base", "timing", "models", "data", "testbed", "plan", "training"])
def test_plan_and_training_never_reach_rpc_or_hydra(room, library):
    """Also not through others."""
    for module in MODULES:
        if room_of(module) == room:
            users = [name for name in reached(module) if uses(library, MODULES[name])]
            assert not users, f"{module} reaches {library} through {users}"


def uses(library: str, path: Path) -> bool:
    return any(name == library or name.startswith(f"{library}.") for name in imports(path))


@pytest.mark.parametrize(
    ("library", "place"),
    [
        ("torch.distributed", "pipar_rpc.transport"),
        ("hydra", "pipar_rpc.hydra_compose"),
        ("matplotlib", "pipar_rpc.results"),
        ("torch.utils.tensorboard", "pipar_rpc.results"),
        ("tensorboard", "pipar_rpc.results"),
    ],
)
def test_confined(library, place):
    users = {name for name, path in MODULES.items() if uses(library, path)}
    outside = {name for name in users if not f"{name}.".startswith(f"{place}.")}
    assert users
    assert not outside, f"{library} is imported by {outside}"


def configuration_classes() -> set[type]:
    """All parts of the configuration; the enumerations among its values are plain data."""
    found, waiting = set(), [schema.Config]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += [part for part in get_type_hints(kind).values() if is_dataclass(part)]
    return found


def held_by(value: Any) -> Iterator[Any]:
    """An object and all that can be reached from it."""
    yield value
    if isinstance(value, Mapping):
        parts: Iterable[Any] = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        parts = vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, type) else ()
    for part in parts:
        yield from held_by(part)


@pytest.mark.parametrize("options", [(), ("strategy=sl",), ("selector.profile_iterations=1",)])
def test_a_plan_holds_no_configuration(options):
    classes = configuration_classes()
    assert len(classes) > 10
    assert not [own for own in held_by(plan(*options)) if type(own) in classes or isinstance(own, DictConfig)]


def test_configuration_objects_end_where_contributing_says():
    """Whoever reads a plan gets plain data, for it holds nothing else; nobody else gets at the classes."""
    schemas = {name for name in MODULES if name.startswith("pipar_rpc.plan.") and name.endswith("schema")}
    assert {kind.__module__ for kind in configuration_classes()} == schemas
    users = {name for name in MODULES if own_imports(name) & schemas and room_of(name) != "plan"}
    assert users == {"pipar_rpc.hydra_compose", "pipar_rpc.this_machine"}
    for name, path in MODULES.items():
        if room_of(name) != "plan":
            attributes = {
                node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
            }
            assert not attributes & {"config", "resolved_strategy"}, name


def test_no_test_module_imports_another():
    """What several need is in tests/support/."""
    for path in TESTS.rglob("test_*.py"):
        others = {name for name in imports(path) if name.split(".")[-1].startswith("test_")}
        assert not others, f"{path} imports {others}"


def test_tests_mirror_the_rooms():
    """tests/<room>/ runs in one process; ranks, torchrun and namespaces are started in tests/rpc/ alone."""
    folders = {path.parent.name for path in TESTS.glob("*/__init__.py")}
    assert folders == (floors().keys() - {TOP}) | {"launch", "rpc", "support"}
    starts = re.compile(r"\.(start_torchrun|torchrun|ranks|start_hosts)\(|import .*\bneeds_namespaces\b")
    users = {path.parent.name for path in TESTS.rglob("test_*.py") if starts.search(path.read_text())}
    assert users == {"rpc"}


def test_threads_and_processes_start_in_one_file_each():
    starts = {
        r"ThreadPoolExecutor\(|threading\.(Thread|Timer)\(": "pipar_rpc.base.threads",
        r"subprocess\.|multiprocessing": "pipar_rpc.base.fresh_process",
    }
    for pattern, place in starts.items():
        users = {name for name, path in MODULES.items() if re.search(pattern, path.read_text())}
        assert users <= {place}, users


def test_micro_batch_numbers_are_capped_in_one_place():
    divided = {name for name, path in MODULES.items() if re.search(r"//\s*[\w.]*smallest", path.read_text())}
    assert divided == {"pipar_rpc.base.microbatch"}


def lengths(path: Path) -> list[int]:
    """Lines of each function, its docstring not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            found.append((body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_short(path):
    assert len(path.read_text().splitlines()) <= 250
    assert max(lengths(path), default=0) <= 40


def test_most_are_much_shorter():
    assert statistics.median(len(path.read_text().splitlines()) for path in FILES) <= 130
    assert statistics.quantiles([n for path in FILES for n in lengths(path)], n=10)[-1] <= 25
