"""What decides a run's numbers beside its RunSpec: its data, numerics versions, the user's code and part of the environment.

A run's id is the hash of the RunSpec and of all these, so that a record is what it says or another record. Of the project's own
code only declared versions count: each solver, adjoint, cell, core, task and the trainer has an integer `numerics` that is raised
by hand when its numbers change (`python -m bench golden` fails when they change and it was not). A user's module counts by a digest
of its code that comments, layout and docstrings do not change. Needs no torch.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.records.errors import UserError
from bench.records.source_code import Source, is_ours, source_of

_PACKAGES_OF_A_RUN = (
    *("deq", "deq/*", "baselines"),
    *("bench/records", "bench/tasks", "bench/instruments", "bench/training"),
)
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE")
_PLAIN = ("python", "torch", "torch_build", "machine", "cpu_capability", "device", "float32_matmul_precision")
_PACKAGES = ("numpy", "torchdiffeq")


class Identity(BaseModel):
    """SHA-256 of the data, numerics versions by class, digests of the user's modules, and the environment that decides digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    numerics: dict[str, int]
    code: dict[str, str]
    environment: dict[str, str | None]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def run_id(self, key: str) -> str:
        """The id of the run that a RunSpec's key names, made from this: `<key>-<12 hex digits>`."""
        return f"{key}-{self.digest[:12]}"

    def differs(self, other: "Identity") -> list[str]:
        """What is not the same in the other, in words: `numerics of Anderson 1 (here 2)`, `data`, `torch 2.12 (here 2.13)`."""
        found = ["data"] if self.data != other.data else []
        changed = sorted(name for name in {*self.code, *other.code} if self.code.get(name) != other.code.get(name))
        if changed:
            found.append(f"code of {first_of(changed)}")
        for name, mine, theirs in _differences(self.numerics, other.numerics):
            found.append(f"numerics of {name} {mine} (here {theirs})")
        for name, mine, theirs in _differences(self.environment, other.environment):
            found.append(f"{name} {mine} (here {theirs})")
        return found


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*one, *other})
    return [(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


def first_of(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def decisive(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """What of a record's environment decides digits: versions, kernels, device; not how many cores, nor the processor's name."""
    found = {name: environment.get(name) for name in _PLAIN}
    found["python"] = ".".join(str(found["python"]).split(".")[:2])
    found |= {name: environment.get("packages", {}).get(name) for name in _PACKAGES}
    found |= {name: value for name in _VARIABLES if (value := environment.get("variables", {}).get(name)) is not None}
    gpu = environment.get("gpu")
    if gpu:
        found["gpu"] = f"{gpu['name']}, capability {gpu['capability']}"
    return {name: None if value is None else str(value) for name, value in found.items()}


def versions_and_code(makers: Iterable[Callable[..., Any]], things: Iterable[object]) -> tuple[dict[str, int], dict[str, str]]:
    """The numerics versions that the classes of the things and of their parts declare, and digests of the user's modules.

    Keys are class names, `module:Class` for a user's. UserError for a class that is defined in the program itself.
    """
    classes = _classes_of(things)
    modules = {kind.__module__ for kind in classes} | {maker.__module__ for maker in makers}
    if "__main__" in modules:  # another process cannot import it, and an edited cell of a notebook leaves no trace
        raise UserError("a model or task is defined in the program itself (__main__): put it in a module of its own, and import it")
    versions = {
        kind.__name__ if is_ours(kind.__module__) else f"{kind.__module__}:{kind.__qualname__}": int(vars(kind)["numerics"])
        for kind in classes
        if "numerics" in vars(kind)
    }
    return versions, {name: digest_of(name) for name in _closure(modules, lambda name: not is_ours(name))}


def _classes_of(things: Iterable[object]) -> set[type]:
    """The classes of the project and the user that the things, their parts and their parts' ancestors are of."""
    found: set[type] = set()
    seen: set[int] = set()
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Mapping):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += thing
        kinds = [kind for kind in type(thing).__mro__ if kind.__module__ == "__main__" or source_of(kind.__module__)]
        found.update(kinds)
        if kinds or type(thing).__module__.startswith("torch.nn."):  # containers hold ours
            waiting += getattr(thing, "__dict__", {}).values()
    return found


@cache
def project_code() -> Mapping[str, str]:
    """Digests of the project's modules that a run may import. A record keeps them as its provenance; no id depends on them."""
    root = Path(__file__).parents[2]
    files = sorted(path for package in _PACKAGES_OF_A_RUN for path in root.glob(f"{package}/*.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files]
    sources = {name: source_of(name) for name in names}
    return {name: hashlib.sha256(source.content).hexdigest()[:12] for name, source in sources.items() if source is not None}


def project_digest() -> str:
    """One digest of all of them: machines of a cluster must have the same."""
    return hashlib.sha256(json.dumps(dict(project_code())).encode()).hexdigest()[:12]


def changed_modules(code: Mapping[str, str]) -> list[str]:
    """The modules of the project, of those with recorded digests, whose code here is another."""
    here = project_code()
    return sorted(name for name, digest in code.items() if here.get(name) != digest)


def code_here(names: Iterable[str]) -> dict[str, str]:
    """The digests, in this process, of the modules that an Identity names; imports none of them."""
    return {name: digest_of(name) for name in names}


def _closure(modules: Iterable[str], within: Callable[[str], bool]) -> set[str]:
    """The modules and all of the project's or the user's that they import, directly or not, as far as they lie `within`."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or not within(name) or source_of(name) is None:
            continue
        found.add(name)
        waiting += _imports(name, source_of(name))
        if "." in name:  # its package's own code runs before it
            waiting.append(name.rpartition(".")[0])
    return found


@cache
def _imports(module: str, source: Source | None) -> frozenset[str]:
    """The modules that a module may import: of `from a import b` both a and a.b."""
    found: set[str] = set()
    package = module if _is_package(source) else module.rpartition(".")[0]
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            origin = importlib.util.resolve_name("." * node.level + name, package) if node.level else name
            found.update((origin, *(f"{origin}.{alias.name}" for alias in node.names)))
    return frozenset(found - {module})


def _is_package(source: Source | None) -> bool:
    return source is not None and PurePath(source.path).name == "__init__.py"


@cache
def _tree(source: Source | None) -> ast.Module:
    try:
        return ast.parse(source.content if source is not None else b"")
    except (SyntaxError, ValueError):  # compiled code
        return ast.Module(body=[], type_ignores=[])


def digest_of(module: str) -> str:
    """The digest of a module's code by its meaning, or, where it is compiled code, of its bytes."""
    return _digest_of_source(source_of(module))


@cache
def _digest_of_source(source: Source | None) -> str:
    if source is None or source.path.endswith(".py"):
        return hashlib.sha256(json.dumps(_meaning(_tree(source))).encode()).hexdigest()[:12]
    return hashlib.sha256(source.content).hexdigest()[:12]


def _meaning(node: Any) -> Any:
    """A syntax tree as plain lists, without positions, docstrings and what newer Pythons add where it is empty."""
    if isinstance(node, list):
        return [_meaning(item) for item in node]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, (str, int, bool, type(None))) else repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and value and _is_docstring(value[0]):
            value = value[1:]
        if value not in (None, []) and name not in ("type_ignores", "kind"):
            fields[name] = _meaning(value)
    return [type(node).__name__, fields]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
