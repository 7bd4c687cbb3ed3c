"""Language modelling on any text: a comparison by character and one by word for every corpus of `--data NAME=PATH`.

The rows are those of a first look: two DEQs, their explicit counterparts, a Transformer-XL and the recurrent networks. They train
for 1,000 steps of 16 x 64 tokens; every row has the same sweep of rates, tried at half of that length and grown until the best
lies inside. By word the vocabulary has 2,000 entries, and widths are alike, so that models and not embeddings are compared. A
first version, of 400 steps without Transformer-XL and state-space models, with trials a quarter as long, was seen before.

On WikiText-2 by word the strict state-space DEQ had the lowest loss of all. What it owes to its equilibrium and to its time is
asked by controls, which were added when that was known: its cell iterated 16 times without a solver, a linear state-space model
with the budget in its states, and state-space and LSTM trained five times as long, which takes them less time.
"""

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Settings, TrainConfig
from bench.suites.recipes import ROTARY, SOLVE, row

_WIDTH = 40
_STRICT: Settings = {"cell": "state-space", "cell.strict": True, "width": _WIDTH}
_ROWS = {
    "DEQ (Anderson)": row("deq", {**ROTARY, **SOLVE, "width": _WIDTH, "cell.feedforward": 384}),
    "DEQ state-space, strict": row(
        "deq",
        {**_STRICT, "solver": "picard", "steps": 60, "backward_steps": 60, "evaluation_steps": 60},
        match="cell.states",
    ),
    "tied 12": row("tied", {**ROTARY, "width": _WIDTH, "depth": 12}, match="cell.feedforward"),
    "Transformer-XL 4": row("transformer-xl", {"layers": 4, "heads": 4, "width": 36}, match="feedforward"),
    "state-space": row("state-space", {"width": _WIDTH}, match="feedforward"),
    "LSTM": row("lstm", {"inputs": _WIDTH}),
    "GRU": row("gru", {"inputs": _WIDTH}),
}
_CONTROLS = {
    "looped state-space, strict": row(
        "looped",
        {**_STRICT, "cell.states": 150, "depth": 16, "backward_depth": 16, "evaluation_depth": 60, "random_depth": False},
    ),
    "state-space, states": row("state-space", {"width": _WIDTH, "feedforward": 2 * _WIDTH}, match="states"),
}
_LONGER = {
    "state-space": row("state-space", {"width": _WIDTH, "feedforward": 178}),
    "LSTM": row("lstm", {"inputs": _WIDTH}),
}


def _comparison(name: str, unit: str, also: str, rows: dict[str, ModelEntry], times: int = 1) -> Comparison:
    return Comparison(
        group=f"{name} by {unit}{also}",
        task=ComponentConfig(name="text", settings={"data": name, "unit": unit, "length": 64, "vocabulary_size": 2000}),
        train=TrainConfig(
            steps=1000 * times,
            batch=16,
            learning_rate=4e-3,
            warmup=100 * times,
            clip=0.25,
            evaluate_every=250 * times,
            evaluation_batch=64,
        ),
        rows=rows,
        reference=next(iter(rows)),
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=500 * times,
        widen=2,
        seeds=(0, 1, 2),
    )


def SPECS(names: list[str]) -> list[Comparison]:
    """Return the comparisons by character and by word for each corpus."""
    if not names:
        raise UserError("suite text needs a corpus: --data NAME=PATH (a UTF-8 file or a folder of them)")
    return [
        comparison
        for name in names
        for unit in ("char", "word")
        for comparison in (
            _comparison(name, unit, "", _ROWS),
            _comparison(name, unit, ", controls", _CONTROLS),
            _comparison(name, unit, ", five times the steps", _LONGER, times=5),
        )
    ]
