"""Golden curves: accepted losses of ten float64 training steps of every model, task and adjoint.

A curve that changes while no `numerics` version of its parts was raised is an error: one run id would stand for two sets of
numbers. `python -m bench golden` compares, `--accept` writes the curves. About half a minute on one core.
"""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.perf_gate.counts import float64
from bench.records.identity import first_of
from bench.records.record import Record, write_text
from bench.records.spec import ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.training.registry import ADJOINTS, MODELS, TASKS
from bench.training.run import run
from deq import CELLS, SOLVERS

FILE = Path(__file__).parents[2] / "tests" / "golden" / "curves.json"
TOLERANCE = 1e-9  # relative
_TOLERANCE_REVERSE = 1e-5  # a reversed solve enlarges the rounding of each of its 30 steps, which differs between processors
Curves = Mapping[str, Mapping[str, Any]]  # by case
STEPS = 10
_HEADS: Settings = {"cell.heads": 2}
_OWN: dict[str, Settings] = {  # settings of a model other than its width
    "transformer-xl": {"heads": 2},
    "tied": {"depth": 3, **_HEADS},
    "looped": {"depth": 3, "backward_depth": 2, **_HEADS},
    "adaptive-loop": {"depth": 4, "initial_bias": 0.0, **_HEADS},
    "ode": {"time": 1.0, **_HEADS},
    "deq": {"steps": 40, "rtol": 1e-6, "backward_rtol": 1e-6, "backward_steps": 40, **_HEADS},
    "trellisnet": {"depth": 3},
}
_TASKS: dict[str, Settings] = {
    "copy": {"T": 5, "samples": 64, "test_samples": 8},
    "text": {"data": "golden", "length": 8},
    "agreement": {"test_samples": 8},
    "markov": {"test_samples": 8},
    "state": {"length": 6, "test_lengths": "6,9", "test_samples": 8},
    "sudoku": {"test_samples": 8},
    "maze": {"size": 3, "test_sizes": "3,4", "test_samples": 8},
    "recall": {"length": 16, "keys": 4, "test_samples": 8},
}
_RECIPE = Recipe(
    pretrain_steps=2, rtol=1e-3, steps=10, backward_steps=10, hold=0.5, jacobian=0.1, jacobian_final=0.2, jacobian_probability=0.5
)


def cases() -> Iterator[tuple[str, RunSpec]]:
    """Every case by name: each model and adjoint on each task, a DEQ's cells and solvers, a recipe, and carried memory."""
    for task in TASKS:
        for model in MODELS:
            yield f"{model} on {task}", _spec(_model(model), task)
        for adjoint in ADJOINTS:
            yield f"deq by {adjoint} on {task}", _spec(_deq(adjoint=adjoint), task)
    for cell in CELLS:
        yield f"deq of {cell}", _spec(_deq(cell=cell))
    for solver in SOLVERS:
        yield f"deq by {solver}", _spec(_deq(cell="mlp", solver=solver))
    yield "deq by shine, refined", _spec(_deq(adjoint="shine", refine=3))
    yield "deq of two layers", _spec(_model("deq", layers=2))
    yield "deq with a recipe", _spec(_model("deq"), recipe=_RECIPE)
    for model in MODELS:
        yield f"{model} with carried memory", _spec(_model(model), "text", carry=True)


def _model(name: str, **more: Any) -> ComponentConfig:
    return ComponentConfig(name=name, settings={"width": 8, **_OWN.get(name, {}), **more})


def _deq(*, adjoint: str = "implicit", cell: str = "transformer", solver: str = "broyden", refine: int = 0) -> ComponentConfig:
    """A DEQ that the adjoint can differentiate: equilibrium propagation needs an energy, some adjoints a solver of their own."""
    solver = {"unroll": "picard", "reverse": "reversible"}.get(adjoint, solver)
    settings: Settings = {"width": 8, "steps": 30, "rtol": 1e-6, "adjoint": adjoint, "solver": solver}
    settings |= {"adjoint.refine": refine} if refine else {}
    settings["cell"] = "energy" if adjoint == "propagation" else cell
    if settings["cell"] in ("transformer", "transformer-xl"):
        settings |= _HEADS
    return ComponentConfig(name="deq", settings=settings)


