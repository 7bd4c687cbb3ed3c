"""What a run's numbers come from: its Spec, its data, the code that made them and the part of the environment that decides digits.

A run's id is the hash of all four, so that a record is what it says or another record. Code counts by meaning: comments, layout and
docstrings change nothing, and only modules that the run's own numbers come from count. A change to a plot leaves every id as it is;
a change to a solver gives the DEQs new ones and leaves the LSTM's. Needs no torch.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.errors import UserError
from bench.sources import Source, is_ours, source_of

HARNESS = "bench.run"  # a run is what this module does, with all that it imports
# Of the catalog a run depends on what it names; the others describe a run and decide none of its numbers.
_APART = ("bench.catalog", "bench.environment", "bench.identity", "bench.provenance")
_CONTRACTS = frozenset(
    {"deq.checks", "deq.core", "deq.dropout"}
)  # what every model shares; any other part of deq solves or is solved
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
    defining = _modules_of(things) | {m.__module__ for m in makers}
    if "__main__" in defining:  # another process cannot import it, and an edited cell of a notebook leaves no trace
        raise UserError("a model or task is defined in the program itself (__main__): put it in a module of its own, and import it")
    modules = _closure(defining, lambda name: not name.startswith("bench.") or _task(name))
    if any(name.startswith("deq.") and name not in _CONTRACTS for name in modules):
        modules |= _harness_solving()
    digests = {name: digest_of(name) for name in modules | _harness()}
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
        names = [kind.__module__ for kind in type(thing).__mro__]
        kinds = [name for name in names if name == "__main__" or source_of(name)]
        found.update(kinds)
        if kinds or type(thing).__module__.startswith("torch.nn."):  # containers hold ours
            waiting += getattr(thing, "__dict__", {}).values()
    return found


def code_here(names: Iterable[str]) -> dict[str, str]:
    """The digests, in this process, of the modules and functions that an Identity names; imports none of the user's."""
    found = {}
    for name in names:
        module, _, function = name.partition(":")
        if not function:
            found[name] = digest_of(module)
        elif "." not in function:  # not one that another function makes
            found[name] = _digest_of_function(getattr(importlib.import_module(module), function))
    return found


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
        waiting += _imports(name, source_of(name))
        if not is_ours(name) and "." in name:  # its package's own code runs before it
            waiting.append(name.rpartition(".")[0])
    return found


def _harness() -> frozenset[str]:
    """The modules of bench that every run goes through."""
    return frozenset(_closure([HARNESS], lambda name: name.startswith("bench.") and not _task(name) and name not in _APART))


def _harness_solving() -> frozenset[str]:
    """The modules of deq that the harness probes a model with that solves or iterates: every solver among them."""
    named = {found for module in _harness() for found in _imports(module, source_of(module)) if found.startswith("deq.")}
    return frozenset(_closure(named, lambda name: name.startswith("deq.") and not name.startswith("deq.cells")))


@cache
def _imports(module: str, source: Source | None) -> frozenset[str]:
    """The modules that a module imports; what a package passes on counts as that of the submodule it comes from."""
    found: set[str] = set()
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_provider(_origin(node, _package(module)), alias.name) for alias in node.names)
    return frozenset(found - {module})


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The module that a `from` line names."""
    name = node.module or ""
    return importlib.util.resolve_name("." * node.level + name, package) if node.level else name


def _is_package(source: Source | None) -> bool:
    return source is not None and PurePath(source.path).name == "__init__.py"


def _package(module: str) -> str:
    return module if _is_package(source_of(module)) else module.rpartition(".")[0]


def _provider(module: str, name: str) -> str:
    """Where `from module import name` finds it: a submodule, or the one that the package's own `from` line names, or the module."""
    source = source_of(module)
    if not _is_package(source):
        return module
    if source_of(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    for node in _tree(source).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            origin = _origin(node, module)
            return module if origin == module else _provider(origin, name)
    return module


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
        return _digest(_tree(source))
    return hashlib.sha256(source.content).hexdigest()[:12]


def _digest_of_function(function: Callable[..., Any]) -> str:
    closed = inspect.getclosurevars(function).nonlocals
    return _digest(ast.Module(body=[_node_of(function)], type_ignores=[]), repr(sorted(closed.items())))


def _node_of(function: Callable[..., Any]) -> ast.stmt:
    """The function in the source that was imported: the file may have been edited since."""
    line = function.__code__.co_firstlineno
    for node in ast.walk(_tree(source_of(function.__module__))):
        if isinstance(node, ast.FunctionDef) and line == min([node.lineno, *(one.lineno for one in node.decorator_list)]):
            return node
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


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
