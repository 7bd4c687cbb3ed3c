"""Sudoku on a 4 x 4 grid by the way of taking the gradient: is one step enough, and do more steps solve harder puzzles?

One cell (Transformer-XL's) in every row but the last, trained on puzzles of up to 8 blanks, tested at 6, 8 and 10. Rows differ in
the gradient of the equilibrium and in deep supervision; the explicit ones iterate the same cell. Parameters are equal within 2 %,
three rates are tried at full length with two seeds. A pilot: five seeds, minutes of training.
"""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Recipe, Settings, TrainConfig
from bench.suites.recipes import row

_CELL: Settings = {"cell": "transformer-xl", "cell.heads": 4, "width": 48}
_SOLVE: Settings = {**_CELL, "steps": 12, "evaluation_steps": 60}
_ANDERSON: Settings = {**_SOLVE, "solver": "anderson", "solver.window": 12}
_SUPERVISED = Recipe(auxiliary=1.0)


def _looped(backward_depth: int, segments: int = 1) -> ModelEntry:
    settings: Settings = {**_CELL, "depth": 6 if segments > 1 else 12, "random_depth": False, "backward_depth": backward_depth}
    return row("looped", {**settings, "segments": segments}, recipe=_SUPERVISED if segments > 1 else None)


SPECS = [
    Comparison(
        group="sudoku 4x4",
        task=ComponentConfig(name="sudoku", settings={"blanks": 8, "test_blanks": "6,8,10", "test_samples": 500}),
        train=TrainConfig(
            steps=3000, batch=32, learning_rate=2e-3, warmup=200, clip=0.25, evaluate_every=1000, evaluation_batch=100
        ),
        rows={
            "implicit": row("deq", {**_ANDERSON, "backward_steps": 12}),
            "phantom 1": row("deq", {**_ANDERSON, "adjoint": "phantom", "adjoint.steps": 1}),
            "phantom 5": row("deq", {**_ANDERSON, "adjoint": "phantom", "adjoint.steps": 5}),
            "SHINE": row("deq", {**_SOLVE, "solver": "broyden", "adjoint": "shine"}),
            "reversible": row("deq", {**_SOLVE, "solver": "reversible", "adjoint": "reverse"}),
            "implicit, corrected": row(
                "deq", {**_ANDERSON, "backward_steps": 12, "auxiliary_every": 3}, recipe=Recipe(auxiliary=0.3)
            ),
            "looped 12, one step": _looped(1),
            "looped 12, all steps": _looped(12),
            "looped 2 x 6, one step, supervised": _looped(1, segments=2),
            "looped 2 x 6, all steps, supervised": _looped(6, segments=2),
            "Transformer-XL 4": row("transformer-xl", {"width": 24, "layers": 4, "heads": 4}, match="feedforward"),
        },
        reference="implicit",
        learning_rates=(1e-3, 2e-3, 4e-3),
        trial_steps=3000,
        trial_seeds=2,
        seeds=(0, 1, 2, 3, 4),
    )
]
