"""Tables of studies, by seeds' means: solver windows, path independence, warm start."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.grid import Cell, Line, Sample, Table, line
from bench.analysis.statistics import Scale, over_seeds, significant, written
from bench.studies.drawing import Rows

Found = Sequence[Mapping[str, Any]]  # the rows of all seeds
_SEEDS = "Means over seeds with two-sided 95 % t-intervals; (3/5): of three of five seeds, the others having no value."
_WINDOW = (
    "Test sequences of trained DEQs, solved to a relative residual of {rtol:g} within {cap} evaluations, as trained and at the "
    "longer length; an unsolved one counts all {cap}. Worst token: the largest relative residual of a token of a solved sequence, "
    "as trained; median over sequences, and the largest over sequences and seeds. Backtracking rejects trials that multiply a gap "
    "by more than {backtrack:g}."
)
_PATHS = (
    "Test sequences in float64, to a relative residual of {rtol:g} within {cap} evaluations: a DEQ by Anderson, a looped network "
    "by its own iteration. Starts: zero; normal, {draws} draws at the scale of the states; warm, the state found for another "
    "sequence. Against the state found from zero: relative distance (median over sequences; the largest over sequences and seeds), "
    "mean cosine (from warm: the asymptotic alignment of arXiv 2211.09961); same: of the pairs that both converged, those nearer "
    "than {same:g}. Loss and accuracy are over all sequences, converged or not."
)
_WARM = (
    "Consecutive parts of the validation split, by Anderson within {cap} evaluations. Segments follow each other, with a carried "
    "memory: a solve starts at the previous segment's states, or at its last one in all positions. Windows begin one token after "
    "the one before, without a memory: a solve starts at the states of the same tokens (shifted). Saved: the share of the "
    "evaluations from the cell's initial state. A start that already meets a loose tolerance is returned: see its loss."
)


def tables(rows: Rows) -> list[Table]:
    """The tables that have rows."""
    makers = {"solver window": solver_window, "path independence": path_independence, "warm start": warm_start}
    return [make(rows) for study, make in makers.items() if study in rows.settings and rows.unique(study, "task")]


def solver_window(rows: Rows) -> Table:
    """Share unsolved and evaluations, as trained and at a greater length, and residuals of single tokens, by task and solver."""
    study, lines = "solver window", []
    for task in rows.unique(study, "task"):
        found = rows.values(study, task=task)
        trained, longer = found[0]["lengths"]
        for solver in found[0]["lengths"][trained]:
            cells = []
            for length in (trained, longer):
                at = "lengths", length, solver
                cells += [_mean(found, (*at, "unsolved"), "fraction", "fraction")]
                cells += [_mean(found, (*at, "evaluations", "mean"), "log", "evaluations")]
            at = "lengths", trained, solver
            tokens = _mean(found, (*at, "token", "median"), "log"), _largest(found, (*at, "token", "largest"))
            lines.append(line(f"{task}; {longer}", solver, *cells, *tokens, method=solver))
    heads = (
        *(("task; longer length", ""), ("solver", ""), ("unsolved ↓", "fraction"), ("evaluations ↓", "")),
        *(("unsolved, longer ↓", "fraction"), ("evaluations, longer ↓", "")),
        *(("worst token: median", ""), ("worst token: largest", "")),
    )
    title = "Evaluations until a sequence is solved, by solver and window"
    return _table("solver-window", title, heads, lines, _WINDOW.format(**rows.settings[study]), label_columns=2)


def path_independence(rows: Rows) -> Table:
    """Convergence, agreement with the state found from zero, and scores, by task, model and start."""
    study, lines = "path independence", []
    for task in rows.unique(study, "task"):
        for model in rows.unique(study, "model"):
            found = rows.values(study, task=task, model=model)
            for start in ("zero", "normal", "warm") if found else ():
                accuracy = [name for name in found[0][start]["scores"] if name.startswith("accuracy")]
                cells = (
                    _mean(found, (start, "converged"), "fraction", "fraction"),
                    _mean(found, (start, "distance", "median"), "log"),
                    _largest(found, (start, "distance", "largest")),
                    _mean(found, (start, "alignment"), "linear"),
                    _mean(found, (start, "same"), "fraction", "fraction"),
                    _mean(found, (start, "scores", found[0]["metric"]), "log", "nats"),
                    _mean(found, (start, "scores", *accuracy[:1]), "fraction", "fraction") if accuracy else Cell("—"),
                )
                lines.append(line(task, model, start, *cells, method=f"{model} from {start}"))
    heads = (
        *(("task", ""), ("model", ""), ("start", ""), ("converged ↑", "fraction"), ("distance ↓", ""), ("largest ↓", "")),
        *(("alignment ↑", "cosine"), ("same ↑", "fraction"), ("loss ↓", "nats"), ("accuracy ↑", "fraction")),
    )
    title = "Path independence: whether a network's limit depends on its start"
    return _table("path-independence", title, heads, lines, _PATHS.format(**rows.settings[study]), label_columns=3)


def warm_start(rows: Rows) -> Table:
    """Evaluations, the share that a start saves, and losses, by cell, kind of parts and start."""
    study, lines = "warm start", []
    tolerances: dict[float, None] = {}
    for task in rows.unique(study, "task"):
        for cell in rows.unique(study, "cell"):
            found = rows.values(study, task=task, cell=cell)
            for kind in ("segments", "windows") if found else ():
                tolerances |= dict.fromkeys(point["rtol"] for point in found[0][kind])
                for start in dict.fromkeys(point["start"] for point in found[0][kind]):
                    cells = []
                    for rtol in tolerances:
                        points = [
                            {**row, **point}
                            for row in found
                            for point in row[kind]
                            if (point["rtol"], point["start"]) == (rtol, start)
                        ]
                        cells += [_mean(points, ("steps",), "log", "evaluations"), _mean(points, ("saved",), "linear", "fraction")]
                        cells += [_mean(points, ("loss",), "log", "nats")]
                    lines.append(line(f"{task}, {cell}", kind, start, *cells, method=f"{cell}, {kind} from {start}"))
    heads = [("task, cell", ""), ("parts", ""), ("start", "")]
    for rtol in tolerances:
        heads += [(f"evaluations, {rtol:g} ↓", ""), (f"saved, {rtol:g} ↑", "fraction"), (f"loss, {rtol:g} ↓", "nats")]
    title = "Evaluations saved by starting a solve at the solution of the tokens before"
    return _table("warm-start", title, heads, lines, _WARM.format(**rows.settings[study]), label_columns=3)


def _table(
    kind: str, title: str, heads: Sequence[tuple[str, str]], lines: Sequence[Line], caption: str, *, label_columns: int
) -> Table:
    return Table(
        kind=kind,
        title=title,
        caption=f"{caption} {_SEEDS}",
        heads=tuple(heads),
        rows=tuple(lines),
        text_columns=tuple(range(label_columns)),
        label_columns=label_columns,
        group=("studies", kind),
    )


def _at(row: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """The number at a path; None where there is none."""
    found: Any = row
    for name in path:
        found = None if found is None else found.get(name)
    return None if found is None else float(found)


def _mean(found: Found, path: Sequence[str], scale: Scale, unit: str = "1") -> Cell:
    """The mean over seeds of the number at a path."""
    samples = tuple(Sample(about=f"seed {row['seed']}", value=_at(row, path), run=row["made_by"]) for row in found)
    values = [float(sample.value) for sample in samples if sample.value is not None]
    if not values:
        return Cell("—", unit=unit)
    estimate = over_seeds(values, scale)
    text = written(estimate) + (f" ({len(values)}/{len(found)})" if len(values) < len(found) else "")
    return Cell(text, value=estimate.mean, interval=estimate, unit=unit, samples=samples)


def _largest(found: Found, path: Sequence[str]) -> Cell:
    """The largest number at a path."""
    values = [value for row in found if (value := _at(row, path)) is not None]
    return Cell(significant(max(values), 3), value=max(values), unit="1") if values else Cell("—")
