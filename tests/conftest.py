"""Fixtures of all tests, and what every process of pytest sets first."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.processes import Processes

# Begun first, because whoever works on one of them last would keep all others waiting.
LONGEST = ("restart", "resume", "faults", "namespaces", "replacing", "no_hang", "strategies", "selection")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    config.option.loadscopereorder = False  # of xdist: it would begin with the files of most tests
    # Whatever a shell starts in the background ignores Ctrl-C, and so do its children, which tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files of tests/rpc/ first, then the others of it, then all else; each in its own order."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        return order.get(item.path.stem, len(order)) if item.path.parent.name == "rpc" else len(order) + 1

    items.sort(key=place)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    group = Processes(tmp_path)
    yield group
    group.end_all()


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """For one run that several tests of a module look at."""
    group = Processes(tmp_path_factory.mktemp("run"))
    yield group
    left = group.left_over()
    group.end_all()
    assert left == []


@pytest.fixture
def double_precision() -> Iterator[None]:
    """For references to which jobs of tests.support.float64_main are equal to rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
