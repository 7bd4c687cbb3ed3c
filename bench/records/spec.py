"""The specification of runs: RunSpec for one run, Comparison for models on equal terms."""

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Value = bool | int | float | str | None
Settings = dict[str, Value]


def _plain(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ().,=_+-]*", text):
        raise ValueError(f"{text!r}: letters, digits, spaces and ().,=_+- only")
    return text


def _distinct(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value is named twice")
    return values


Name = Annotated[str, Field(max_length=80), AfterValidator(_plain)]  # two of them and the rest fit in a file name
Seed = Annotated[int, Field(ge=0)]
Depth = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComponentConfig(_Frozen):
    """A registered name (or a dotted path `package.module:attribute`) with its settings."""

    name: str
    settings: Settings = Field(default_factory=dict)


class TrainConfig(_Frozen):
    """The training: AdamW, linear warm-up then cosine decay to zero, clipped gradient norm. Token budget: steps * batch * T.

    For recipes of older papers: plain SGD, and a rate that is halved at step `halve_from` and every `halve_every` steps after it.
    """

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=0.25, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    halve_from: int = Field(default=0, ge=0, description="step of the first halving of the rate")
    halve_every: int = Field(default=0, ge=0, description="steps between halvings of the rate; 0: cosine decay")
    evaluate_every: int = Field(default=0, ge=0, description="steps between validations; 0: only at the end")
    evaluation_batch: int = Field(
        default=128, gt=0, description="sequences at a time in validation and test; no score depends on it"
    )
    carry: bool = Field(default=False, description="pass each batch's memory to the next; for tasks whose batches continue")


class Recipe(_Frozen):
    """What one model's training adds to the common schedule, as in its paper. A part that the model cannot use is an error.

    The first `pretrain_steps` train the cell of each DEQ, or of a tied network, unrolled `pretrain_depth` times by backpropagation.
    `rtol` and `steps` are the initial tolerance and cap of the forward solve, `backward_steps` the initial cap of the backward
    solve; over the training they change to the model's own values, the tolerance geometrically, the caps linearly, or, with `hold`,
    at once after that share of the steps. `jacobian` is the weight of Hutchinson's estimate of the Jacobian's norm, added with
    `jacobian_probability` a step; it changes linearly to `jacobian_final`. `auxiliary` is the weight of deep supervision, for a
    TrellisNet, a DEQ (fixed-point correction) or a user's Core with auxiliary features.
    """

    pretrain_steps: int = Field(default=0, ge=0)
    pretrain_depth: int = Field(default=2, gt=0)
    rtol: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    backward_steps: int | None = Field(default=None, gt=0)
    hold: float | None = Field(default=None, gt=0, le=1)
    jacobian: float = Field(default=0.0, ge=0)
    jacobian_final: float | None = Field(default=None, ge=0)
    jacobian_probability: float = Field(default=1.0, gt=0, le=1)
    auxiliary: float = Field(default=0.0, ge=0)

    def shortened(self, share: float) -> "Recipe":
        """The recipe for a training of this share of the steps: pre-training shrinks; the schedules are relative already."""
        return self.model_copy(update={"pretrain_steps": int(share * self.pretrain_steps)})


RunStatus = Literal["ok", "diverged", "oom", "timeout", "crashed", "interrupted"]


class Limits(_Frozen):
    """Limits of a run: wall-clock `seconds` of each attempt, and `memory_bytes` of the host."""

    seconds: float | None = Field(default=None, gt=0)
    memory_bytes: int | None = Field(default=None, gt=0)


class RunSpec(_Frozen):
    """What determines a run's numbers, and what its suite expects: a model on a task with a seed.

    `group` is its comparison, `label` its table row.
    """

    group: Name
    label: Name
    role: Literal["final", "trial"] = "final"
    model: ComponentConfig
    task: ComponentConfig
    train: TrainConfig
    recipe: Recipe | None = Field(default=None, description="additions to the common training schedule")
    seed: Seed
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, gt=0)
    parameters: int | None = Field(default=None, gt=0, description="parameter budget that the model's size was matched to")
    depths: tuple[Depth, ...] = Field(default=(), description="depths or solver steps at which memory is probed after training")
    trials: tuple[str, ...] = Field(default=(), description="keys of the trials that the learning rate was chosen from")
    processes: int = Field(default=1, gt=0, description="processes that share each batch (DistributedDataParallel)")
    limits: Limits | None = None
    expected: RunStatus = Field(default="ok", description="a status, next to ok, that is no failure of the suite")

    @model_validator(mode="after")
    def _divisible(self) -> "RunSpec":
        if self.train.batch % self.processes:
            raise ValueError(f"a batch of {self.train.batch} cannot be shared equally by {self.processes} processes")
        return self

    @property
    def key(self) -> str:
        """`group-label-s<seed>-<12 hex digits of the content's SHA-256>`, safe as a file name; a run's id begins with it."""
        # Without defaults, so that a new field with a default changes no key.
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude={"expected"})
        content = json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.group} {self.label}".lower()).strip("-")
        kind = "t" if self.role == "trial" else "s"
        return f"{slug}-{kind}{self.seed}-{digest}"


