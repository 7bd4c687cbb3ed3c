"""A DEQ in the explicit network's time: seconds to the loss that the tied network ends with, on copying and two languages.

Both sides are tuned alike: a sweep of rates a row, and the tied network at several depths. Run it with `--jobs 1`: what is compared
is the training's own clock.
"""

from bench.recipe import FAST
from bench.spec import Comparison, Named, Recipe, Row, Settings, Train

_STEPS = 300
_TRAIN = Train(steps=_STEPS, batch=16, learning_rate=1.6e-2, warmup=50, clip=0.25, evaluate_every=30, evaluation_batch=64)
_REFERENCE = "DEQ, fast"


def _rows(memory: int) -> dict[str, Row]:
    cell: Settings = {"cell": "transformer-xl", "cell.heads": 4, "cell.memory_length": memory, "width": 32}
    evaluated: Settings = {**cell, "solver": "anderson", "steps": 12, "evaluation_steps": 60}
    solved: Settings = {**evaluated, "backward_steps": 8}

    def deq(settings: Settings, recipe: Recipe | None = None) -> Row:
        return Row(model=Named(name="deq", settings=settings), recipe=recipe, match="cell.feedforward")

    tied = {
        f"tied {depth}": Row(model=Named(name="tied", settings={**cell, "depth": depth}), match="cell.feedforward")
        for depth in (2, 4, 8, 12)
    }
    return tied | {
        _REFERENCE: deq(solved, FAST),
        "DEQ": deq(solved),
        "DEQ, capped throughout": deq({**solved, "steps": 6, "backward_steps": 4}),
        "DEQ, unrolled first": deq(solved, Recipe(pretrain_steps=int(0.6 * _STEPS), pretrain_depth=4)),
        "DEQ, phantom": deq({**evaluated, "steps": 6, "adjoint": "phantom", "adjoint.steps": 2}),
    }


def _comparison(group: str, task: Named, memory: int = 0) -> Comparison:
    return Comparison(
        group=group,
        task=task,
        train=_TRAIN.model_copy(update={"carry": memory > 0}),
        rows=_rows(memory),
        reference=_REFERENCE,
        learning_rates=(8e-3, 1.6e-2, 3.2e-2),
        trial_steps=_STEPS // 2,
        seeds=(0, 1, 2, 3, 4),
    )


SPECS = [
    _comparison("copy memory T=20", Named(name="copy", settings={"T": 20, "test_samples": 500})),
    _comparison("agreement language", Named(name="agreement", settings={"test_samples": 256})),
    _comparison(
        "tinyshakespeare by character",
        Named(name="text", settings={"data": "tinyshakespeare", "unit": "char", "length": 32}),
        memory=32,
    ),
]
