"""State tracking: parity and the word problems of S3 and S5, trained at 16 tokens, tested at 16 to 128.

The question: does an equilibrium generalise in length where a fixed depth does not, and does the solver decide it? All rows of a
group have the same parameters (within 2 %), training sequences, and sweep: three rates at full length and two seeds, and up to
three further ones until the best lies inside (for 8 of the 17 rows of parity it does not: they end at 0.064). A solve may take 300
evaluations in evaluation. About 7,000 parameters; 400 steps of parity, 600 of S3, 1,500 of S5, whose sequences are of two
generators (with all 120 elements a GRU of 40,000 parameters learns nothing in 3,000).

A pilot of parity with five seeds and sweeps of three rates, which most rows left at the largest, was seen before this protocol.
Before it, a first design of 1,500 steps was stopped after two trials, and a second after thirty, for their time.
"""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Settings, TrainConfig
from bench.suites.recipes import row

_TRELLIS: Settings = {"cell": "trellis", "inputs": 16, "width": 24}
_STATE_SPACE: Settings = {"cell": "state-space", "inputs": 16, "width": 24}
_SOLVE: Settings = {"steps": 30, "backward_steps": 30, "evaluation_steps": 300}
_ATTENTION: Settings = {"cell": "transformer-xl", "cell.heads": 4}


def _rows() -> dict[str, ModelEntry]:
    deq: Settings = {**_TRELLIS, **_SOLVE}
    return {
        "DEQ-TrellisNet, Picard": row("deq", {**deq, "solver": "picard"}),
        "DEQ-TrellisNet, Anderson": row("deq", {**deq, "solver": "anderson", "solver.window": 12}, match="inputs"),
        "DEQ-TrellisNet, Broyden": row("deq", {**deq, "solver": "broyden"}, match="inputs"),
        "DEQ-TrellisNet, reversible": row(
            "deq", {**_TRELLIS, "solver": "reversible", "adjoint": "reverse", "steps": 30, "evaluation_steps": 300}, match="inputs"
        ),
        "DEQ state-space": row("deq", {**_STATE_SPACE, **_SOLVE, "solver": "picard"}, match="cell.states"),
        "DEQ state-space, Anderson": row(
            "deq", {**_STATE_SPACE, **_SOLVE, "solver": "anderson", "solver.window": 12}, match="cell.states"
        ),
        "DEQ state-space, strict": row(
            "deq", {**_STATE_SPACE, **_SOLVE, "cell.strict": True, "solver": "picard"}, match="cell.states"
        ),
        "TrellisNet 16": row("trellisnet", {"width": 24, "depth": 16}, match="inputs"),
        "looped trellis, 128 tested": row(
            "looped", {**_TRELLIS, "depth": 16, "backward_depth": 16, "evaluation_depth": 128}, match="inputs"
        ),
        "adaptive trellis, 128 tested": row(
            "adaptive-loop", {**_TRELLIS, "depth": 24, "evaluation_depth": 128, "initial_bias": -2.0}, match="inputs"
        ),
        "DEQ-Transformer": row(
            "deq", {**_ATTENTION, **_SOLVE, "width": 16, "solver": "anderson", "solver.window": 12}, match="cell.feedforward"
        ),
        "Transformer-XL 4": row("transformer-xl", {"width": 12, "layers": 4, "heads": 4}, match="feedforward"),
        "TCN": row("tcn", {"width": 14, "kernel": 3, "levels": 4}, match="inputs"),
        "LSTM": row("lstm", {"inputs": 16}),
        "GRU": row("gru", {"inputs": 16}),
        "state-space": row("state-space", {"width": 12}, match="feedforward"),
        "state-space, negative": row("state-space", {"width": 12, "negative": True}, match="feedforward"),
    }


def _comparison(group: str, steps: int, seeds: int, generators: bool = False) -> Comparison:
    task: Settings = {"group": group, "length": 16, "test_lengths": "16,32,64,128"}
    if generators:
        task["generators"] = True
    return Comparison(
        group=f"state tracking {group}",
        task=ComponentConfig(name="state", settings=task),
        train=TrainConfig(
            steps=steps, batch=32, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=200, evaluation_batch=128
        ),
        rows=_rows(),
        reference="DEQ-TrellisNet, Picard",
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=steps,
        trial_seeds=2,
        seeds=tuple(range(seeds)),
        widen=3,
    )


SPECS = [_comparison("parity", 400, 10), _comparison("S3", 600, 5), _comparison("S5", 1500, 5, generators=True)]
