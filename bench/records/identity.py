"""The Identity of a run: what determines its numbers besides the RunSpec. A run's id is a hash of both.

It holds the data, numerics versions, the user's code and part of the environment. The project's own code counts by declared
versions only: each solver, adjoint, cell, core, task and the trainer has an integer `numerics`, raised by hand when its numbers
change (`python -m bench golden` fails if it was not). A user's module counts by a digest that comments, layout and docstrings do
not change.
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
    """SHA-256 of the data, numerics versions by class, digests of the user's modules, and the numeric environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    numerics: dict[str, int]
    code: dict[str, str]
    environment: dict[str, str | None]

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, in hex."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def run_id(self, key: str) -> str:
        """The run id for a RunSpec's key: `<key>-<12 hex digits>`."""
        return f"{key}-{self.digest[:12]}"

    def differs(self, other: "Identity") -> list[str]:
        """The differences, such as `numerics of Anderson 1 (here 2)`, `data`, `torch 2.12 (here 2.13)`."""
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
    """The first three names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def numeric_environment(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """The part of a record's environment that changes digits: versions, kernels, device; not the number of cores or their name."""
    found = {name: environment.get(name) for name in _PLAIN}
    found["python"] = ".".join(str(found["python"]).split(".")[:2])
    found |= {name: environment.get("packages", {}).get(name) for name in _PACKAGES}
    found |= {name: value for name in _VARIABLES if (value := environment.get("variables", {}).get(name)) is not None}
    if found["cpu_capability"] == "AVX2" and found.get("ONEDNN_MAX_CPU_ISA") == "AVX2":
        del found["ONEDNN_MAX_CPU_ISA"]  # what a processor without AVX512 does anyway
    gpu = environment.get("gpu")
    if gpu:
        float32 = gpu.get("float32", {"convolution": "tf32", "rnn": "tf32"})  # cuDNN's default in older records
        found["gpu"] = f"{gpu['name']}, capability {gpu['capability']}, float32 products {float32}"
    return {name: None if value is None else str(value) for name, value in found.items()}


def versions_and_code(makers: Iterable[Callable[..., Any]], things: Iterable[object]) -> tuple[dict[str, int], dict[str, str]]:
    """The numerics versions of the classes of all things and their parts, and digests of the user's modules.

    Keys are class names, `module:Class` for a user's. UserError for a class of the main program.
    """
    classes = _classes_of(things)
    modules = {kind.__module__ for kind in classes} | {maker.__module__ for maker in makers}
    if "__main__" in modules:  # other processes cannot import it
        raise UserError("a model or task is defined in the program itself (__main__): move it to a module and import it")
    versions = {
        kind.__name__ if is_ours(kind.__module__) else f"{kind.__module__}:{kind.__qualname__}": int(vars(kind)["numerics"])
        for kind in classes
        if "numerics" in vars(kind)
    }
    return versions, {name: digest_of(name) for name in _with_imports(modules)}


def _classes_of(things: Iterable[object]) -> set[type]:
    """The classes, with ancestors, of the things and their parts, as far as they are the project's or the user's."""
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
    """Digests of the project's modules that a run may import; provenance of a record, not part of its id."""
    root = Path(__file__).parents[2]
    files = sorted(path for package in _PACKAGES_OF_A_RUN for path in root.glob(f"{package}/*.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files]
    sources = {name: source_of(name) for name in names}
    return {name: hashlib.sha256(source.content).hexdigest()[:12] for name, source in sources.items() if source is not None}


def project_digest() -> str:
    """One digest of `project_code`, which all machines of a cluster must share."""
    return hashlib.sha256(json.dumps(dict(project_code())).encode()).hexdigest()[:12]


def changed_modules(code: Mapping[str, str]) -> list[str]:
    """The modules whose code here differs from the recorded digests."""
    here = project_code()
    return sorted(name for name, digest in code.items() if here.get(name) != digest)


def code_here(names: Iterable[str]) -> dict[str, str]:
    """The digests of these modules in this process, without importing them."""
    return {name: digest_of(name) for name in names}


def _with_imports(modules: Iterable[str]) -> set[str]:
    """The user's modules among these, and those that they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or is_ours(name) or source_of(name) is None:
            continue
        found.add(name)
        waiting += _imports(name, source_of(name))
        if "." in name:  # its package is imported first
            waiting.append(name.rpartition(".")[0])
    return found


@cache
def _imports(module: str, source: Source | None) -> frozenset[str]:
    """The modules that a module may import: of `from a import b` both a and a.b."""
    found: set[str] = set()
    is_package = source is not None and PurePath(source.path).name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            origin = importlib.util.resolve_name("." * node.level + name, package) if node.level else name
            found.update((origin, *(f"{origin}.{alias.name}" for alias in node.names)))
    return frozenset(found - {module})


@cache
def _tree(source: Source | None) -> ast.Module:
    try:
        return ast.parse(source.content if source is not None else b"")
    except (SyntaxError, ValueError):  # compiled code
        return ast.Module(body=[], type_ignores=[])


def digest_of(module: str) -> str:
    """The digest of a module's syntax tree, or of its bytes where it is compiled code."""
    return _digest_of_source(source_of(module))


@cache
def _digest_of_source(source: Source | None) -> str:
    if source is None or source.path.endswith(".py"):
        return hashlib.sha256(json.dumps(_plain_tree(_tree(source))).encode()).hexdigest()[:12]
    return hashlib.sha256(source.content).hexdigest()[:12]


def _plain_tree(node: Any) -> Any:
    """A syntax tree as plain lists, without positions, docstrings and empty fields, which newer Pythons add."""
    if isinstance(node, list):
        return [_plain_tree(item) for item in node]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, (str, int, bool, type(None))) else repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and value and isinstance(value[0], ast.Expr):
            first = value[0].value
            value = value[1:] if isinstance(first, ast.Constant) and isinstance(first.value, str) else value
        if value not in (None, []) and name not in ("type_ignores", "kind"):
            fields[name] = _plain_tree(value)
    return [type(node).__name__, fields]
