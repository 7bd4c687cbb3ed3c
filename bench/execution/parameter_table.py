"""Count the parameters of a suite's models, built on the meta device, and compare them with the numbers that a paper prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.records.spec import ComponentConfig
from bench.suites.paper import PRINTED
from bench.training.language_model import build_model

WITHIN = 0.03  # relative error that needs no remark


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """The parameters of one model and, for the paper's rows, the printed numbers with a remark on a difference.

    `total` counts every trainable number once, `nonembedding` leaves out embedding and output layer; both are None where this
    package has no such model. `printed_score` is the paper's loss or perplexity.
    """

    group: str
    label: str
    total: int | None
    nonembedding: int | None
    printed_total: float | None = None
    printed_nonembedding: float | None = None
    printed_score: float | None = None
    remark: str = ""

    @property
    def off(self) -> tuple[float | None, float | None]:
        """Relative error of `total` and `nonembedding` against the printed numbers; None where one of the two is missing."""
        return _relative_error(self.total, self.printed_total), _relative_error(self.nonembedding, self.printed_nonembedding)

    @property
    def agrees(self) -> bool:
        """Whether there is a model and it is within 3 % of every printed number."""
        return self.total is not None and all(off is None or abs(off) <= WITHIN for off in self.off)


def _relative_error(built: int | None, printed: float | None) -> float | None:
    return None if built is None or printed is None else built / printed - 1


def count_model(model: ComponentConfig, vocabulary: int) -> tuple[int, int]:
    """Trainable parameters of a model: all, and without embedding and output layer."""
    with torch.device("meta"):
        built = build_model(model, vocabulary)
    total = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    tables = {id(parameter): parameter.numel() for part in (built.embedding, built.head) for parameter in part.parameters()}
    return total, total - sum(tables.values())


def count_suite(suite: str, data: Mapping[str, Path]) -> list[ParameterCount]:
    """Count every row of a suite; suite paper needs no data and has every row of the paper's tables 1 to 3."""
    if suite == "paper":
        return [
            ParameterCount(
                group=row.table,
                label=row.label,
                total=built[0],
                nonembedding=built[1],
                printed_total=row.total,
                printed_nonembedding=row.nonembedding,
                printed_score=row.score,
                remark=row.remark,
            )
            for row in PRINTED
            for built in [(None, None) if row.model is None else count_model(row.model, row.vocabulary)]
        ]
    plan = Plan(load_suite(suite, data)[1], data=data)
    return [
        ParameterCount(group=group, label=label, total=built[0], nonembedding=built[1])
        for group, label, model, vocabulary in plan.models()
        for built in [count_model(model, vocabulary)]
    ]
