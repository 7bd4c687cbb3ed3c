"""A suite of your own: the four examples next to a DEQ, its unrolled network and a GRU, at equal parameters."""

from bench import Comparison, ComponentConfig, ModelEntry, TrainConfig


def _row(name: str, **settings: str | int | float) -> ModelEntry:
    return ModelEntry(model=ComponentConfig(name=name, settings={key.replace("__", "."): value for key, value in settings.items()}))


SPECS = [
    Comparison(
        group="my own",
        task=ComponentConfig(name="my_task:Lookback", settings={"lag": 2}),
        train=TrainConfig(steps=200, batch=16, learning_rate=1e-2, evaluate_every=50),
        rows={
            "DEQ": _row("deq", cell="transformer", cell__heads=2, width=32),
            "tied 6": _row("tied", cell="transformer", cell__heads=2, depth=6),
            "DEQ, my cell": _row("deq", cell="my_cell:Gate", cell__gain=0.3),
            "tied 6, my cell": _row("tied", cell="my_cell:Gate", depth=6),
            "DEQ, my cell and solver": _row("deq", cell="my_cell:Gate", solver="my_solver:Aitken"),
            "my model": _row("my_model:Decay", inputs=32),
            "GRU": _row("gru", inputs=32),
        },
        reference="DEQ",  # the other rows get the width that matches its parameters
        learning_rates=(1e-2,),  # several are tried on the validation split, at a seed that no final run uses
        trial_steps=100,
        seeds=(0, 1),
        depths=(2, 4, 8),
    )
]
