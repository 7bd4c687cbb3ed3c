"""The order of imports, docstrings of what is public, and the length of files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"deq": {"torch", "numpy"}, "baselines": {"torch", "torchdiffeq"}}
# Each package may import those that it names here, and what they may import: the order of `bench.__doc__`.
IMPORTS = {
    "deq": [],
    "baselines": ["deq"],
    "bench.records": [],
    "bench.suites": ["bench.records", "deq"],
    "bench.tasks": ["bench.records"],
    "bench.instruments": ["bench.records", "baselines"],
    "bench.training": ["bench.tasks", "bench.instruments"],
    "bench.execution": ["bench.training", "bench.suites"],
    "bench.analysis": ["bench.records"],
    "bench.report": ["bench.analysis"],
    "bench.memory": ["bench.training", "bench.suites", "bench.report"],
    "bench.peers": ["bench.training", "bench.analysis"],
    "bench.perf_gate": ["bench.execution"],
    "bench.conformance": ["bench.memory"],
    "bench.studies": ["bench.execution", "bench.report"],
    "bench.claims": ["bench.memory"],
    "bench.report.html": ["bench.claims", "bench.peers"],
    "bench.cli": ["bench.report.html", "bench.perf_gate", "bench.conformance", "bench.studies"],
    "bench": ["bench.cli"],  # its own modules, `bench.__init__` and `bench.__main__`
    "bench.examples": ["bench"],
}
MOST_LINES = 300
LONGER: dict[str, int] = {}
FILES = {path.relative_to(ROOT).as_posix(): path for name in ("deq", "baselines", "bench") for path in (ROOT / name).rglob("*.py")}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def package_of(module: str) -> str:
    """The entry of IMPORTS that a module of ours belongs to, or the top-level package of any other."""
    return next((name for name in sorted(IMPORTS, reverse=True) if f"{module}.".startswith(f"{name}.")), module.partition(".")[0])


def imported(file: str) -> Iterator[str]:
    """The modules that a file imports, inside functions too; `from a import b` counts as a.b."""
    package = file.rpartition("/")[0].replace("/", ".")
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield from (".".join([*parents, *filter(None, [node.module]), alias.name]) for alias in node.names)


def allowed(package: str) -> set[str]:
    """The package and all that it may import."""
    return {package}.union(*(allowed(name) for name in IMPORTS[package]))


def public(tree: Documented, path: str) -> Iterator[tuple[str, Documented]]:
    """The module, and every class, function and method in it whose name has no leading underscore."""
    yield path, tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node, f"{path}:{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{path}:{node.name}", node


def test_imports_follow_the_order() -> None:
    order = list(IMPORTS)
    assert all(order.index(lower) < order.index(name) for name, lowers in IMPORTS.items() for lower in lowers)
    assert package_of("bench.report.html.page") == "bench.report.html"
    against = set()
    for file in FILES:
        package = package_of(file.removesuffix(".py").replace("/", "."))
        found = {package_of(module) for module in imported(file)}
        against |= {(file, name) for name in found & IMPORTS.keys() - allowed(package)}
        assert "tests" not in found, file
        if package in LIBRARIES:
            assert found - IMPORTS.keys() - LIBRARIES[package] <= sys.stdlib_module_names, file
    assert against == set()


def test_public_things_have_docstrings() -> None:
    trees = {file: ast.parse(path.read_text()) for file, path in FILES.items()}
    assert [name for file, tree in trees.items() for name, node in public(tree, file) if not ast.get_docstring(node)] == []


def test_files_stay_small() -> None:
    lines = {file: len(path.read_text().splitlines()) for file, path in FILES.items()}
    assert {file: number for file, number in lines.items() if number > LONGER.get(file, MOST_LINES)} == {}
    assert [file for file in LONGER if lines.get(file, 0) <= MOST_LINES] == []  # take these off the list


def test_the_files_are_found() -> None:
    assert {"deq/solve.py", "baselines/unrolled.py", "bench/records/spec.py"} <= FILES.keys()


def test_what_the_packages_export_exists() -> None:
    import baselines
    import bench
    import deq

    for package in (deq, baselines, bench):
        assert all(hasattr(package, name) for name in package.__all__)
        assert len(set(package.__all__)) == len(package.__all__)


@pytest.mark.parametrize("module", ["bench", "bench.cli.main", "bench.suites.paper"])
def test_torch_and_pandas_are_imported_only_when_used(module: str) -> None:
    code = f"import sys, {module}; from bench import Comparison; sys.exit(bool({{'torch', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
