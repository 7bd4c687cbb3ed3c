"""Sizes of all studies: tasks, seeds, models and sweeps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.records.spec import Comparison, ComponentConfig, RunSpec, Settings, TrainConfig
from bench.suites import track
from deq import SOLVERS

DEQ_LABEL = "DEQ"
COMPARED = {name: SOLVERS[name] for name in ("picard", "anderson", "broyden")}  # a study's solvers: a new one changes no row


@dataclass(frozen=True)
class Case:
    """A task, its learning rate, and the same task at greater lengths, by name."""

    label: str
    task: ComponentConfig
    rate: float
    lengths: tuple[tuple[str, ComponentConfig], ...] = ()


def _case(label: str, name: str, settings: Settings, setting: str, values: tuple[int, ...]) -> Case:
    lengths = tuple((f"{setting}={value}", ComponentConfig(name=name, settings={**settings, setting: value})) for value in values)
    return Case(label, ComponentConfig(name=name, settings=settings), 8e-3, lengths)


COPY = _case("copy memory T=20", "copy", {"T": 20, "test_samples": 256}, "T", (20, 40, 80))
AGREEMENT = _case("agreement language", "agreement", {"test_samples": 128}, "dependency", (10, 20, 40))
_CHARACTERS: Settings = {"data": "tinyshakespeare", "unit": "char", "length": 32, "windows": 256}
TEXT = _case("tinyshakespeare by character", "text", _CHARACTERS, "length", (32, 64, 128))
ENERGY = Case("Markov chain, energy cell", ComponentConfig(name="markov", settings={"test_samples": 128}), 8e-3)
PTB = _case("Penn Treebank by character", "text", {"data": "ptb", "unit": "char", "length": 32, "windows": 640}, "length", ())


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """Gradients are compared on the first `batch` of the `candidates` that have a root; sweeps by kind of gradient."""

    batch: int = 4
    candidates: int = 16
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    phantom_steps: tuple[int, ...] = (1, 2, 5)
    unroll_steps: tuple[int, ...] = (5, 12, 30, 100)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes; the defaults are those of the published record. `streams`: texts that carry a memory.

    `cap`: evaluations of a solve in training, far more than it needs, so that its growth shows. `loose`: a tolerance of inference,
    next to that of training, `rtol`. `most`: evaluations of a solve or
    an iteration after training. `alone`: sequences that are solved alone and in `batches`. `rounds`: timings of inference.
    `energy`: a task of single positions, for the DEQ that equilibrium propagation applies to. `tracking`: a comparison on state
    tracking, `tracking_rates` the rows that are tested at `tracking_caps` evaluations, with the rates that the suite chose.
    """

    cases: tuple[Case, ...] = (COPY, AGREEMENT, TEXT)
    streams: tuple[Case, ...] = (PTB,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    heads: int = 4
    width: int = 32
    depth: int = 12
    steps: int = 300
    batch: int = 16
    warmup: int = 50
    points: int = 10
    cap: int = 60
    rtol: float = 1e-3
    loose: float = 1e-1
    most: int = 200
    samples: int = 32
    tolerances: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 2e-1, 4e-1, 8e-1, 4.0)
    caps: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 60, 120)
    gradient: GradientConfig = field(default_factory=GradientConfig)
    alone: int = 16
    batches: tuple[int, ...] = (2, 8, 32, 64)
    rounds: int = 21
    pathological_steps: int = 60
    pathological_seeds: tuple[int, ...] = (0, 1, 2)
    recompute_depths: tuple[int, ...] = (4, 12, 48)
    energy: Case = ENERGY
    adjoint_tolerances: tuple[float, ...] = (1e-3, 1e-6)
    tracking: Comparison = track.PARITY
    tracking_rates: tuple[tuple[str, float], ...] = (
        ("DEQ-TrellisNet, Picard", 0.064),
        ("DEQ-TrellisNet, Broyden", 0.008),
        ("looped trellis, 128 tested", 0.032),
    )
    tracking_caps: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)

    @property
    def tied_label(self) -> str:
        """The name of the weight-tied network."""
        return f"tied {self.depth}"

    @property
    def solves(self) -> Settings:
        """Solver settings of a DEQ in training."""
        return {"solver": "anderson", "rtol": self.rtol, "steps": self.cap, "backward_steps": self.cap}

    def model(self, label: str) -> ComponentConfig:
        """The DEQ, or its cell applied `depth` times; relative positions allow any length."""
        cell: Settings = {"cell": "transformer-xl", "width": self.width, "cell.heads": self.heads}
        if label == self.tied_label:
            return ComponentConfig(name="tied", settings={**cell, "depth": self.depth})
        return ComponentConfig(name="deq", settings={**cell, **self.solves})

    @property
    def energy_model(self) -> ComponentConfig:
        """The DEQ of an energy."""
        return ComponentConfig(name="deq", settings={"cell": "energy", "width": self.width, **self.solves})

    def spec(self, case: Case, label: str, seed: int, model: ComponentConfig | None = None) -> RunSpec:
        """Spec of a training; the role of a trial leaves out the probes of final runs."""
        train = TrainConfig(
            steps=self.steps,
            batch=self.batch,
            learning_rate=case.rate,
            warmup=min(self.warmup, self.steps),
            evaluate_every=max(1, self.steps // self.points),
            evaluation_batch=2 * self.samples,
        )
        model = model or self.model(label)
        return RunSpec(group=case.label, label=label, role="trial", model=model, task=case.task, train=train, seed=seed)

    def deqs(self) -> Iterator[tuple[Case, dict[str, Any], RunSpec]]:
        """The DEQ of every task and seed: case, subject of its row, spec."""
        for case in self.cases:
            for seed in self.seeds:
                yield case, {"task": case.label, "seed": seed}, self.spec(case, DEQ_LABEL, seed)

    def deqs_and_tied(self) -> Iterator[tuple[Case, dict[str, Any], RunSpec]]:
        """The DEQ and the weight-tied network of every task and seed."""
        for case, _, deq in self.deqs():
            for spec in (deq, self.spec(case, self.tied_label, deq.seed)):
                yield case, {"task": case.label, "model": spec.label, "seed": spec.seed}, spec


FULL = Config()