class ModelEntry(_Frozen):
    """One model of a comparison.

    `match` names the setting that is chosen so that parameters are as many as the reference's, unless `model` has a value for it.
    """

    model: ComponentConfig
    match: str = "width"
    recipe: Recipe | None = None
    like: str | None = Field(default=None, description="label of the row whose learning rate this one shares (same function)")
    expected: RunStatus = Field(default="ok", description="a status, next to ok, with which its runs are no failure of the suite")


class Comparison(_Frozen):
    """Models on equal terms: same task, data order, token budget, optimiser and schedule; parameters within 2 % of the reference.

    Parameters of rows whose settings give their own size are not checked. Each row without `like` tunes its learning rate: a trial
    of `trial_steps` steps for each rate and each of `trial_seeds` seeds from `trial_seed` on (which no final run uses); the rate
    with the best mean validation score is chosen. A single rate needs no trials. Where the best rate is an end of a row's sweep,
    the next one beyond it (at the same ratio) is tried too, up to `widen` times.
    """

    group: Name
    task: ComponentConfig
    train: TrainConfig
    rows: dict[Name, ModelEntry]
    reference: str
    learning_rates: Annotated[tuple[Rate, ...], AfterValidator(_distinct)] = Field(min_length=1)
    trial_steps: int = Field(gt=0)
    trial_seed: Seed = 1000
    trial_seeds: int = Field(default=1, gt=0)
    widen: int = Field(default=0, ge=0, description="how many rates may be added to a row's sweep")
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_distinct)] = Field(min_length=1)
    depths: tuple[Depth, ...] = Field(default=(), description="memory is probed at these depths in the first seed's runs")

    @model_validator(mode="after")
    def _consistent(self) -> "Comparison":
        if self.reference not in self.rows:
            raise ValueError(f"reference {self.reference!r} is not a row; rows: {', '.join(self.rows)}")
        if self.widen and len(self.learning_rates) == 1:
            raise ValueError("widen: a sweep of one learning rate has no ratio to its next")
        both = sorted(set(self.all_trial_seeds()) & set(self.seeds))
        if both:
            raise ValueError(f"trial seed {both[0]} is also a final seed: a rate must not be chosen on a run that it is judged by")
        for label, row in self.rows.items():
            if row.like is not None and (row.like not in self.rows or self.rows[row.like].like is not None):
                raise ValueError(f"row {label!r} is like {row.like!r}, which is not a row with trials of its own")
        return self

    def all_trial_seeds(self) -> tuple[int, ...]:
        """The seeds of each rate's trials."""
        return tuple(range(self.trial_seed, self.trial_seed + self.trial_seeds))
