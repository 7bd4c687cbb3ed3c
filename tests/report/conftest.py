"""One report and one page for all tests that read one: drawing takes seconds."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from running import save
from test_report import comparison

from bench.report.html.page import render_page
from bench.report.report import write_report

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The results folder of `comparison`, and the files of its report; not to be changed."""
    results = save(tmp_path_factory.mktemp("results"), comparison())
    return results, write_report(results)


@pytest.fixture(scope="session")
def published_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the published records, written by the first process of a run that needs it."""
    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "published.html"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_text(render_page(RESULTS), encoding="utf-8")
    return file.read_text(encoding="utf-8")
