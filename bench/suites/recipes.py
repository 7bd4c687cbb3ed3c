"""What the suites share: a row, settings of a solve and a cell, and recipes that cap the steps of each solve.

CAPPED_f_b caps forward solves at f and backward solves at b steps for the first four fifths of training; then the model's own caps
hold. Suite `speed` compares them. CAPPED_4_SHINE is for adjoint `shine`, which has no backward solve.
"""

from bench.records.spec import ComponentConfig, ModelEntry, Recipe, RunStatus, Settings

CAPPED_6_4 = Recipe(steps=6, backward_steps=4, hold=0.8)
CAPPED_4_3 = Recipe(steps=4, backward_steps=3, hold=0.8)
CAPPED_4_SHINE = Recipe(steps=4, hold=0.8)
SOLVE: Settings = {"solver": "anderson", "steps": 12, "backward_steps": 8, "evaluation_steps": 60}
ROTARY: Settings = {"cell": "transformer", "cell.heads": 4, "cell.rotary_base": 10.0}


def row(
    name: str,
    settings: Settings,
    *,
    match: str = "width",
    recipe: Recipe | None = None,
    like: str | None = None,
    expected: RunStatus = "ok",
) -> ModelEntry:
    """A comparison's row: the model of that name with these settings."""
    model = ComponentConfig(name=name, settings=settings)
    return ModelEntry(model=model, match=match, recipe=recipe, like=like, expected=expected)
