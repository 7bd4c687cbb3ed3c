"""State tracking: parity and the word problem of S5, trained at 16 tokens, tested at 16 to 128.

The question: does an equilibrium generalise in length where a fixed depth does not, and does the solver decide it? All rows of a
group have the same parameters (within 2 %), training sequences, and sweep. A solve may take 300 evaluations in evaluation.

Parity: about 7,900 parameters, 400 steps, ten seeds (five are recorded). Three rates at full length and two seeds, and up to
three further ones until the best lies inside (for 8 of the 17 rows it does not: they end at 0.064). A pilot with five seeds
and sweeps of three rates, which most rows left at the largest, was seen before this protocol. Before it, a first design of
1,500 steps was stopped after two trials, and a second after thirty, for their time.

S5: about 51,000 parameters, 2,000 steps, 11 of the rows, five seeds. The same three rates at full length with one seed, and up to
two further ones. A first version tried them at a quarter of the length: most rows then chose 0.016 or 0.032, a GRU did worse than
in the pilot below at a lower rate, and the `strict` state-space cell led; its records were seen before this one (the DEQ-
TrellisNet was right at the last of 32 tokens in 0.26 of the sequences by plain iteration and in 0.32 by Broyden's method, at
rates of 0.032 and 0.016). Sequences are of two generators (with all 120 elements a GRU of 40,000 parameters learns nothing in
3,000 steps). Size and length are from pilots of one run each (seed 1000), seen before either version. With 12,600 parameters and
a rate of 0.01 a GRU is right at the last of 16 tokens in 0.857 of the sequences after 1,500 steps and in 0.965 after 4,000, but
in 0.01 of 128; the DEQ-TrellisNet by plain iteration in 0.350 and 0.721; a state-space model with negative decays in 0.314 and
0.582. With 61,000 parameters, inputs of 32 and a rate of 0.005, after 2,000 steps, at 16, 32, 64 and 128 tokens: GRU 1.00, 0.922,
0.607 and 0.311, the DEQ 0.969, 0.588, 0.195 and 0.047.

S5, nine times the steps: LSTM and GRU in the time that the `strict` state-space cell takes, whose step was nine times a GRU's in
the first version. Written when rows of the second were known.

S5, controls, written when all rows of S5 were known: is it the equilibrium that generalises, or the cell, and are its rivals held
back? The `strict` cell iterated 16 times without a solver, which at 16 tokens is its solution; state-space models whose budget is
in the states instead of the feed-forward network. Their sweeps are as S5's. S5, recurrent networks by rate: LSTM and GRU at five
rates, since the sweep sees 16 tokens only, where several rates are right in all sequences; when three seeds of these were known, a
GRU with inputs as wide as the pilot's was added.
"""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, RunSpec, Settings, TrainConfig, Value
from bench.suites.recipes import row

_SOLVE: Settings = {"steps": 30, "backward_steps": 30, "evaluation_steps": 300}
_ATTENTION: Settings = {"cell": "transformer-xl", "cell.heads": 4}
_IN_S5 = (
    "DEQ-TrellisNet, Picard",
    "DEQ-TrellisNet, Anderson",
    "DEQ-TrellisNet, Broyden",
    "DEQ state-space, strict",
    "TrellisNet 16",
    "looped trellis, 128 tested",
    "Transformer-XL 4",
    "LSTM",
    "GRU",
    "state-space",
    "state-space, negative",
)


def _rows(scale: float) -> dict[str, ModelEntry]:
    """Return the rows of parity (`scale` 1), or the same with states `scale` times as wide."""
    trellis: Settings = {"cell": "trellis", "inputs": 16, "width": round(24 * scale)}
    state_space: Settings = {"cell": "state-space", "inputs": 16, "width": round(24 * scale)}
    deq: Settings = {**trellis, **_SOLVE}
    narrow = round(12 * scale)
    return {
        "DEQ-TrellisNet, Picard": row("deq", {**deq, "solver": "picard"}),
        "DEQ-TrellisNet, Anderson": row("deq", {**deq, "solver": "anderson", "solver.window": 12}, match="inputs"),
        "DEQ-TrellisNet, Broyden": row("deq", {**deq, "solver": "broyden"}, match="inputs"),
        "DEQ-TrellisNet, reversible": row(
            "deq", {**trellis, "solver": "reversible", "adjoint": "reverse", "steps": 30, "evaluation_steps": 300}, match="inputs"
        ),
        "DEQ state-space": row("deq", {**state_space, **_SOLVE, "solver": "picard"}, match="cell.states"),
        "DEQ state-space, Anderson": row(
            "deq", {**state_space, **_SOLVE, "solver": "anderson", "solver.window": 12}, match="cell.states"
        ),
        "DEQ state-space, strict": row(
            "deq", {**state_space, **_SOLVE, "cell.strict": True, "solver": "picard"}, match="cell.states"
        ),
        "TrellisNet 16": row("trellisnet", {"width": round(24 * scale), "depth": 16}, match="inputs"),
        "looped trellis, 128 tested": row(
            "looped", {**trellis, "depth": 16, "backward_depth": 16, "evaluation_depth": 128}, match="inputs"
        ),
        "adaptive trellis, 128 tested": row(
            "adaptive-loop", {**trellis, "depth": 24, "evaluation_depth": 128, "initial_bias": -2.0}, match="inputs"
        ),
        "DEQ-Transformer": row(
            "deq",
            {**_ATTENTION, **_SOLVE, "width": 4 * round(4 * scale), "solver": "anderson", "solver.window": 12},
            match="cell.feedforward",
        ),
        "Transformer-XL 4": row("transformer-xl", {"width": narrow, "layers": 4, "heads": 4}, match="feedforward"),
        "TCN": row("tcn", {"width": round(14 * scale), "kernel": 3, "levels": 4}, match="inputs"),
        "LSTM": row("lstm", {"inputs": 16}),
        "GRU": row("gru", {"inputs": 16}),
        "state-space": row("state-space", {"width": narrow}, match="feedforward"),
        "state-space, negative": row("state-space", {"width": narrow, "negative": True}, match="feedforward"),
    }


