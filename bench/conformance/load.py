"""Import a user's file, and check what it defines as a suite that names it would build it."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from bench.conformance.cells import CELL
from bench.conformance.models import MODEL
from bench.conformance.result import Check, Kind, Report, describe_error, run_checks
from bench.conformance.solvers import SOLVER
from bench.conformance.subject import Subject
from bench.conformance.tasks import TASK
from bench.records.errors import UserError, unknown
from bench.records.spec import ComponentConfig, Settings, Value
from bench.tasks.task import Task
from bench.training.construct import parameters_of
from bench.training.registry import build_core, build_task
from deq import Cell, Core

CONTRACTS: dict[Kind, tuple[Check, ...]] = {"cell": CELL, "model": MODEL, "solver": SOLVER, "task": TASK}
_CLASSES: dict[Kind, type] = {"cell": Cell, "model": Core, "task": Task}
_KINDS = "Cell, Core, Solver (init and step) or Task"
_SIZES: dict[Kind, set[str]] = {"cell": {"width"}, "model": {"width", "inputs"}}  # settings that a suite gives to all of a kind
_WIDTH = 16


class Definition(NamedTuple):
    """A class or function of a file that can be checked; `path` is the name that a suite gives it."""

    kind: Kind
    path: str
    make: Any


def load(path: Path) -> ModuleType:
    """Import the file under its own name, with its folder first on the path, as for a suite in the same folder."""
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"check: {path} is not a Python file" if path.exists() else f"check: {path} does not exist")
    if "." in path.stem:
        raise UserError(f"check: no suite can name what is in {path.name}: a module's name has no dots")
    sys.path.insert(0, str(path.parent.resolve()))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path.stem)
    except (Exception, SystemExit) as error:
        raise UserError(f"check: {path} fails on import: {describe_error(error, path)}") from error
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        raise UserError(f"check: a module named {path.stem!r} exists already ({origin or 'built in'}): rename {path}")
    return module


def find(module: ModuleType, only: Sequence[str] = ()) -> list[Definition]:
    """What the module itself defines, in its order; or what `only` names. UserError where there is nothing."""
    kinds = {name: kind for name, thing in vars(module).items() if (kind := kind_of(thing)) is not None}
    for name in only:
        if name not in kinds and hasattr(module, name):
            raise UserError(f"check: {name} in {module.__name__}.py is no {_KINDS}, nor a function annotated to return one")
        if name not in kinds:
            raise unknown(f"name in {module.__name__}.py", name, kinds)
    names = only or [name for name in kinds if not name.startswith("_") and _is_own(module, name)]
    if not names:
        hint = ": it is a suite; check the files that it names" if hasattr(module, "SPECS") else ""
        raise UserError(f"check: {module.__name__}.py defines no {_KINDS}{hint}")
    return [Definition(kind=kinds[name], path=f"{module.__name__}:{name}", make=getattr(module, name)) for name in names]


def _is_own(module: ModuleType, name: str) -> bool:
    """Whether the module defines it, and it is not an abstract class that another class of the module implements."""
    thing = getattr(module, name)
    classes = [other for key, other in vars(module).items() if inspect.isclass(other) and not key.startswith("_")]
    completed = inspect.isabstract(thing) and any(issubclass(other, thing) and not inspect.isabstract(other) for other in classes)
    return getattr(thing, "__module__", "") == module.__name__ and not completed


def kind_of(thing: Any) -> Kind | None:
    """The kind of a class by its ancestors (a solver by its methods), of a function by its return annotation."""
    if inspect.isclass(thing):
        is_solver = all(callable(getattr(thing, name, None)) for name in ("init", "step"))
        return next((kind for kind, parent in _CLASSES.items() if issubclass(thing, parent)), "solver" if is_solver else None)
    if not inspect.isfunction(thing):
        return None
    try:
        signature = inspect.signature(thing, eval_str=True)
    except Exception:  # evaluating a user's annotations may raise anything
        return None
    returned = signature.return_annotation
    if inspect.isclass(returned) and returned not in (inspect.Signature.empty, Any):
        return kind_of(returned)
    return "model" if {"inputs", "width"} <= set(signature.parameters) else None


def settings_for(found: Sequence[Definition], given: Mapping[str, Value]) -> list[Settings]:
    """The settings that each definition takes, with a width where it has one; UserError for a setting that none takes."""
    shared: list[Settings] = []
    allowed = {"width"}
    for one in found:
        parameters = parameters_of(f"{one.kind} {one.path!r}", one.make)
        allowed |= set(parameters) - {"self", "parts", "paths"}
        taken = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
        taken |= _SIZES.get(one.kind, set())
        own = {name: value for name, value in given.items() if name in taken or ("." in name and "parts" in parameters)}
        shared.append(({"width": _WIDTH} if one.kind in _SIZES else {}) | own)
    unused = [name for name in given if not any(name in own for own in shared)]
    if unused:
        raise unknown("setting", unused[0], allowed)
    return shared


def check_definition(one: Definition, settings: Settings, file: Path) -> Report:
    """Run every check of its kind; UserError where it cannot be built. The global random state is restored."""
    with torch.random.fork_rng(devices=[]):
        subject = _subject(one, settings)
        try:
            made = subject.make()
        except UserError as error:
            hint = "; give it with --set NAME=VALUE" if "needs the setting" in str(error) else ""
            raise UserError(f"check: {error}{hint}") from error
        except (Exception, SystemExit) as error:
            raise UserError(f"check: {one.kind} {one.path!r} cannot be made: {describe_error(error, file)}") from error
        size = sum(p.numel() for p in made.parameters() if p.requires_grad) if isinstance(made, (Cell, Core)) else None
        findings = run_checks(CONTRACTS[one.kind], subject, file)
        return Report(kind=one.kind, path=one.path, settings=settings, parameters=size, findings=findings)


def _subject(one: Definition, settings: Settings) -> Subject:
    """Built by the registry from the name and settings that a suite would give; a cell or solver as part of a DEQ."""
    if one.kind == "task":
        return Subject(make=lambda: build_task(ComponentConfig(name=one.path, settings=settings), {}))
    own: Settings = dict(settings)
    width = _size("width", own.pop("width", _WIDTH))
    inputs = _size("inputs", own.pop("inputs", width)) if one.kind == "model" else width
    core = ComponentConfig(name=one.path, settings=own)
    if one.kind != "model":
        other: Settings = {"solver": "picard"} if one.kind == "cell" else {"cell": "mlp"}
        part = {one.kind: one.path, **{f"{one.kind}.{key}": value for key, value in own.items()}}
        core = ComponentConfig(name="deq", settings={"steps": 4, **other, **part})

    def make() -> Any:
        made = build_core(core, inputs, width)
        return made if one.kind == "model" else getattr(made, one.kind)

    named = ComponentConfig(name=core.name, settings={"width": width, "inputs": inputs, **core.settings})
    return Subject(make=make, inputs=inputs, named=named)


def _size(name: str, value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"check: {name} must be a positive integer, got {value!r}")
    return value
