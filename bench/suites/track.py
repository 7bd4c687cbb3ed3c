"""State tracking: parity and the word problems of S3 and S5, trained at 16 tokens, tested at 16 to 128.

The question: does an equilibrium generalise in length where a fixed depth does not, and does the solver decide it? All rows of a
group have the same parameters (within 2 %), training sequences, and trials: three rates at full length and two seeds. A solve may
take 300 evaluations in evaluation. This is a pilot of minutes, with about 7,000 parameters and 400 steps; a first design of 1,500
steps was stopped after two trials, and a second after thirty, for their time; no final run was made.
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


def _comparison(group: str) -> Comparison:
    return Comparison(
        group=f"state tracking {group}",
        task=ComponentConfig(name="state", settings={"group": group, "length": 16, "test_lengths": "16,32,64,128"}),
        train=TrainConfig(steps=400, batch=32, learning_rate=4e-3, warmup=50, clip=0.25, evaluate_every=200, evaluation_batch=128),
        rows=_rows(),
        reference="DEQ-TrellisNet, Picard",
        learning_rates=(2e-3, 4e-3, 8e-3),
        trial_steps=400,
        trial_seeds=2,
        seeds=(0, 1, 2, 3, 4),
    )


SPECS = [_comparison(group) for group in ("parity", "S3", "S5")]
