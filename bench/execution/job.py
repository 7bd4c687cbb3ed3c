"""A job: all that a process needs to execute one run, as JSON."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bench.records.identity import Identity
from bench.records.source_code import Source
from bench.records.spec import Limits, RunSpec


class Job(BaseModel):
    """One run to execute: its spec, identity, corpora and limits; `folder` keeps its state."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    run_id: str
    suite: str
    spec: RunSpec
    identity: Identity
    folder: Path
    project: str = Field(default="", description="digest of the project's code where the job was made")
    code: dict[str, Source] = Field(default_factory=dict, description="the user's modules, as the coordinator imported them")
    data: dict[str, Path] = Field(default_factory=dict)
    concurrent_runs: int = Field(default=1, gt=0, description="runs that share the machine")
    limits: Limits = Field(default_factory=Limits)
    checkpoint_s: float = Field(default=30.0, ge=0, description="seconds between checkpoints")

    @property
    def memory_limit(self) -> int | None:
        """Bytes of host memory that the run may take; None without a limit, or on a GPU, where the driver maps far more."""
        return self.limits.memory_bytes if self.spec.device == "cpu" else None

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished run."""
        return self.folder / "checkpoint.pt"

    @property
    def progress(self) -> Path:
        """The last step, loss and whether the run waits."""
        return self.folder / "progress.json"

    @property
    def attempts(self) -> Path:
        """The log of the run's starts and failures."""
        return self.folder / "attempts.jsonl"

    @property
    def active(self) -> Path:
        """Locked by the process that executes the run."""
        return self.folder / "active"

    @property
    def ranks(self) -> Path:
        """Locked, shared, by the processes of a run of several."""
        return self.folder / "ranks"

    @property
    def log(self) -> Path:
        """The run's output."""
        return self.folder / "log.txt"
