"""Registries of models and tasks, and the construction of objects from names and settings.

A name is an entry of a registry or a dotted path `package.module:attribute` to a user's class or function. Settings are checked
against its signature; an unknown setting or a wrong type is a UserError that lists the allowed ones. A setting `part.name` goes to
the model's part of that name: `cell.heads`, `solver.window`, `adjoint.steps`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from baselines import TCN, AdaptiveLoop, Looped, NeuralODE, Recurrent, StateSpace, TransformerXL, TrellisNet, Unrolled
from bench.records.errors import UserError, unknown
from bench.records.spec import ComponentConfig, Settings
from bench.tasks.agreement import Agreement
from bench.tasks.copy import CopyMemory
from bench.tasks.markov import Markov
from bench.tasks.maze import Maze
from bench.tasks.recall import Recall
from bench.tasks.state_tracking import StateTracking
from bench.tasks.sudoku import Sudoku
from bench.tasks.task import Task
from bench.tasks.text import Text
from bench.training.construct import construct, parameters_of, resolve
from deq import ADJOINTS, CELLS, DEQ, SOLVERS, Adjoint, Cell, Core, SolvingAdjoint, Stack, Stop, StoppedAdjoint

Parts = dict[str, Settings]
Builder = Callable[..., Core]


def deq(
    inputs: int,
    width: int,
    parts: Parts,
    *,
    cell: str = "transformer",
    solver: str = "anderson",
    rtol: float = 1e-3,
    steps: int = 30,
    adjoint: str = "implicit",
    backward_solver: str | None = None,
    backward_rtol: float | None = None,
    backward_steps: int | None = None,
    evaluation_rtol: float | None = None,
    evaluation_steps: int | None = None,
    check_every: int = 1,
    auxiliary_every: int = 0,
    cuda_graphs: bool = False,
    layers: int = 1,
) -> Core:
    """A DEQ; `steps` caps the forward solve, `backward_steps` the adjoint's, and `backward_solver` is by default `solver`.

    `check_every` k: a solve checks every k evaluations whether all samples are done, on a GPU one host sync in k. `auxiliary_every`
    k: a recipe's `auxiliary` weighs a loss on every k-th iterate. `cuda_graphs`: on a GPU, f and its gradients are CUDA graphs,
    with the same results. `layers` above 1 stacks DEQs of the same settings, each with its own parameters.
    """
    if layers < 1:
        raise UserError(f"model 'deq': layers must be at least 1, got {layers}")
    forward = _part("solver", SOLVERS, solver, parts)
    given = {"backward_solver": backward_solver, "backward_rtol": backward_rtol, "backward_steps": backward_steps}
    make = resolve("adjoint", ADJOINTS, adjoint)
    stops, solves = (inspect.isclass(make) and issubclass(make, base) for base in (StoppedAdjoint, SolvingAdjoint))
    backward: dict[str, Any] = {}
    if solves:
        backward["solver"] = forward if backward_solver is None else _part("backward_solver", SOLVERS, backward_solver, parts)
    if stops:
        backward["stop"] = _stop(backward_rtol, backward_steps, Stop(rtol=1e-3, max_steps=30, check_every=check_every))
    gradient: Adjoint = _part("adjoint", ADJOINTS, adjoint, parts, backward)
    iterates = stops and cast("StoppedAdjoint", gradient).iterates
    unused = [] if solves else ["backward_solver"] if iterates else [*given]
    if idle := [name for name in unused if given[name] is not None]:
        what = "has no backward solver" if iterates else "solves nothing backward"
        raise UserError(f"{idle[0]} has no effect with adjoint {adjoint!r}, which {what}")
    stop = Stop(rtol=rtol, max_steps=steps, check_every=check_every)
    evaluation = _stop(evaluation_rtol, evaluation_steps, stop)
    own: dict[str, Any] = {"solver": forward, "stop": stop, "adjoint": gradient, "evaluation_stop": evaluation}
    deqs = []
    for layer in range(layers):
        left = parts if layer == layers - 1 else {name: dict(settings) for name, settings in parts.items()}
        f = _cell(cell, inputs if layer == 0 else width, width, left)
        every = auxiliary_every if layer == layers - 1 else 0
        deqs.append(DEQ(f, **own, auxiliary_every=every, cuda_graphs=cuda_graphs))
    return deqs[0] if layers == 1 else Stack(deqs)


def _stop(rtol: float | None, steps: int | None, default: Stop) -> Stop:
    rtol = default.rtol if rtol is None else rtol
    return replace(default, rtol=rtol, max_steps=default.max_steps if steps is None else steps)


def _of_cell(make: Callable[..., Core], only: str | None = None) -> Builder:
    """The builder of a model that is made of a cell: its settings are those of `make`, and `cell`, unless it takes `only` one."""

    def build(inputs: int, width: int, parts: Parts, *, cell: str = only or "transformer", **settings: Any) -> Core:
        return make(_cell(cell, inputs, width, parts), **settings)

    own = [one for one in inspect.signature(make, eval_str=True).parameters.values() if one.kind is one.KEYWORD_ONLY]
    given = [one for name, one in inspect.signature(build).parameters.items() if name not in ("settings", only and "cell")]
    build.__signature__ = inspect.Signature([*given, *own])  # type: ignore[attr-defined]
    build.__doc__ = make.__doc__
    return build


def _recurrent(kind: Literal["lstm", "gru"]) -> Builder:
    def build(**settings: Any) -> Core:
        return Recurrent(kind=kind, **settings)

    own = [one for one in inspect.signature(Recurrent, eval_str=True).parameters.values() if one.name != "kind"]
    build.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    build.__doc__ = f"torch's nn.{kind.upper()}, optionally with the regularisation of AWD-LSTM."
    return build


MODELS: dict[str, Builder] = {
    "deq": deq,
    "tied": _of_cell(Unrolled),
    "looped": _of_cell(Looped),
    "adaptive-loop": _of_cell(AdaptiveLoop),
    "trellisnet": _of_cell(TrellisNet, only="trellis"),
    "transformer-xl": TransformerXL,
    "ode": _of_cell(NeuralODE),
    "tcn": TCN,
    "lstm": _recurrent("lstm"),
    "gru": _recurrent("gru"),
    "state-space": StateSpace,
}
TASKS: dict[str, Callable[..., Task]] = {
    "copy": CopyMemory,
    "agreement": Agreement,
    "markov": Markov,
    "state": StateTracking,
    "sudoku": Sudoku,
    "maze": Maze,
    "recall": Recall,
    "text": Text,
}


def _cell(name: str, inputs: int, width: int, parts: Parts) -> Cell:
    given = {"width": width}
    if "inputs" in parameters_of(f"cell {name!r}", resolve("cell", CELLS, name)):
        given["inputs"] = inputs
    elif inputs != width:
        raise UserError(f"the input of cell {name!r} is added to its state: inputs ({inputs}) must equal width ({width})")
    return cast("Cell", _part("cell", CELLS, name, parts, given))


def _resolve(kind: str, registry: Mapping[str, Any], name: str) -> Any:
    """Resolve a name; a cell or a model in another's place is a UserError here, before its settings are blamed."""
    make = resolve(kind, registry, name)
    found = next((one for one, base in (("cell", Cell), ("model", Core)) if inspect.isclass(make) and issubclass(make, base)), kind)
    if found != kind:
        raise UserError(f"{kind} {name!r} is a {found}" + (": a suite names it `cell` of model 'deq'" if found == "cell" else ""))
    return make


