"""One report for all tests that read one: drawing its figures takes seconds."""

from pathlib import Path

import pytest
from test_report import comparison, save

from bench.report.report import write_report


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The results folder of `comparison`, and the files of its report; not to be changed."""
    results = save(tmp_path_factory.mktemp("results"), comparison())
    return results, write_report(results)
