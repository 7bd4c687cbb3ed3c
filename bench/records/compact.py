"""Hold many records in little memory: share equal parts, compress curves and probes.

A record as pydantic builds it takes 0.2 MB, mostly its curve and the texts of its measures, which all runs of a row share.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from bench.records.record import CurvePoint, Measure, Record

_POINTS = TypeAdapter(list[CurvePoint])
_FIELD_SETS: dict[type, set[str]] = {}  # shared by all models of a class


class _Compressed:
    """A container that is kept as compressed JSON and parsed at each use."""

    __slots__ = ("_packed",)

    def __init__(self, text: bytes) -> None:
        self._packed = zlib.compress(text)

    def _content(self) -> Any:
        return json.loads(zlib.decompress(self._packed))

    def __getitem__(self, place: Any) -> Any:
        return self._content()[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())

    def __eq__(self, other: object) -> bool:
        return bool(self._content() == (other._content() if isinstance(other, _Compressed) else other))

    __hash__ = None  # type: ignore[assignment]


class Curve(_Compressed, Sequence[CurvePoint]):
    """The points of a curve."""

    __slots__ = ()

    def _content(self) -> list[CurvePoint]:
        return _POINTS.validate_json(zlib.decompress(self._packed))


class Probes(_Compressed, Mapping[str, Any]):
    """Probes by name."""

    __slots__ = ()


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


class Compactor:
    """Make records small; what one record has in common with earlier ones is shared."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def __call__(self, record: Record) -> Record:
        """An equal record that takes less memory."""
        shared = ("suite", "reason", "headline", "identity", "metrics", "environment")
        spec = self._small(record.spec, ("group", "label", "model", "task", "train", "recipe", "trials"))
        provenance = {self._shared(name): value for name, value in record.provenance.items()}
        curve, probes = Curve(_POINTS.dump_json(record.curve)), Probes(json.dumps(record.probes).encode())
        measures = self._measures(record.measures)
        return self._small(record, shared, spec=spec, curve=curve, measures=measures, probes=probes, provenance=provenance)

    def _small(self, model: Any, shared: Sequence[str], **changed: Any) -> Any:
        """The model with these changes and shared parts, without validation."""
        fields = dict(model) | changed | {name: self._shared(getattr(model, name)) for name in shared}
        names = _FIELD_SETS.setdefault(type(model), set(type(model).model_fields))
        return type(model).model_construct(names, **fields)

    def _shared(self, part: Any) -> Any:
        """The first part that was equal to this one."""
        return self._seen.setdefault(repr(part), part)

    def _measures(self, measures: Mapping[str, Measure]) -> Measures:
        described = {
            name: (place, self._shared(measure.model_copy(update={"value": None})))
            for place, (name, measure) in enumerate(measures.items())
        }
        return Measures(self._shared(described), tuple(measure.value for measure in measures.values()))
