"""The Record of a run and its JSON file. A run exists if and only if its record exists.

A Record holds the RunSpec, the Identity, the status with its reason, the Measures (each with unit, method and scope, or null with
a reason) and the environment. It is written atomically; only a retry of the same run replaces it, or a newer place in the order.

The first lines of a file hold its Head, so that a listing reads no further. Two digests, of the Head and of all content, reveal a
changed digit; line ends and layout do not count. Files of older versions have no digests.
"""

import datetime
import hashlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.records.errors import UserError, shortened
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.spec import RunSpec, RunStatus

SCHEMA = 3
Reason = Annotated[str | None, BeforeValidator(lambda text: shortened(text) if isinstance(text, str) else text)]
DIGESTS = ("head_digest", "digest")


class Measure(BaseModel):
    """A measured quantity: its value, or null and a reason; unit, method, and scope (what it is measured over)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | int | None
    unit: str
    method: str
    scope: str
    reason: Reason = None

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> "Measure":
        if self.value is None and not self.reason:
            raise ValueError("a measure without a value needs a reason")
        return self


def measured(value: float | int | None, unit: str, method: str, scope: str, reason: str | None = None) -> Measure:
    """Build a Measure; a value that is not finite, which JSON cannot hold, becomes null with that as its reason."""
    if value is not None and not math.isfinite(value):
        return Measure(value=None, unit=unit, method=method, scope=scope, reason=reason or f"not finite ({value})")
    return Measure(value=value, unit=unit, method=method, scope=scope, reason=reason)


class CurvePoint(BaseModel):
    """A point of a learning curve. Losses are in nats; `seconds` is the time of the training steps, without evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int
    seconds: float
    train_loss: float | None = None
    valid: dict[str, float] = Field(default_factory=dict)
    forward_nfe: float | None = None
    backward_nfe: float | None = None
    residual: float | None = None


class Record(BaseModel):
    """The settings, outcome and measures of a run; `elapsed_s` is its wall time, restarts included.

    `metrics` describes the task's scores (measures `test_<name>`, `valid_<name>`, and the names in the curve's `valid`); models are
    ranked by the `headline`. `probes` holds curves over something else than training (memory by depth, residual by NFE).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = SCHEMA
    run_id: str
    suite: str
    status: RunStatus
    reason: Reason = None
    elapsed_s: float = 0.0
    spec: RunSpec
    identity: Identity
    headline: str = "loss"
    metrics: dict[str, Metric] = Field(default_factory=dict)
    curve: list[CurvePoint] = Field(default_factory=list)
    measures: dict[str, Measure] = Field(default_factory=dict)
    probes: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _digests_fit(cls, data: Any) -> Any:
        """Check the digests of a record's text, unless an older version wrote it without any."""
        if not isinstance(data, dict) or not data.keys() & set(DIGESTS):
            return data
        rest = {name: value for name, value in data.items() if name not in DIGESTS}
        if {name: data.get(name) for name in DIGESTS} != _digests(rest):
            raise ValueError("its digest does not fit: the file was changed after it was written")
        return rest

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> "Record":
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a run with status {self.status} needs a reason")
        return self

    @property
    def untimed(self) -> bool:
        """Whether other work on the machine spoiled the step time."""
        step = self.measures.get("step_ms_median")
        return step is not None and step.value is None and str(step.reason).startswith("contended")

    def value(self, name: str) -> float | None:
        """The value of a measure; None where the measure is absent or null."""
        measure = self.measures.get(name)
        return None if measure is None else measure.value


def order(record: Record) -> int:
    """The sort key of a record among those of one RunSpec: the number its store gave it, or else its time."""
    number = record.provenance.get("order")
    if type(number) is int:
        return number
    try:
        return int(1000 * datetime.datetime.fromisoformat(str(record.provenance.get("finished"))).timestamp())
    except (ValueError, OverflowError):
        return 0


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically (temporary file, fsync, rename), with the process's umask; UserError where the system refuses."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


class Head(BaseModel):
    """How a run ended: the first lines of its record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int
    run_id: str
    suite: str
    status: RunStatus
    reason: str | None
    elapsed_s: float


_HEAD = tuple(Head.model_fields)


def head_of(record: Record) -> Head:
    """The Head of a record."""
    return Head(**{name: getattr(record, name) for name in _HEAD})


def content_digest(content: Any) -> str:
    """The SHA-256 (hex) of JSON content, whatever its layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _digests(data: dict[str, Any]) -> dict[str, str]:
    """The digests of a record's content: of its Head, and of all."""
    return dict(zip(DIGESTS, (content_digest({name: data.get(name) for name in _HEAD}), content_digest(data)), strict=True))


def record_text(record: Record) -> str:
    """The record as indented JSON: first the fields of its Head and the digests, a line each, then the others, sorted."""
    data = record.model_dump(mode="json")
    head = {name: data[name] for name in _HEAD} | _digests(data)
    rest = {name: value for name, value in data.items() if name not in head}
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}," for name, value in head.items()]
    text = json.dumps(rest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return "\n".join(["{", *lines, text.removeprefix("{\n")]) + "\n"


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically."""
    write_text(path, record_text(record))


def read_head(path: Path) -> Head | None:
    """Read the Head of a record without the rest; None where the file does not begin as a record does."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            lines = [file.readline() for _ in range(len(_HEAD) + 2)][1:]  # of the Head and its digest
        if b'"head_digest"' in lines[-1]:
            content = _parsed(b"{" + b"".join(lines).rstrip(b", \r\n") + b"}")
            if content.pop("head_digest") != content_digest(content):
                return None
        return Head.model_validate_json(b"{" + b"".join(lines[:-1]).rstrip(b", \r\n") + b"}")
    except (OSError, ValueError):
        return None


def _parsed(text: str | bytes) -> Any:
    """Parse JSON; ValueError for NaN and infinity too."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def read_record(path: Path) -> Record:
    """Read a record; UserError with the file and the first fault where it is damaged or of another schema."""
    try:
        if path.is_symlink():
            raise ValueError("a link, not a file")
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        data = _parsed(path.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA:
            raise UserError(f"{path}: record schema {version!r}, this version reads {SCHEMA}; move it away to run it again")
        record = Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: damaged record ({message}); move it away or delete it to run it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged record ({error}); move it away or delete it to run it again") from error
    if record.run_id != path.stem:
        raise UserError(f"{path}: holds run {record.run_id}, not the run of its name; move it away")
    computed = record.identity.run_id(record.spec.key)
    if computed != record.run_id:
        raise UserError(f"{path}: its content is that of run {computed}; move it away or delete it to run it again")
    return record
