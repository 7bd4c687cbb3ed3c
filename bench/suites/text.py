"""Language modelling on any text: a comparison by character and one by word for every corpus of `--data NAME=PATH`."""

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig, TrainConfig
from bench.suites.recipes import ROTARY, SOLVE, row

_WIDTH = 48


def _comparison(name: str, unit: str) -> Comparison:
    return Comparison(
        group=f"{name} by {unit}",
        task=ComponentConfig(name="text", settings={"data": name, "unit": unit, "length": 64, "vocabulary_size": 2000}),
        train=TrainConfig(steps=400, batch=16, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=100, evaluation_batch=64),
        rows={
            "DEQ (Anderson)": row("deq", {**ROTARY, **SOLVE, "width": _WIDTH}),
            "tied 12": row("tied", {**ROTARY, "depth": 12}),
            "LSTM": row("lstm", {"inputs": _WIDTH}),
            "GRU": row("gru", {"inputs": _WIDTH}),
        },
        reference="DEQ (Anderson)",
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=100,
        seeds=(0, 1, 2),
    )


def SPECS(names: list[str]) -> list[Comparison]:
    """Return a comparison by character and one by word for each corpus."""
    if not names:
        raise UserError("suite text needs a corpus: --data NAME=PATH (a UTF-8 file or a folder of them)")
    return [_comparison(name, unit) for name in names for unit in ("char", "word")]