def _task(group: str, **more: Value) -> ComponentConfig:
    return ComponentConfig(name="state", settings={"group": group, "length": 16, "test_lengths": "16,32,64,128", **more})


_TRAIN = TrainConfig(steps=400, batch=32, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=200, evaluation_batch=128)
_LONGER = _TRAIN.model_copy(update={"steps": 2000, "warmup": 100, "evaluate_every": 500})
_NINEFOLD = _LONGER.model_copy(update={"steps": 18_000, "warmup": 900, "evaluate_every": 4500})
_RATES = (2e-3, 4e-3, 8e-3)
_S5 = _task("S5", generators=True)
_STRICT: Settings = {"cell": "state-space", "cell.strict": True, "cell.states": 134, "inputs": 16, "width": 64}
_STATES: Settings = {"width": 32, "feedforward": 64}
_RECURRENT: dict[str, tuple[str, Settings]] = {  # with the sizes of the comparison, and of the pilot
    "LSTM": ("lstm", {"inputs": 16, "width": 89}),
    "GRU": ("gru", {"inputs": 16, "width": 102}),
    "GRU, inputs 32": ("gru", {"inputs": 32, "width": 94}),
}

PARITY = Comparison(
    group="state tracking parity",
    task=_task("parity"),
    train=_TRAIN,
    rows=_rows(1),
    reference="DEQ-TrellisNet, Picard",
    learning_rates=_RATES,
    trial_steps=400,
    trial_seeds=2,
    widen=3,
    seeds=tuple(range(10)),
)

SPECS = [
    PARITY,
    Comparison(
        group="state tracking S5",
        task=_S5,
        train=_LONGER,
        rows={label: entry for label, entry in _rows(8 / 3).items() if label in _IN_S5},
        reference="DEQ-TrellisNet, Picard",
        learning_rates=_RATES,
        trial_steps=2000,
        widen=2,
        seeds=(0, 1, 2, 3, 4),
    ),
    Comparison(
        group="state tracking S5, nine times the steps",
        task=_S5,
        train=_NINEFOLD,
        rows={"LSTM": row("lstm", {"inputs": 16}), "GRU": row("gru", {"inputs": 16, "width": 102})},
        reference="GRU",
        learning_rates=_RATES,
        trial_steps=18_000,
        widen=2,
        seeds=(0, 1, 2, 3, 4),
    ),
    Comparison(
        group="state tracking S5, controls",
        task=_S5,
        train=_LONGER,
        rows={
            "looped state-space, strict": row(
                "looped", {**_STRICT, "depth": 16, "backward_depth": 16, "evaluation_depth": 128, "random_depth": False}
            ),
            "state-space, states": row("state-space", _STATES, match="states"),
            "state-space, negative, states": row("state-space", {**_STATES, "negative": True}, match="states"),
        },
        reference="looped state-space, strict",
        learning_rates=_RATES,
        trial_steps=2000,
        widen=2,
        seeds=(0, 1, 2, 3, 4),
    ),
    *(
        RunSpec(
            group="state tracking S5, recurrent networks by rate",
            label=f"{label}, rate {rate:g}",
            model=ComponentConfig(name=name, settings=settings),
            task=_S5,
            train=_LONGER.model_copy(update={"learning_rate": rate}),
            seed=seed,
        )
        for label, (name, settings) in _RECURRENT.items()
        for rate in ((5e-3, 8e-3) if label == "GRU, inputs 32" else (2e-3, 4e-3, 5e-3, 8e-3, 1.6e-2))
        for seed in range(5)
    ),
]
