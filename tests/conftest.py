"""One thread, one seed, the order of the files, and meters of the memory of tensors."""

import gc
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class _Live(TorchDispatchMode):
    """Bytes of the live storages that were made under this mode, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in known and key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._free, key)
        return out

    def _free(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Measure the peak bytes that a call allocates."""

    def measure(run: Callable[[], object]) -> int:
        with _Live() as meter:
            run()
        return meter.peak

    return measure


@pytest.fixture
def saved_bytes() -> Callable[[Callable[[], object]], int]:
    """Measure the bytes of the distinct storages that a call saves for backward."""

    def measure(run: Callable[[], object]) -> int:
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = run()
        total = sum(storage.nbytes() for storage in storages.values())
        del out
        return total

    return measure
