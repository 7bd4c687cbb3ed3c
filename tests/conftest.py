"""One thread, one seed, and the order of the files."""

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("project", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("whole", deadline=None, derandomize=True, max_examples=400)
settings.load_profile("project")  # `--hypothesis-profile` comes after
_LONG = {"test_survival.py", "test_gate.py", "test_memory.py", "test_cli.py", "test_ray.py", "test_torchrun.py", "test_check.py"}
# Fixtures that train, start processes or read all published files.
_END_TO_END = {"finished", "local", "made", "models", "published", "published_page", "origins", "browser", "usual"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no process is left with one at the end; mark tests whose fixtures are end to end."""
    items.sort(key=lambda item: item.path.name not in _LONG)
    for item in items:
        if _END_TO_END & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.end_to_end)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let no width of a terminal decide what a test sees; those of the command line set one."""
    if item.path.name != "test_cli.py":
        os.environ.pop("COLUMNS", None)


def pytest_collection_finish() -> None:
    """Exclude imported objects from the garbage collections of the probes, 0.1 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    """Make float64 the default of torch, and seed it with 3."""
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
