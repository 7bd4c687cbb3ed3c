"""Penn Treebank by word, published splits, whole vocabulary, carried state: first a published number, then equal terms.

The anchor is the small LSTM of Zaremba, Sutskever, Vinyals (2014, arXiv 1409.2329), trained by the published recipe: two layers of
200, 20 sequences of 35 tokens, SGD at 1.0 for four epochs and halved at each later one, 13 epochs, no dropout, all parameters from
[-0.1, 0.1]; test perplexity 114.5 (paper) and 115.9 (the code's own table). That code sums the loss over the 35 tokens, this
trainer takes the mean: its rate is 35 times, its bound of the gradient (5) a 35th.
"""

from bench.records.spec import ComponentConfig, RunSpec, TrainConfig

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

SPECS = [ANCHOR]
