"""What a run's numbers come from: its Spec, its data, the code that made them and the part of the environment that decides digits.

A run's id is the hash of all four, so that a record is what it says or another record. Code counts by meaning: comments, layout and
docstrings change nothing, and only modules that the run's own numbers come from count. A change to a plot leaves every id as it is;
a change to a solver gives the DEQs new ones and leaves the LSTM's. Needs no torch.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

HARNESS = "bench.run"  # a run is what this module does, with all that it imports
# Of the catalog a run depends on what it names; the others describe a run and decide none of its numbers.
_APART = ("bench.catalog", "bench.environment", "bench.identity", "bench.provenance")
_CONTRACTS = frozenset({"deq.core", "deq.dropout"})  # what every model shares; any other part of deq solves or is solved
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE")
_PLAIN = ("python", "torch", "torch_build", "machine", "cpu_capability", "device", "float32_matmul_precision")
_PACKAGES = ("numpy", "torchdiffeq")


class Identity(BaseModel):
    """Beside the Spec: SHA-256 of the data, digests of the code by module, and what of the environment decides digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    code: dict[str, str]
    environment: dict[str, str | None]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def run_id(self, key: str) -> str:
        """The id of the run that a Spec's key names, made from this: `<key>-<12 hex digits>`."""
        return f"{key}-{self.digest[:12]}"

    def differs(self, other: "Identity") -> list[str]:
        """What is not the same in the other, in words: `code of deq.solve`, `data`, `torch 2.12 (here 2.13)`."""
        said = ["data"] if self.data != other.data else []
        changed = sorted(name for name in {*self.code, *other.code} if self.code.get(name) != other.code.get(name))
        if changed:
            said.append(f"code of {', '.join(changed[:3])}" + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""))
        for name in sorted({*self.environment, *other.environment}):
            mine, theirs = self.environment.get(name), other.environment.get(name)
            if mine != theirs:
                said.append(f"{name} {mine} (here {theirs})")
        return said


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


def code_of(named: Iterable[Callable[..., Any]], things: Iterable[object]) -> dict[str, str]:
    """Digests of the code that a run depends on: the harness, the makers it names, and all that the things made are made of."""
    makers = list(named)
    modules = _closure(
        _modules_of(things) | {m.__module__ for m in makers}, lambda name: not name.startswith("bench.") or _task(name)
    )
    if any(name.startswith("deq.") and name not in _CONTRACTS for name in modules):
        modules |= _harness_solving()
    digests = {name: _digest_of_module(name) for name in modules | _harness()}
    return digests | {f"{m.__module__}:{m.__qualname__}": _digest_of_function(m) for m in makers if _of_catalog(m)}


def _of_catalog(maker: Callable[..., Any]) -> bool:
    return maker.__module__ == "bench.catalog"


def _modules_of(things: Iterable[object]) -> set[str]:
    """The modules that define the classes of the things, of their parts and of their parts' ancestors."""
    found: set[str] = set()
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
        kinds = [kind.__module__ for kind in type(thing).__mro__ if source_of(kind.__module__)]
        found.update(kinds)
        if kinds or type(thing).__module__.startswith("torch.nn."):  # containers hold ours
            waiting += getattr(thing, "__dict__", {}).values()
    return found


@cache
def source_of(module: str) -> Path | None:
    """The file of a module that is the project's or the user's; None for the standard library, installed packages, built-ins."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            return None
        file = spec.origin if spec is not None else None
    if file is None or not file.endswith(".py"):
        return None
    path = Path(file)
    foreign = module.split(".")[0] in sys.stdlib_module_names or {"site-packages", "dist-packages"} & set(path.parts)
    ours = module.split(".")[0] in ("deq", "baselines", "bench")  # wherever they are installed
    return path if ours or not foreign else None


def _task(module: str) -> bool:
    return module.startswith("bench.tasks.")


def _closure(modules: Iterable[str], within: Callable[[str], bool]) -> set[str]:
    """The modules and all of ours that they import, directly or not, as far as they lie `within`."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or not within(name) or source_of(name) is None:
            continue
        found.add(name)
        waiting += _imports(name)
    return found


@cache
def _harness() -> frozenset[str]:
    """The modules of bench that every run goes through."""
    return frozenset(_closure([HARNESS], lambda name: name.startswith("bench.") and not _task(name) and name not in _APART))


@cache
def _harness_solving() -> frozenset[str]:
    """The modules of deq that the harness probes a model with that solves or iterates: every solver among them."""
    named = {found for module in _harness() for found in _imports(module) if found.startswith("deq.")}
    return frozenset(_closure(named, lambda name: name.startswith("deq.") and not name.startswith("deq.cells")))


@cache
def _imports(module: str) -> frozenset[str]:
    """The modules that a module imports; what a package passes on counts as that of the submodule it comes from."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_provider(_origin(node, _package(module)), alias.name) for alias in node.names)
    return frozenset(found - {module})


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The module that a `from` line names."""
    name = node.module or ""
    return importlib.util.resolve_name("." * node.level + name, package) if node.level else name


def _package(module: str) -> str:
    path = source_of(module)
    return module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]


def _provider(module: str, name: str) -> str:
    """Where `from module import name` finds it: a submodule, or the one that the package's own `from` line names, or the module."""
    path = source_of(module)
    if path is None or path.name != "__init__.py":
        return module
    if (path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file():
        return f"{module}.{name}"
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            origin = _origin(node, module)
            return module if origin == module else _provider(origin, name)
    return module


@cache
def _tree(module: str) -> ast.Module:
    path = source_of(module)
    assert path is not None
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # it was imported all the same; what cannot be read counts as empty
        return ast.Module(body=[], type_ignores=[])


@cache
def _digest_of_module(module: str) -> str:
    return _digest(_tree(module))


def _digest_of_function(function: Callable[..., Any]) -> str:
    closed = inspect.getclosurevars(function).nonlocals
    return _digest(ast.parse(textwrap.dedent(inspect.getsource(function))), repr(sorted(closed.items())))


def _digest(tree: ast.AST, *more: str) -> str:
    return hashlib.sha256(json.dumps([_meaning(tree), *more]).encode()).hexdigest()[:12]


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