def _part(part: str, registry: Mapping[str, Any], name: str, parts: Parts, given: dict[str, Any] | None = None) -> Any:
    kind = part.replace("_", " ")
    make = _resolve(kind, registry, name)
    made = construct(f"{kind} {name!r}", make, parts.pop(part, {}), given or {})
    if part.endswith("solver") and not all(hasattr(made, name) for name in ("init", "step", "differentiable")):
        raise UserError(f"{kind} {name!r} made a {type(made).__name__}; a solver must have init, step and differentiable")
    if part == "cell" and not isinstance(made, Cell):
        raise UserError(f"cell {name!r} made a {type(made).__name__}; a cell must be a deq.Cell")
    return made


def build_core(model: ComponentConfig, inputs: int, width: int) -> Core:
    """Build the Core of a model, from features (B, T, inputs) to (B, T, core.width)."""
    own: Settings = {}
    parts: Parts = {}
    for name, value in model.settings.items():
        part, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(part, {})[rest] = value
        else:
            own[name] = value
    make = _resolve("model", MODELS, model.name)
    given: dict[str, Any] = {"inputs": inputs, "width": width}
    if "parts" in parameters_of(f"model {model.name!r}", make):
        given["parts"] = parts
    core = construct(f"model {model.name!r}", make, own, given)
    left = sorted(f"{part}.{name}" for part, settings in parts.items() for name in settings)
    if left:
        raise UserError(f"model {model.name!r} has no part for the setting {left[0]!r}")
    if not isinstance(core, Core):
        raise UserError(f"model {model.name!r} made a {type(core).__name__}; a model must be a deq.Core")
    return core


def build_task(task: ComponentConfig, data: Mapping[str, Path]) -> Task:
    """Build a task; `data` holds the paths of `--data NAME=PATH`."""
    make = resolve("task", TASKS, task.name)
    given = {"paths": data} if "paths" in parameters_of(f"task {task.name!r}", make) else {}
    made = construct(f"task {task.name!r}", make, task.settings, given)
    if not isinstance(made, Task):
        raise UserError(f"task {task.name!r} made a {type(made).__name__}; a task must be a bench.tasks.task.Task")
    if made.headline not in made.metrics:
        raise unknown(f"headline of task {task.name!r},", made.headline, made.metrics)
    return made
