"""Copy memory at the size of the paper's table 1: T=400, 14 to 16 thousand parameters, 20,000 sequences, three seeds.

The paper says neither how long nor how it trained. The budget here is what two CPU cores can do in an evening, equal for all rows.
Run it in the background; it goes on where it was stopped.
"""

from bench.presets import LEAN
from bench.spec import Comparison, Named, Row, Settings, Train

_CELL: Settings = {"cell": "transformer-xl", "cell.heads": 1, "cell.position_base": 420.0, "width": 30}
_SOLVE: Settings = {"solver": "anderson", "steps": 12, "backward_steps": 8, "evaluation_steps": 60}

SPECS = [
    Comparison(
        group="copy memory T=400",
        task=Named(name="copy", settings={"T": 400}),
        train=Train(steps=1500, batch=16, learning_rate=8e-3, warmup=100, clip=0.25, evaluate_every=250, evaluation_batch=50),
        rows={
            "DEQ-Transformer": Row(model=Named(name="deq", settings={**_CELL, **_SOLVE}), recipe=LEAN),
            "tied Transformer 4": Row(model=Named(name="tied", settings={**_CELL, "depth": 4})),
            "TCN": Row(model=Named(name="tcn", settings={"kernel": 8, "levels": 8})),
            "LSTM": Row(model=Named(name="lstm", settings={"inputs": 16})),
            "GRU": Row(model=Named(name="gru", settings={"inputs": 16})),
        },
        reference="DEQ-Transformer",
        learning_rates=(4e-3, 8e-3, 1.6e-2),
        trial_steps=500,
        seeds=(0, 1, 2),
    )
]
