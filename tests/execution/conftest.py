"""Fixtures of the engines' tests: a job, the engine `local`, and lock files that no other benchmark uses."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from engine_jobs import MakeJob, job_in
from running import own_locks

from bench.execution.engines.local import Local


@pytest.fixture(autouse=True, scope="module")
def _own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lock files in the tests' folder, also for the fork server."""
    with own_locks(tmp_path_factory):
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
