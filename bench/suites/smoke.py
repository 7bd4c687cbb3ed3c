"""Everything once, small: a DEQ and its baselines on copy memory and a language of known entropy, in minutes on two cores."""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Settings, TrainConfig

_CELL: Settings = {"cell": "transformer", "cell.heads": 4, "cell.rotary_base": 10.0}
_WIDTH = 32
_DEPTH = 12


def _deq(solver: str, like: str | None = None) -> ModelEntry:
    return ModelEntry(
        like=like,
        model=ComponentConfig(
            name="deq",
            settings={**_CELL, "width": _WIDTH, "solver": solver, "steps": 12, "backward_steps": 8, "evaluation_steps": 60}
            | ({"solver.window": 60} if solver == "broyden" else {}),
        ),
    )


def _tied(checkpointing: str, like: str | None = None) -> ModelEntry:
    return ModelEntry(
        model=ComponentConfig(name="tied", settings={**_CELL, "depth": _DEPTH, "checkpointing": checkpointing}), like=like
    )


def _recurrent(name: str) -> ModelEntry:
    return ModelEntry(model=ComponentConfig(name=name, settings={"inputs": _WIDTH}))


_PLAIN = f"tied {_DEPTH}"
_ROWS = {
    "DEQ (Anderson)": _deq("anderson"),
    _PLAIN: _tied("none"),
    "LSTM": _recurrent("lstm"),
    "GRU": _recurrent("gru"),
}
_MORE = {
    "DEQ (Broyden)": _deq("broyden", like="DEQ (Anderson)"),
    f"{_PLAIN}, checkpoint every step": _tied("every", like=_PLAIN),
    f"{_PLAIN}, checkpoint sqrt": _tied("sqrt", like=_PLAIN),
}
_TRAIN = TrainConfig(steps=300, batch=16, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=75)

SPECS = [
    Comparison(
        group="copy memory T=20",
        task=ComponentConfig(name="copy", settings={"T": 20, "test_samples": 500}),
        train=_TRAIN,
        rows=_ROWS | _MORE,
        reference="DEQ (Anderson)",
        learning_rates=(4e-3, 8e-3, 1.6e-2),
        trial_steps=150,
        seeds=(0, 1, 2, 3, 4),
        depths=(2, 4, 8, 16, 32, 64),
    ),
    Comparison(
        group="agreement language",
        task=ComponentConfig(name="agreement", settings={"test_samples": 256}),
        train=_TRAIN,
        rows=_ROWS,
        reference="DEQ (Anderson)",
        learning_rates=(4e-3, 8e-3, 1.6e-2),
        trial_steps=150,
        seeds=(0, 1, 2, 3, 4),
    ),
]
