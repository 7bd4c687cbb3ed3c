"""The architecture is checked, not remembered: who imports whom, that all that is public is documented, that files stay small."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"deq", "baselines", "bench", "tests"}
MAY_IMPORT = {"deq": {"deq"}, "baselines": {"baselines", "deq"}, "bench": {"bench", "baselines", "deq"}}
MOST_LINES = 450
FILES = {path.relative_to(ROOT).as_posix(): path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The top-level package of every import, relative ones and those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").split(".")[0]


def public(tree: Documented, path: str) -> Iterator[tuple[str, Documented]]:
    """The module, and every class, function and method in it whose name has no leading underscore."""
    yield path, tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node, f"{path}:{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{path}:{node.name}", node


@pytest.mark.parametrize("file", FILES)
def test_imports_point_to_the_right_only(file: str) -> None:
    package = file.split("/")[0]
    names = set(imported(ast.parse(FILES[file].read_text()), package))
    assert names & OURS <= MAY_IMPORT[package]
    libraries = {"deq": {"torch"}, "baselines": {"torch", "torchdiffeq"}}
    if package in libraries:
        assert names - OURS - libraries[package] <= sys.stdlib_module_names


@pytest.mark.parametrize("file", FILES)
def test_all_that_is_public_has_a_docstring(file: str) -> None:
    missing = [name for name, node in public(ast.parse(FILES[file].read_text()), file) if not ast.get_docstring(node)]
    assert missing == []


@pytest.mark.parametrize("file", FILES)
def test_files_stay_small(file: str) -> None:
    assert len(FILES[file].read_text().splitlines()) <= MOST_LINES


def test_the_files_are_found() -> None:
    assert {"deq/solve.py", "baselines/unrolled.py", "bench/records/spec.py"} <= FILES.keys()


def test_what_the_packages_export_exists() -> None:
    import baselines
    import deq

    for package in (deq, baselines):
        assert all(hasattr(package, name) for name in package.__all__)
        assert len(set(package.__all__)) == len(package.__all__)
