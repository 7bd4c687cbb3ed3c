"""How large the experiments are: their tasks, seeds and models; tests shrink all of it."""

from dataclasses import dataclass

from bench.spec import Named, Settings, Spec, Train

DEQ_LABEL = "DEQ"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task, the learning rate it is trained at, and the same task at greater lengths by name, for models trained on it."""

    label: str
    task: Named
    rate: float
    lengths: tuple[tuple[str, Named], ...]


def _case(label: str, task: Named, rate: float, setting: str, values: tuple[int, ...]) -> Case:
    lengths = tuple((f"{setting}={value}", Named(name=task.name, settings={**task.settings, setting: value})) for value in values)
    return Case(label=label, task=task, rate=rate, lengths=lengths)


COPY = _case("copy memory T=20", Named(name="copy", settings={"T": 20, "test_samples": 256}), 8e-3, "T", (20, 40, 80))
AGREEMENT = _case("agreement language", Named(name="agreement", settings={"test_samples": 128}), 8e-3, "dependency", (10, 20, 40))
TEXT = _case(
    "tinyshakespeare by character",
    Named(name="text", settings={"data": "tinyshakespeare", "unit": "char", "length": 32, "windows": 256}),
    8e-3,
    "length",
    (32, 64, 128),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of all experiments; the defaults are those of the published record.

    `cap`: evaluations that a solve may take in training, far more than it needs, so that its growth is seen. `most`: how far a
    solve or an iteration is followed afterwards. `few`: sequences where a dense Jacobian is taken. `alone`: sequences that are
    taken by themselves, and in `batches`. `rounds`: how often inference is timed.
    """

    cases: tuple[Case, ...] = (COPY, AGREEMENT, TEXT)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    cell: str = "transformer-xl"
    heads: int = 4
    width: int = 32
    depth: int = 12
    steps: int = 300
    batch: int = 16
    warmup: int = 50
    points: int = 10
    cap: int = 60
    rtol: float = 1e-3
    most: int = 200
    samples: int = 32
    tolerances: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 2e-1, 4e-1, 8e-1, 4.0)
    caps: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 60, 120)
    few: int = 4
    candidates: int = 16
    gradient_tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    phantom_steps: tuple[int, ...] = (1, 2, 5)
    unroll_steps: tuple[int, ...] = (5, 12, 30, 100)
    alone: int = 16
    batches: tuple[int, ...] = (2, 8, 32, 64)
    rounds: int = 21
    hostile_steps: int = 60
    hostile_seeds: tuple[int, ...] = (0, 1, 2)
    recompute_depths: tuple[int, ...] = (4, 12, 48)
    dependencies: tuple[int, ...] = (5, 10, 20, 40)
    dependency_seeds: tuple[int, ...] = (0, 1, 2)
    dependency_samples: int = 128

    @property
    def tied_label(self) -> str:
        """What the weight-tied network is called."""
        return f"tied {self.depth}"

    def model(self, label: str) -> Named:
        """The DEQ, or its cell applied `depth` times; both by relative positions, so that length is free."""
        cell: Settings = {"cell": self.cell, "width": self.width}
        if self.cell == "transformer-xl":
            cell["cell.heads"] = self.heads
        if label == self.tied_label:
            return Named(name="tied", settings={**cell, "depth": self.depth})
        solves: Settings = {"solver": "anderson", "rtol": self.rtol, "steps": self.cap, "backward_steps": self.cap}
        return Named(name="deq", settings={**cell, **solves})

    def spec(self, case: Case, label: str, seed: int, model: Named | None = None) -> Spec:
        """One training; a trial, since the harness's probes of final runs are not for here."""
        train = Train(
            steps=self.steps,
            batch=self.batch,
            learning_rate=case.rate,
            warmup=min(self.warmup, self.steps),
            evaluate_every=max(1, self.steps // self.points),
            evaluation_batch=2 * self.samples,
        )
        return Spec(
            group=case.label,
            label=label,
            role="trial",
            model=self.model(label) if model is None else model,
            task=case.task,
            train=train,
            seed=seed,
        )

    def labels(self) -> tuple[str, str]:
        """Both models that are trained for each task and seed."""
        return DEQ_LABEL, self.tied_label


FULL = Scale()
