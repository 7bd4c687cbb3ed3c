"""Time of a DEQ against weight-tied networks of several depths and lengths, to equal loss, on copying and two languages.

All rows are tuned alike: a sweep of learning rates, each at two seeds and at full length; the tied network at several depths. Rows
with more steps test whether cheaper steps buy quality. Run it with `--jobs 1`: it compares the clock of the training itself.

Targets, set before the runs: at most 0.7 of the tied network's time on copying and 1.0 on each language, with the test solved to a
residual of 1e-2 for 99 % of the sequences. The rows of SHINE were added after the others had been seen. The agreement language was
planned with 300 steps; 22 final runs of that length were made, seen and discarded, as most ended before the dependence is learned.
"""

from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Recipe, Settings, TrainConfig
from bench.suites.recipes import CAPPED_4_3, CAPPED_4_SHINE, CAPPED_6_4, row

_TRAIN = TrainConfig(steps=300, batch=16, learning_rate=1.6e-2, warmup=50, clip=0.25, evaluate_every=20, evaluation_batch=64)


def _cell(memory: int) -> Settings:
    return {"cell": "transformer-xl", "cell.heads": 4, "cell.memory_length": memory, "width": 32}


def _tied(memory: int, depth: int) -> ModelEntry:
    return row("tied", {**_cell(memory), "depth": depth}, match="cell.feedforward")


def _deq(memory: int, recipe: Recipe | None = None, **more: int | str) -> ModelEntry:
    own: Settings = {**_cell(memory), "solver": "anderson", "steps": 12, "evaluation_steps": 60}
    own |= {name.replace("__", "."): value for name, value in more.items()} or {"backward_steps": 8}
    return row("deq", own, recipe=recipe, match="cell.feedforward")


def _comparisons(group: str, task: ComponentConfig, memory: int = 0, steps: int = 300) -> list[Comparison]:
    def comparison(steps: int, reference: str, rows: dict[str, ModelEntry]) -> Comparison:
        return Comparison(
            group=group,
            task=task,
            train=_TRAIN.model_copy(update={"steps": steps, "carry": memory > 0}),
            rows=rows,
            reference=reference,
            learning_rates=(8e-3, 1.6e-2, 3.2e-2),
            trial_steps=steps,
            trial_seeds=2,
            seeds=(0, 1, 2, 3, 4),
        )

    nominal = {f"tied {depth}": _tied(memory, depth) for depth in (2, 4, 8, 12)} | {
        "DEQ, lean": _deq(memory, CAPPED_4_3),
        "DEQ, fast": _deq(memory, CAPPED_6_4),
        "DEQ": _deq(memory),
        "DEQ, unrolled first": _deq(memory, Recipe(pretrain_steps=3 * steps // 5, pretrain_depth=4)),
        "DEQ, phantom": _deq(memory, steps=6, adjoint="phantom", adjoint__steps=2),
        "DEQ, SHINE": _deq(memory, CAPPED_4_SHINE, solver="broyden", adjoint="shine"),
    }
    longer = {"tied 4, longer": _tied(memory, 4), "DEQ, lean, longer": _deq(memory, CAPPED_4_3)}
    longer["DEQ, SHINE, longer"] = _deq(memory, CAPPED_4_SHINE, solver="broyden", adjoint="shine")
    return [comparison(steps, "DEQ, lean", nominal), comparison(5 * steps // 4, "DEQ, lean, longer", longer)]


SPECS = [
    *_comparisons("copy memory T=30", ComponentConfig(name="copy", settings={"T": 30, "test_samples": 300})),
    # After 300 steps many seeds of every model have not learned the dependence.
    *_comparisons("agreement language", ComponentConfig(name="agreement", settings={"test_samples": 256}), steps=600),
    *_comparisons(
        "tinyshakespeare by character",
        ComponentConfig(name="text", settings={"data": "tinyshakespeare", "unit": "char", "length": 32, "windows": 384}),
        memory=32,
    ),
]
