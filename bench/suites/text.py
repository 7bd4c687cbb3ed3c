"""Language modelling on any text: a comparison by character and one by word for every corpus of `--data NAME=PATH`."""

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Settings, TrainConfig

_CELL: Settings = {"cell": "transformer", "cell.heads": 4, "cell.rotary_base": 10.0}
_WIDTH = 48
_DEQ: Settings = {**_CELL, "width": _WIDTH, "solver": "anderson", "steps": 12, "backward_steps": 8, "evaluation_steps": 60}


def _comparison(name: str, unit: str) -> Comparison:
    return Comparison(
        group=f"{name} by {unit}",
        task=ComponentConfig(name="text", settings={"data": name, "unit": unit, "length": 64, "vocabulary_size": 2000}),
        train=TrainConfig(steps=400, batch=16, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=100, evaluation_batch=64),
        rows={
            "DEQ (Anderson)": ModelEntry(model=ComponentConfig(name="deq", settings=_DEQ)),
            "tied 12": ModelEntry(model=ComponentConfig(name="tied", settings={**_CELL, "depth": 12})),
            "LSTM": ModelEntry(model=ComponentConfig(name="lstm", settings={"inputs": _WIDTH})),
            "GRU": ModelEntry(model=ComponentConfig(name="gru", settings={"inputs": _WIDTH})),
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
