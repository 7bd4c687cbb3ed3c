"""Runs of the performance gate: each family of models once, small, on synthetic data; one group per task."""

from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig

_COPY = ComponentConfig(name="copy", settings={"T": 10, "samples": 1000, "test_samples": 100})
_AGREEMENT = ComponentConfig(name="agreement", settings={"test_samples": 64})
_SOLVE: Settings = {"steps": 12, "backward_steps": 8}
_XL: Settings = {"cell": "transformer-xl", "cell.heads": 2}
_ROTARY: Settings = {"cell": "transformer", "cell.heads": 2}


def _spec(label: str, name: str, task: ComponentConfig, settings: Settings) -> RunSpec:
    model = ComponentConfig(name=name, settings={"width": 16} | settings)
    train = TrainConfig(steps=200, batch=8, learning_rate=1e-2, warmup=10)
    return RunSpec(group=f"gate {task.name}", label=label, model=model, task=task, train=train, seed=0)


SPECS = [
    _spec("DEQ (Anderson)", "deq", _COPY, {"solver": "anderson", **_ROTARY, **_SOLVE}),
    _spec("DEQ (Broyden)", "deq", _COPY, {"solver": "broyden", **_XL, **_SOLVE}),
    _spec("DEQ-TrellisNet (Picard)", "deq", _AGREEMENT, {"solver": "picard", "cell": "trellis", **_SOLVE}),
    _spec("DEQ, phantom gradient", "deq", _COPY, {"solver": "anderson", "adjoint": "phantom", "steps": 12, **_XL}),
    _spec("tied 12", "tied", _COPY, {"depth": 12, **_ROTARY}),
    _spec("tied 12, checkpoint sqrt", "tied", _COPY, {"depth": 12, "checkpointing": "sqrt", **_ROTARY}),
    _spec("Transformer-XL 4", "transformer-xl", _AGREEMENT, {"layers": 4, "heads": 2}),
    _spec("TrellisNet 8", "trellisnet", _AGREEMENT, {"depth": 8}),
    _spec("TCN", "tcn", _AGREEMENT, {"kernel": 3, "levels": 3}),
    _spec("LSTM", "lstm", _AGREEMENT, {}),
    _spec("GRU", "gru", _AGREEMENT, {}),
    _spec("Neural ODE, 10 Euler steps", "ode", _COPY, {"time": 10.0, "method": "euler", "step_size": 1.0, **_XL}),
]
