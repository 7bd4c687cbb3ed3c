"""A user's file, what in it can be checked, and how that is made: by the dotted path that a suite names it by."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from bench.catalog import build_core, build_task, parameters_of
from bench.check.cells import CELL, CellMap
from bench.check.finding import Finding, judge, raised
from bench.check.models import MODEL, Model, tolerance
from bench.check.solvers import SOLVER, Solving
from bench.check.tasks import TASK, Served
from bench.errors import UserError, unknown
from bench.spec import Named, Settings, Value
from bench.tasks.task import Task
from deq import DEQ, Cell, Core, Solver

Kind = Literal["cell", "model", "solver", "task"]
WIDTH = 16
_CONTRACTS: dict[Kind, type] = {"cell": Cell, "model": Core, "task": Task}
_KINDS = "Cell, Core, Solver (init and step) or Task"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Something that a file defines: its kind, its dotted path, and the class or function itself."""

    kind: Kind
    path: str
    make: Any

    @property
    def name(self) -> str:
        """Its name in the file."""
        return self.path.partition(":")[2]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One thing, its settings, what was found of it; `parameters`: trainable numbers, None where it is not made of them."""

    kind: Kind
    path: str
    settings: Settings
    parameters: int | None
    findings: list[Finding]


def load(path: Path) -> ModuleType:
    """The file as a module of its own name, its folder first on the path, as where a suite beside it names it."""
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"check: {path} is not a Python file" if path.exists() else f"check: {path} does not exist")
    if "." in path.stem:
        raise UserError(f"check: no suite can name what is in {path.name}: a module's name has no dots")
    sys.path.insert(0, str(path.parent.resolve()))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path.stem)
    except (Exception, SystemExit) as error:
        raise UserError(f"check: {path} fails on import: {raised(error, path)}") from error
    there = getattr(module, "__file__", None)
    if there is None or Path(there).resolve() != path.resolve():
        taken = f"a module named {path.stem!r} is there already ({there or 'built in'})"
        raise UserError(f"check: {taken}, so that no suite can name what is in {path}: rename the file")
    return module


def find(module: ModuleType, only: Sequence[str] = ()) -> list[Found]:
    """What the module defines, in its order, or what `only` names; UserError where there is nothing."""
    own = {name: kind for name, kind in _kinds(module).items() if getattr(vars(module)[name], "__module__", "") == module.__name__}
    if only:
        everything = _kinds(module, private=True)
        for name in only:
            if name not in everything and hasattr(module, name):
                raise UserError(
                    f"check: {name} in {module.__name__}.py is no {_KINDS}, nor a function that says that it returns one"
                )
            if name not in everything:
                raise unknown(f"name in {module.__name__}.py", name, everything)
        own = {name: everything[name] for name in only}
    if not own:
        hint = ": it is a suite; check the files that it names" if hasattr(module, "SPECS") else ""
        raise UserError(f"check: {module.__name__}.py defines no {_KINDS}{hint}")
    return [Found(kind=kind, path=f"{module.__name__}:{name}", make=getattr(module, name)) for name, kind in own.items()]


def _kinds(module: ModuleType, private: bool = False) -> dict[str, Kind]:
    """The names that can be checked; an abstract class counts where nothing in the file completes it."""
    found = {}
    things = {name: thing for name, thing in vars(module).items() if private or not name.startswith("_")}
    for name, thing in things.items():
        kind = kind_of(thing)
        completed = inspect.isabstract(thing) and any(
            inspect.isclass(other) and issubclass(other, thing) and not inspect.isabstract(other) for other in things.values()
        )
        if kind is not None and not completed:
            found[name] = kind
    return found


def kind_of(thing: Any) -> Kind | None:
    """What a class is by its ancestors (a solver by its methods), and a function by what it says that it returns."""
    if not inspect.isclass(thing):
        if not inspect.isfunction(thing):
            return None
        try:
            signature = inspect.signature(thing, eval_str=True)
        except Exception:  # annotations are the user's
            return None
        if inspect.isclass(signature.return_annotation) and signature.return_annotation not in (inspect.Signature.empty, Any):
            return kind_of(signature.return_annotation)
        return "model" if {"inputs", "width"} <= set(signature.parameters) else None
    for kind, contract in _CONTRACTS.items():
        if issubclass(thing, contract):
            return kind
    methods = all(callable(getattr(thing, name, None)) for name in ("init", "step"))
    return "solver" if methods else None


def settings_for(found: Sequence[Found], given: Mapping[str, Value]) -> list[Settings]:
    """The settings that each thing takes, a width with those that have one; UserError for one that nothing takes."""
    taken: set[str] = set()
    shared = []
    for one in found:
        parameters = parameters_of(f"{one.kind} {one.path!r}", one.make)
        names = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
        if one.kind in ("cell", "model"):
            names |= {"width", "inputs"} if one.kind == "model" else {"width"}
        own = {name: value for name, value in given.items() if name in names or ("." in name and "parts" in parameters)}
        taken |= set(own)
        shared.append({**({"width": WIDTH} if one.kind in ("cell", "model") else {}), **own})
    for name in given:
        if name not in taken:
            allowed = {each for one in found for each in parameters_of(one.path, one.make)} - {"self", "parts", "paths"}
            raise unknown("setting", name, allowed | {"width"})
    return shared


def checked(one: Found, settings: Settings, file: Path) -> Checked:
    """Everything of its kind's contract; UserError where it cannot be made."""
    state = torch.random.get_rng_state()
    try:
        return _checked(one, settings, file)
    finally:
        torch.random.set_rng_state(state)