def _spec(model: ComponentConfig, task: str = "copy", *, recipe: Recipe | None = None, carry: bool = False) -> RunSpec:
    train = TrainConfig(steps=STEPS, batch=4, learning_rate=1e-2, warmup=3, weight_decay=0.1, evaluation_batch=8, carry=carry)
    named = ComponentConfig(name=task, settings=_TASKS.get(task, {}))
    return RunSpec(group="golden", label="golden", role="trial", model=model, task=named, train=train, recipe=recipe, seed=0)


def curves(chosen: Iterable[tuple[str, RunSpec]]) -> dict[str, dict[str, Any]]:
    """Train the cases in float64; returns by name the numerics versions, the loss at each step and the validation at the end."""
    with tempfile.TemporaryDirectory() as folder, float64():
        corpus = Path(folder) / "golden.txt"
        corpus.write_text("".join("abcdefgh \n"[(n * n + n // 7) % 10] for n in range(2000)))
        return {name: _curve(run(spec, suite="golden", data={"golden": corpus})) for name, spec in chosen}


def _curve(record: Record) -> dict[str, Any]:
    if record.status != "ok":
        return {"numerics": record.identity.numerics, "status": f"{record.status}: {record.reason}"}
    losses = [point.train_loss for point in record.curve]
    return {"numerics": record.identity.numerics, "loss": losses, "valid": record.curve[-1].valid}


def read() -> dict[str, dict[str, Any]]:
    """The accepted curves; none without a file."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def accept(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the curves as the accepted ones, one to a line."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(curve, sort_keys=True)}" for name, curve in sorted(found.items()))
    write_text(FILE, f"{{\n{lines}\n}}\n")


def _moved(found: Curves, accepted: Curves) -> set[str]:
    return {name for name in {*found} & {*accepted} if not _agree(found[name], accepted[name])}


def changed_silently(found: Curves, accepted: Curves) -> set[str]:
    """The curves whose numbers changed and whose versions did not."""
    return {name for name in _moved(found, accepted) if found[name]["numerics"] == accepted[name]["numerics"]}


def differences(found: Curves, accepted: Curves) -> list[str]:
    """One message for runs that fail now, one for curves that changed silently, one for those to accept; empty where all agree."""
    both, moved = {*found} & {*accepted}, _moved(found, accepted)
    renewed = {name for name in both if found[name]["numerics"] != accepted[name]["numerics"]}
    failed = {name: found[name]["status"] for name in sorted(moved) if "status" in found[name]}
    lines = [f"fail now: {first_of(list(failed))}; the first {next(iter(failed.values()))}"] if failed else []
    if silent := changed_silently(found, accepted) - {*failed}:
        parts = _suspects([found[name]["numerics"] for name in silent], [found[name]["numerics"] for name in {*found} - moved])
        raised = " or ".join(f"{part} ({version})" for part, version in sorted(parts.items()))
        names = first_of(sorted(silent))
        lines.append(f"numbers changed in {names}, and no version was raised: raise `numerics` of {raised}")
    if renewed := renewed | ({*found} ^ {*accepted}):
        names = first_of(sorted(renewed))
        lines.append(f"new, gone, or of other versions: {names}; `python -m bench golden --accept` writes them")
    return lines


def _suspects(moved: list[Mapping[str, int]], unmoved: list[Mapping[str, int]]) -> dict[str, int]:
    """The versions that every moved case has and no other does; where there are none, all that the moved cases share."""
    shared = {part: version for part, version in moved[0].items() if all(part in other for other in moved)}
    only = {part: version for part, version in shared.items() if not any(part in other for other in unmoved)}
    return only or shared


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one.get("status") != other.get("status"):
        return False
    shared = sorted({*one.get("valid", {})} & {*other.get("valid", {})})  # a new metric changes no number
    ours, theirs = ([*curve.get("loss", []), *(curve["valid"][name] for name in shared)] for curve in (one, other))
    tolerance = _TOLERANCE_REVERSE if "Reverse" in one["numerics"] else TOLERANCE
    return len(ours) == len(theirs) and all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(ours, theirs, strict=True))
