"""Language modelling on any text: a comparison by character and one by word for every corpus of `--data NAME=PATH`.

The rows are those of a first look: two DEQs, their explicit counterparts, a Transformer-XL and the recurrent networks. They train
for 1,000 steps of 16 x 64 tokens; every row has the same sweep of rates, tried at half of that length and grown until the best
lies inside. By word the vocabulary has 2,000 entries, and widths are alike, so that models and not embeddings are compared. A
first version, of 400 steps without Transformer-XL and state-space models, with trials a quarter as long, was seen before.
"""

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig, Settings, TrainConfig
from bench.suites.recipes import ROTARY, SOLVE, row

_WIDTH = 40
_STATE_SPACE: Settings = {
    **{"cell": "state-space", "cell.strict": True, "width": _WIDTH, "solver": "picard"},
    **{"steps": 60, "backward_steps": 60, "evaluation_steps": 60},
}


def _comparison(name: str, unit: str) -> Comparison:
    return Comparison(
        group=f"{name} by {unit}",
        task=ComponentConfig(name="text", settings={"data": name, "unit": unit, "length": 64, "vocabulary_size": 2000}),
        train=TrainConfig(steps=1000, batch=16, learning_rate=4e-3, warmup=100, clip=0.25, evaluate_every=250, evaluation_batch=64),
        rows={
            "DEQ (Anderson)": row("deq", {**ROTARY, **SOLVE, "width": _WIDTH, "cell.feedforward": 384}),
            "DEQ state-space, strict": row("deq", _STATE_SPACE, match="cell.states"),
            "tied 12": row("tied", {**ROTARY, "width": _WIDTH, "depth": 12}, match="cell.feedforward"),
            "Transformer-XL 4": row("transformer-xl", {"layers": 4, "heads": 4, "width": 36}, match="feedforward"),
            "state-space": row("state-space", {"width": _WIDTH}, match="feedforward"),
            "LSTM": row("lstm", {"inputs": _WIDTH}),
            "GRU": row("gru", {"inputs": _WIDTH}),
        },
        reference="DEQ (Anderson)",
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=500,
        widen=2,
        seeds=(0, 1, 2),
    )


def SPECS(names: list[str]) -> list[Comparison]:
    """Return a comparison by character and one by word for each corpus."""
    if not names:
        raise UserError("suite text needs a corpus: --data NAME=PATH (a UTF-8 file or a folder of them)")
    return [_comparison(name, unit) for name in names for unit in ("char", "word")]