def _checked(one: Found, settings: Settings, file: Path) -> Checked:
    if one.kind == "task":
        named = Named(name=one.path, settings=settings)
        _made(one, lambda: build_task(named, {}), file)
        return _told(one, settings, None, judge(Served(make=lambda: build_task(named, {})), TASK, file))
    named, width, inputs = named_model(one, settings)
    bare = Named(
        name=named.name, settings={name: value for name, value in named.settings.items() if name not in ("width", "inputs")}
    )

    def core() -> Core:
        return build_core(bare, inputs, width)

    made = _made(one, core, file)
    if one.kind == "model":
        findings = judge(Model(make=core, inputs=inputs, named=named, tolerance=tolerance(made)), MODEL, file)
    elif one.kind == "cell":
        findings = judge(CellMap(make=lambda: _layer(core()).cell, inputs=inputs, named=named), CELL, file)
    else:

        def solver() -> Solver:
            return _layer(core()).solver

        return _told(one, settings, None, judge(Solving(make=solver, named=named, inputs=inputs), SOLVER, file))
    return _told(one, settings, sum(p.numel() for p in made.parameters() if p.requires_grad), findings)


def _told(one: Found, settings: Settings, parameters: int | None, findings: list[Finding]) -> Checked:
    return Checked(kind=one.kind, path=one.path, settings=settings, parameters=parameters, findings=findings)


def _layer(core: Core) -> DEQ:
    assert isinstance(core, DEQ)
    return core


def _made(one: Found, make: Any, file: Path) -> Any:
    """What it makes, once, so that what cannot be made is told before anything is checked."""
    try:
        return make()
    except UserError as error:
        needs = f"{error}; give it with --set NAME=VALUE" if "needs the setting" in str(error) else str(error)
        raise UserError(f"check: {needs}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"check: {one.kind} {one.path!r} cannot be made: {raised(error, file)}") from error


def named_model(one: Found, settings: Settings) -> tuple[Named, int, int]:
    """The model that a suite would name: the thing itself, a DEQ over the cell, or a DEQ by the solver; its width and inputs."""
    width = settings.get("width", WIDTH)
    inputs = settings.get("inputs", width) if one.kind == "model" else width
    for name, value in (("width", width), ("inputs", inputs)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"check: {name} must be a positive integer, got {value!r}")
    assert isinstance(width, int)
    assert isinstance(inputs, int)
    own: Settings = {name: value for name, value in settings.items() if name not in ("width", "inputs")}
    if one.kind == "model":
        return Named(name=one.path, settings={"width": width, "inputs": inputs, **own}), width, inputs
    part: Settings = {one.kind: one.path, **{f"{one.kind}.{name}": value for name, value in own.items()}}
    rest: Settings = {"solver": "picard", "steps": 4} if one.kind == "cell" else {"cell": "mlp", "steps": 4}
    return Named(name="deq", settings={"width": width, **rest, **part}), width, inputs
