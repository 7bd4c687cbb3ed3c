"""A toy configuration of the studies."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.records.spec import ComponentConfig, TrainConfig
from bench.studies.config import Case, Config, GradientConfig
from bench.suites import track
from bench.tasks.text import Text

Made = tuple[dict[str, Any], Path]


def copying(T: int) -> ComponentConfig:
    return ComponentConfig(name="copy", settings={"T": T, "samples": 64, "test_samples": 16})


class Stream(Text):
    """The licence, by character."""

    def __init__(self, *, length: int = 8) -> None:
        super().__init__(data="licence", paths={"licence": Path(__file__).parents[2] / "LICENSE"}, length=length)


CASE = Case("copy", copying(2), 1e-2, tuple((f"T={T}", copying(T)) for T in (2, 3, 4)))
GRADIENT = GradientConfig(batch=2, candidates=3, tolerances=(1e-1, 1e-4), phantom_steps=(1, 2), unroll_steps=(3,))
TRACKED = ComponentConfig(name="state", settings={"group": "parity", "length": 4, "test_lengths": "4,8"})
SIZES: dict[str, Any] = {
    **{"heads": 2, "width": 16, "depth": 3, "steps": 6, "batch": 4, "warmup": 2, "points": 3, "cap": 12, "most": 20, "samples": 4},
    **{"tolerances": (1e-6, 1e-2, 4.0), "caps": (1, 4, 12), "alone": 3, "batches": (2, 4), "recompute_depths": (3,)},
    **{"pathological_steps": 2},
    "energy": Case("markov", ComponentConfig(name="markov", settings={"length": 4, "test_samples": 8}), 1e-2),
    "tracking": track.PARITY.model_copy(update={"task": TRACKED, "train": TrainConfig(steps=3, batch=4, learning_rate=1e-2)}),
    "tracking_rates": (("DEQ-TrellisNet, Broyden", 1e-2), ("looped trellis, 128 tested", 1e-2)),
    "tracking_caps": (1, 2, 9),
    **dict.fromkeys(("seeds", "pathological_seeds"), (0,)),
}
STREAM = Case("stream", ComponentConfig(name="toy:Stream", settings={"length": 8}), 1e-2)
TOY = Config(cases=(CASE,), streams=(STREAM,), gradient=GRADIENT, **SIZES)
DEQ_SPEC, TIED_SPEC = (TOY.spec(CASE, label, 0) for label in ("DEQ", TOY.tied_label))


def contention(reason: str | None) -> Any:
    return lambda threads: SimpleNamespace(read=lambda: reason)


def rows_of(made: Made, study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made[0]["experiments"][study]["rows"]
    return found
