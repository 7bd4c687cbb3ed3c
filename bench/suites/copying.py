"""Copy memory at the size of the paper's table 1: T=400, 15 thousand parameters, 20,000 sequences, three seeds.

The paper says neither how long nor how it trained. The budget here, equal for all rows, is what two CPU cores do in little more
than an hour: 6,000 steps of four sequences, 1.2 times the training data. It goes on where it was stopped. Of a first run, broken
off after 7 of its 18 final runs and kept nowhere, is known that a DEQ's rate, chosen by trials of a quarter of the length, was too
high for the whole.
"""

from bench.presets import LEAN
from bench.spec import Comparison, Named, Row, Settings, Train

# One head, since attention over 420 positions is what a step costs; and frequencies that tell positions of that range apart.
_CELL: Settings = {"cell": "transformer-xl", "cell.heads": 1, "cell.position_base": 420.0, "width": 30}
_SOLVE: Settings = {"solver": "anderson", "steps": 12, "backward_steps": 8, "evaluation_steps": 60}

SPECS = [
    Comparison(
        group="copy memory T=400",
        task=Named(name="copy", settings={"T": 400}),
        train=Train(steps=6000, batch=4, learning_rate=4e-3, warmup=200, evaluate_every=1500, evaluation_batch=50),
        rows={
            "DEQ-Transformer": Row(model=Named(name="deq", settings={**_CELL, **_SOLVE}), recipe=LEAN),
            "tied Transformer 2": Row(model=Named(name="tied", settings={**_CELL, "depth": 2})),
            "tied Transformer 4": Row(model=Named(name="tied", settings={**_CELL, "depth": 4})),
            "TCN": Row(model=Named(name="tcn", settings={"kernel": 8, "levels": 8, "width": 10}), match="inputs"),
            "LSTM": Row(model=Named(name="lstm", settings={"inputs": 16})),
            "GRU": Row(model=Named(name="gru", settings={"inputs": 16})),
        },
        reference="DEQ-Transformer",
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=1500,
        seeds=(0, 1, 2),
    )
]
