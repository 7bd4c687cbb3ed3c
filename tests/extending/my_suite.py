"""All four of your own beside a DEQ, its unrolling and a GRU of the package, in the same tables and figures."""

from bench import Comparison, ComponentConfig, ModelEntry, TrainConfig

SPECS = [
    Comparison(
        group="my own",
        task=ComponentConfig(name="my_task:Lookback", settings={"lag": 2}),
        train=TrainConfig(steps=200, batch=16, learning_rate=1e-2, evaluate_every=50),
        rows={
            "DEQ": ModelEntry(model=ComponentConfig(name="deq", settings={"cell": "transformer", "cell.heads": 2, "width": 32})),
            "tied 6": ModelEntry(model=ComponentConfig(name="tied", settings={"cell": "transformer", "cell.heads": 2, "depth": 6})),
            "DEQ, my cell": ModelEntry(model=ComponentConfig(name="deq", settings={"cell": "my_cell:Gate", "cell.gain": 0.3})),
            "tied 6, my cell": ModelEntry(model=ComponentConfig(name="tied", settings={"cell": "my_cell:Gate", "depth": 6})),
            "DEQ, my cell and solver": ModelEntry(
                model=ComponentConfig(name="deq", settings={"cell": "my_cell:Gate", "solver": "my_solver:Aitken"})
            ),
            "my model": ModelEntry(model=ComponentConfig(name="my_model:Decay", settings={"inputs": 32})),
            "GRU": ModelEntry(model=ComponentConfig(name="gru", settings={"inputs": 32})),
        },
        reference="DEQ",
        learning_rates=(1e-2,),
        trial_steps=100,
        seeds=(0, 1),
        depths=(2, 4, 8),
    )
]
