"""How many parameters the models of a suite have, built without a byte of them (meta device), beside what a paper prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.records.spec import ComponentConfig
from bench.suites.paper import PRINTED
from bench.training.language_model import build_model

WITHIN = 0.03  # a built count nearer than this to the printed one needs no remark


@dataclass(frozen=True, kw_only=True)
class Count:
    """One model: what it was built with and, where a paper names them, the printed numbers and a remark on what differs.

    `total` counts every trainable number once, `nonembedding` leaves out embedding and output layer; both null where no model of
    this package stands for the row. `printed_score` is the paper's result (loss or perplexity), lower being better.
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
        """Built over printed less one, in total and without embedding; None where one of the two is missing."""
        pairs = ((self.total, self.printed_total), (self.nonembedding, self.printed_nonembedding))
        total, nonembedding = (None if built is None or printed is None else built / printed - 1 for built, printed in pairs)
        return total, nonembedding

    @property
    def agrees(self) -> bool:
        """Whether a model was built and every printed number is met within 3 %."""
        return self.total is not None and all(off is None or abs(off) <= WITHIN for off in self.off)


def count(model: ComponentConfig, vocabulary: int) -> tuple[int, int]:
    """Trainable numbers of a model, in all and without the tables that grow with the vocabulary (embedding and output layer)."""
    with torch.device("meta"):
        built = build_model(model, vocabulary)
    total = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    tables = {id(parameter): parameter.numel() for part in (built.embedding, built.head) for parameter in part.parameters()}
    return total, total - sum(tables.values())


def counts(suite: str, data: Mapping[str, Path]) -> list[Count]:
    """Every row of a suite; of suite paper every row of the paper's tables 1 to 3, without any data."""
    if suite == "paper":
        return [
            Count(
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
            for built in [(None, None) if row.model is None else count(row.model, row.vocabulary)]
        ]
    plan = Plan(load_suite(suite, data)[1], data=data)
    return [
        Count(group=group, label=label, total=built[0], nonembedding=built[1])
        for group, label, model, vocabulary in plan.models()
        for built in [count(model, vocabulary)]
    ]
