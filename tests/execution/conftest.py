"""Fixtures of the engines' tests: a job, the engine `local`, and lock files that no other benchmark uses."""

import multiprocessing.util
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from engine_jobs import MakeJob, job_in

from bench.execution.engines.local import Local


@pytest.fixture(autouse=True, scope="module")
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lock files in the tests' folder, also for the fork server."""
    multiprocessing.util.get_temp_dir()  # the fork server's socket needs a short path
    folder = tmp_path_factory.getbasetemp() / "locks"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"):
            patch.setenv(name, os.environ.get(name, "65536"))
        yield


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """Make a spec's job; its state is below the test's folder."""
    return partial(job_in, tmp_path)


@pytest.fixture
def local() -> Iterator[Local]:
    """The engine `local` with two slots."""
    engine = Local(2)
    yield engine
    engine.close()
