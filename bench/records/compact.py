"""Many records in little memory: equal parts are one object, and curves, measures and probes are packed until they are looked at.

A record as pydantic builds it takes 0.2 MB, most of it a curve's points and a measure's words, which all runs of a row share.
"""

import json
import math
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from bench.records.record import CurvePoint, Measure, Record
from bench.records.spec import RunSpec

Model = TypeVar("Model", Record, RunSpec)
_NUMBERS = ("step", "seconds", "train_loss", "forward_nfe", "backward_nfe", "residual")


class Curve(Sequence[CurvePoint]):
    """The points of a curve, a row of numbers each; NaN, which no point holds, where a point has none."""

    __slots__ = ("_names", "_rows")

    def __init__(self, points: Sequence[CurvePoint], names: tuple[str, ...]) -> None:
        self._names = names  # of the scores in `valid`
        self._rows = array("d")
        for point in points:
            fields = point.__dict__
            values = [*(fields[name] for name in _NUMBERS), *(point.valid.get(name) for name in names)]
            self._rows.extend(math.nan if value is None else value for value in values)

    def __len__(self) -> int:
        return len(self._rows) // (len(_NUMBERS) + len(self._names))

    @overload
    def __getitem__(self, index: int) -> CurvePoint: ...
    @overload
    def __getitem__(self, index: slice) -> list[CurvePoint]: ...
    def __getitem__(self, index: int | slice) -> CurvePoint | list[CurvePoint]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        width = len(_NUMBERS) + len(self._names)
        row = [None if math.isnan(value) else value for value in self._rows[place * width : (place + 1) * width]]
        valid = {name: value for name, value in zip(self._names, row[len(_NUMBERS) :], strict=True) if value is not None}
        fields = dict(zip(_NUMBERS, row, strict=False))
        return CurvePoint.model_construct(**fields | {"step": int(row[0] or 0), "valid": valid})  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Measures(Mapping[str, Measure]):
    """Measures by name: their values, and what is said of each, which many runs share."""

    __slots__ = ("_places", "_said", "_values")

    def __init__(self, places: Mapping[str, int], values: tuple[float | int | None, ...], said: tuple[Measure, ...]) -> None:
        self._places, self._values, self._said = places, values, said

    def __getitem__(self, name: str) -> Measure:
        place = self._places[name]
        said = self._said[place]
        value = self._values[place]
        return Measure.model_construct(value=value, unit=said.unit, method=said.method, scope=said.scope, reason=said.reason)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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
    """Makes records small, one after another; what it has seen before is shared."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def __call__(self, record: Record) -> Record:
        """The same record, smaller; its curve, measures and probes read as before."""
        spec = record.spec
        parts = {
            name: self._shared(getattr(spec, name)) for name in ("group", "label", "model", "task", "train", "recipe", "trials")
        }
        valid = tuple(sorted({name for point in record.curve for name in point.valid}))
        exact = all(-(2**53) < point.step < 2**53 for point in record.curve)
        fields: dict[str, Any] = {
            **{name: getattr(record, name) for name in Record.model_fields},
            "suite": self._shared(record.suite),
            "reason": self._shared(record.reason),
            "headline": self._shared(record.headline),
            "spec": _small(spec, dict(spec) | parts),
            "identity": self._shared(record.identity),
            "metrics": self._shared(record.metrics),
            "curve": Curve(record.curve, self._shared(valid)) if exact else record.curve,
            "measures": self._measures(record.measures),
            "probes": Probes(record.probes),
            "provenance": {self._shared(name): value for name, value in record.provenance.items()},
            "environment": self._shared(record.environment),
        }
        return _small(record, fields)

    def _shared(self, part: Any) -> Any:
        """The first part that was equal to this one."""
        return self._seen.setdefault(repr(part), part)

    def _measures(self, measures: Mapping[str, Measure]) -> Measures:
        said = tuple(self._shared(measure.model_copy(update={"value": None})) for measure in measures.values())
        places = self._shared({name: place for place, name in enumerate(measures)})
        return Measures(places, tuple(measure.value for measure in measures.values()), said)


_RECORD, _SPEC = set(Record.model_fields), set(RunSpec.model_fields)  # one set for all


def _small(model: Model, fields: dict[str, Any]) -> Model:
    """The model with these fields, which are not validated again."""
    return type(model).model_construct(_RECORD if isinstance(model, Record) else _SPEC, **fields)
