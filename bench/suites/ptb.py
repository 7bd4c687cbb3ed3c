"""Penn Treebank by word, published splits, whole vocabulary, carried state: first a published number, then equal terms.

The anchor is the small LSTM of Zaremba, Sutskever, Vinyals (2014, arXiv 1409.2329), trained by the published recipe: two layers of
200, 20 sequences of 35 tokens, SGD at 1.0 for four epochs and halved at each later one, 13 epochs, no dropout, all parameters from
[-0.1, 0.1]; test perplexity 114.5 (paper) and 115.9 (the code's own table). That code sums the loss over the 35 tokens, this
trainer takes the mean: its rate is 35 times, its bound of the gradient (5) a 35th.

The comparison: three epochs of 16 sequences of 64 tokens, 0.91 million parameters in every row (within 2 %), tied adaptive softmax
(2,000 words at full width), dropout of 0.1 at inputs and outputs, and inside the kinds that use it. Every row has the same sweep:
three rates at one epoch and one seed, more where the best is an end. These are an hour of one core for a row of a DEQ, so that
trials are shorter than runs, against the rule; equal for all rows. The state-space row was first run without dropout inside its
blocks, the only kind that could have it and had none; "state-space, dropout" was added when its perplexity was known.
"""

from bench.records.spec import Comparison, ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.suites.recipes import row

_TOKENS, _BATCH = 35, 20
_EPOCH = 929_589 // _BATCH // _TOKENS  # steps

ANCHOR = RunSpec(
    group="Penn Treebank, the small LSTM of 2014",
    label="LSTM, 2 layers of 200",
    task=ComponentConfig(name="text", settings={"data": "ptb", "unit": "word", "length": _TOKENS}),
    model=ComponentConfig(name="lstm", settings={"width": 200, "layers": 2, "initial_range": 0.1}),
    train=TrainConfig(
        steps=13 * _EPOCH,
        batch=_BATCH,
        optimiser="sgd",
        learning_rate=1.0 * _TOKENS,
        halve_from=4 * _EPOCH,
        halve_every=_EPOCH,
        clip=5 / _TOKENS,
        carry=True,
        evaluate_every=_EPOCH,
        evaluation_batch=20,
    ),
    seed=0,
)

_OUTER: Settings = {"cutoffs": "2000", "input_dropout": 0.1, "output_dropout": 0.1}
_CELL: Settings = {
    **_OUTER,
    "width": 128,
    "cell": "transformer-xl",
    "cell.heads": 4,
    "cell.memory_length": 64,
    "cell.dropout": 0.1,
}
_IMPLICIT: Settings = {**_CELL, "solver": "anderson", "solver.window": 12, "steps": 12, "backward_steps": 8, "evaluation_steps": 60}
_SHINE: Settings = {**_CELL, "solver": "broyden", "steps": 6, "adjoint": "shine", "evaluation_steps": 60}
_REVERSIBLE: Settings = {**_CELL, "solver": "reversible", "adjoint": "reverse", "steps": 6, "evaluation_steps": 60}
_XL: Settings = {**_OUTER, "width": 120, "layers": 4, "heads": 4, "memory_length": 64, "dropout": 0.1}
_TRELLIS: Settings = {**_OUTER, "width": 128, "inputs": 128, "cell.dropout": 0.1}
_EQUILIBRIUM: Settings = {
    **_TRELLIS,
    "cell": "trellis",
    "solver": "picard",
    "steps": 12,
    "backward_steps": 12,
    "evaluation_steps": 100,
}
_RECURRENT: Settings = {**_OUTER, "layers": 2, "hidden_dropout": 0.1}
_STEPS = 929_589 // 16 // 64  # an epoch

COMPARISON = Comparison(
    group="Penn Treebank by word",
    task=ComponentConfig(name="text", settings={"data": "ptb", "unit": "word", "length": 64}),
    train=TrainConfig(
        steps=3 * _STEPS,
        batch=16,
        learning_rate=2e-3,
        warmup=100,
        clip=0.25,
        carry=True,
        evaluate_every=_STEPS // 2,
        evaluation_batch=16,
    ),
    rows={
        "Transformer-XL 4": row("transformer-xl", _XL, match="feedforward"),
        "DEQ-Transformer, SHINE": row("deq", _SHINE, match="cell.feedforward"),
        "tied Transformer 2": row("tied", {**_CELL, "depth": 2}, match="cell.feedforward"),
        "LSTM": row("lstm", _RECURRENT),
        "DEQ-Transformer": row("deq", {**_IMPLICIT, "cell.feedforward": 1024}),
        "GRU": row("gru", _RECURRENT),
        "TCN": row("tcn", {**_OUTER, "kernel": 3, "levels": 5, "dropout": 0.1}),
        "tied Transformer 4": row("tied", {**_CELL, "depth": 4}, match="cell.feedforward"),
        "looped Transformer 4": row("looped", {**_CELL, "depth": 4}, match="cell.feedforward"),
        "state-space": row("state-space", {**_OUTER, "width": 128, "layers": 2}, match="feedforward"),
        "state-space, dropout": row("state-space", {**_OUTER, "width": 128, "layers": 2, "dropout": 0.1}, match="feedforward"),
        "DEQ-Transformer, reversible": row("deq", _REVERSIBLE, match="cell.feedforward"),
        "DEQ-Transformer, Jacobian": row("deq", _IMPLICIT, match="cell.feedforward", recipe=Recipe(jacobian=0.5)),
        "DEQ-TrellisNet": row("deq", _EQUILIBRIUM, match="cell.hidden"),
        "TrellisNet 12": row("trellisnet", {**_TRELLIS, "depth": 12}, match="cell.hidden"),
    },
    reference="DEQ-Transformer",
    learning_rates=(1e-3, 2e-3, 4e-3),
    trial_steps=_STEPS,
    seeds=(0, 1, 2),
    widen=2,
)

SPECS = [ANCHOR, COMPARISON]
