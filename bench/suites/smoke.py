"""Everything once, small: a DEQ and its baselines on copy memory and a language of known entropy, in minutes on two cores.

Each row's rate is tuned at full length, on one seed; the sweep grows, at most twice, until its best lies inside. Checkpointed rows
have that of the plain network, which is the same function, and the DEQ by Broyden's method that of the DEQ by Anderson's. An
earlier version had trials of half the length, which chose other rates for the tied network.
"""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Settings, TrainConfig
from bench.suites.recipes import ROTARY, SOLVE, row

_WIDTH = 32
_DEPTH = 12
_DEQ: Settings = {**ROTARY, **SOLVE, "width": _WIDTH}
_TIED: Settings = {**ROTARY, "depth": _DEPTH}
_REFERENCE, _PLAIN = "DEQ (Anderson)", f"tied {_DEPTH}"
_ROWS = {
    _REFERENCE: row("deq", _DEQ),
    _PLAIN: row("tied", {**_TIED, "checkpointing": "none"}),
    "LSTM": row("lstm", {"inputs": _WIDTH}),
    "GRU": row("gru", {"inputs": _WIDTH}),
}
_MORE = {
    "DEQ (Broyden)": row("deq", {**_DEQ, "solver": "broyden", "solver.window": 60}, like=_REFERENCE),
    f"{_PLAIN}, checkpoint every step": row("tied", {**_TIED, "checkpointing": "every"}, like=_PLAIN),
    f"{_PLAIN}, checkpoint sqrt": row("tied", {**_TIED, "checkpointing": "sqrt"}, like=_PLAIN),
}


def _comparison(group: str, task: ComponentConfig, rows: dict[str, ModelEntry], depths: tuple[int, ...] = ()) -> Comparison:
    return Comparison(
        group=group,
        task=task,
        train=TrainConfig(steps=300, batch=16, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=75),
        rows=rows,
        reference=_REFERENCE,
        learning_rates=(4e-3, 8e-3, 1.6e-2),
        trial_steps=300,
        seeds=(0, 1, 2, 3, 4),
        widen=2,
        depths=depths,
    )


SPECS = [
    _comparison(
        "copy memory T=20",
        ComponentConfig(name="copy", settings={"T": 20, "test_samples": 500}),
        _ROWS | _MORE,
        depths=(2, 4, 8, 16, 32, 64),
    ),
    _comparison("agreement language", ComponentConfig(name="agreement", settings={"test_samples": 256}), _ROWS),
]
