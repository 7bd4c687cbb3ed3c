"""Penn Treebank by word at 8 million parameters, for minutes of one GPU: `python -m bench gpu` runs it.

Published splits, the whole vocabulary, carried state; five epochs of 32 sequences of 70 tokens. Every row has the same parameters
(within 2 %) and rate, dropout of 0.3 at inputs and outputs, and inside the usual rate of its kind. Nothing is tuned, in float32:
the scores are of one rate and few seeds, to be read next to the curves, not as the best of each model. Rows stand in the order of
their worth, since a short budget ends with the last.
"""

from bench.records.spec import Comparison, ComponentConfig, Recipe, Settings, TrainConfig
from bench.suites.recipes import row

_WIDTH = 320
_OUTER: Settings = {"tied_embedding": True, "input_dropout": 0.3, "output_dropout": 0.3}
_CELL: Settings = {
    **_OUTER,
    "width": _WIDTH,
    "cell": "transformer-xl",
    "cell.heads": 8,
    "cell.memory_length": 70,
    "cell.dropout": 0.1,
}
_SOLVE: Settings = {"solver": "anderson", "solver.window": 12, "steps": 12, "backward_steps": 8, "evaluation_steps": 40}
_SHINE: Settings = {"solver": "broyden", "steps": 8, "adjoint": "shine", "evaluation_steps": 40}
_XL: Settings = {**_OUTER, "width": _WIDTH, "layers": 4, "heads": 8, "memory_length": 70, "dropout": 0.1}
_TRELLIS: Settings = {**_OUTER, "width": 256, "inputs": 256, "cell.dropout": 0.1}
_RECURRENT: Settings = {"tied_embedding": True, "layers": 2, "hidden_dropout": 0.3, "input_dropout": 0.3, "output_dropout": 0.3}
_PRETRAINED = Recipe(pretrain_steps=400, pretrain_depth=2)

SPECS = [
    Comparison(
        group="Penn Treebank by word",
        task=ComponentConfig(name="text", settings={"data": "ptb", "unit": "word", "length": 70, "vocabulary_size": 10_000}),
        train=TrainConfig(
            steps=2000, batch=32, learning_rate=1e-3, warmup=100, clip=0.25, evaluate_every=500, evaluation_batch=32, carry=True
        ),
        rows={
            "Transformer-XL 4": row("transformer-xl", _XL, match="feedforward"),
            "DEQ-Transformer": row("deq", {**_CELL, **_SOLVE, "cell.feedforward": 6800}, recipe=_PRETRAINED),
            "tied Transformer 4": row("tied", {**_CELL, "depth": 4}, match="cell.feedforward"),
            "DEQ-Transformer, SHINE": row("deq", {**_CELL, **_SHINE}, match="cell.feedforward", recipe=_PRETRAINED),
            "LSTM": row("lstm", _RECURRENT),
            "TCN": row("tcn", {**_OUTER, "kernel": 3, "levels": 5, "dropout": 0.3}),
            "DEQ-TrellisNet": row("deq", {**_TRELLIS, **_SOLVE, "cell": "trellis", "steps": 20}, match="cell.hidden"),
            "TrellisNet 16": row("trellisnet", {**_TRELLIS, "depth": 16}, match="cell.hidden"),
        },
        reference="DEQ-Transformer",
        learning_rates=(1e-3,),
        trial_steps=500,
        seeds=(0, 1, 2),
    )
]
