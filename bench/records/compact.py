"""Hold many records in little memory: share equal parts, compress curves and probes.

A record as pydantic builds it takes 0.2 MB, mostly its curve and the texts of its measures, which all runs of a row share.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from pydantic import TypeAdapter

from bench.records.record import CurvePoint, Measure, Record
from bench.records.spec import RunSpec

Model = TypeVar("Model", Record, RunSpec)
_POINTS = TypeAdapter(list[CurvePoint])
_RECORD, _SPEC = set(Record.model_fields), set(RunSpec.model_fields)  # shared by all records


class Curve(Sequence[CurvePoint]):
    """The points of a curve, compressed."""

    __slots__ = ("_length", "_packed")

    def __init__(self, points: Sequence[CurvePoint]) -> None:
        self._length, self._packed = len(points), zlib.compress(_POINTS.dump_json(list(points)))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> CurvePoint: ...
    @overload
    def __getitem__(self, index: slice) -> list[CurvePoint]: ...
    def __getitem__(self, index: int | slice) -> CurvePoint | list[CurvePoint]:
        return _POINTS.validate_json(zlib.decompress(self._packed))[index]

    def __iter__(self) -> Iterator[CurvePoint]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Measures(Mapping[str, Measure]):
    """Measures by name: their values, and their descriptions (a place and a measure without a value), which runs share."""

    __slots__ = ("_descriptions", "_values")

    def __init__(self, descriptions: Mapping[str, tuple[int, Measure]], values: tuple[float | int | None, ...]) -> None:
        self._descriptions, self._values = descriptions, values

    def __getitem__(self, name: str) -> Measure:
        place, description = self._descriptions[name]
        return Measure.model_construct(**description.__dict__ | {"value": self._values[place]})

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptions)

    def __len__(self) -> int:
        return len(self._values)


class Probes(Mapping[str, Any]):
    """Probes by name, each as compressed JSON."""

    __slots__ = ("_packed",)

    def __init__(self, probes: Mapping[str, Any]) -> None:
        self._packed = {name: zlib.compress(json.dumps(value).encode()) for name, value in probes.items()}

    def __getitem__(self, name: str) -> Any:
        return json.loads(zlib.decompress(self._packed[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class Compactor:
    """Make records small; what one record has in common with earlier ones is shared."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def __call__(self, record: Record) -> Record:
        """An equal record that takes less memory."""
        spec = record.spec
        parts = ("group", "label", "model", "task", "train", "recipe", "trials")
        shared = ("suite", "reason", "headline", "identity", "metrics", "environment")
        fields = {
            **dict(record),
            **{name: self._shared(getattr(record, name)) for name in shared},
            "spec": _small(spec, dict(spec) | {name: self._shared(getattr(spec, name)) for name in parts}),
            "curve": Curve(record.curve),
            "measures": self._measures(record.measures),
            "probes": Probes(record.probes),
            "provenance": {self._shared(name): value for name, value in record.provenance.items()},
        }
        return _small(record, fields)

    def _shared(self, part: Any) -> Any:
        """The first part that was equal to this one."""
        return self._seen.setdefault(repr(part), part)

    def _measures(self, measures: Mapping[str, Measure]) -> Measures:
        described = {
            name: (place, self._shared(measure.model_copy(update={"value": None})))
            for place, (name, measure) in enumerate(measures.items())
        }
        return Measures(self._shared(described), tuple(measure.value for measure in measures.values()))


def _small(model: Model, fields: dict[str, Any]) -> Model:
    """The model with these fields, without validation."""
    return type(model).model_construct(_RECORD if isinstance(model, Record) else _SPEC, **fields)
