"""The counts as they were accepted, for each version of torch; a difference either way is one that somebody has to explain."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bench.errors import UserError, one_line
from bench.gate.counts import Count
from bench.record import write_text
from bench.side_file import COUNTS

_COUNTS = TypeAdapter(dict[str, dict[str, Count]])
_NAMED = 5  # differences in a line of the change log


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A count that is not what was accepted; None: there is none on that side."""

    name: str
    unit: str
    expected: int | str | None
    found: int | str | None

    @property
    def change(self) -> str:
        """In words: `+3 (+12.0 %)`, `new`, `gone`, `other`."""
        if self.expected is None:
            return "new"
        if self.found is None:
            return "gone"
        if isinstance(self.expected, str) or isinstance(self.found, str):
            return "other"
        share = f" ({100 * (self.found / self.expected - 1):+.1f} %)" if self.expected else ""
        return f"{self.found - self.expected:+,}{share}"


def read_expected(path: Path) -> dict[str, dict[str, Count]]:
    """The accepted counts by version of torch; empty where there is no such file, UserError where it is damaged."""
    try:
        return _COUNTS.validate_python(COUNTS.read(path) or {})
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({error.errors()[0]['msg']}); {COUNTS.again}") from error


def differences(expected: Mapping[str, Count], found: Mapping[str, Count]) -> list[Difference]:
    """What differs by more than the accepted count's tolerance, better or worse, by name."""
    apart = []
    for name in sorted({*expected, *found}):
        was, now = expected.get(name), found.get(name)
        if was is not None and now is not None and _same(was, now):
            continue
        sides = [None if one is None else one.value for one in (was, now)]
        apart.append(Difference(name=name, unit=_unit(was, now), expected=sides[0], found=sides[1]))
    return apart


def _unit(*counts: Count | None) -> str:
    return next(one.unit for one in reversed(counts) if one is not None)


def _same(was: Count, now: Count) -> bool:
    if isinstance(was.value, int) and isinstance(now.value, int):
        return abs(was.value - now.value) <= was.tolerance
    return was.value == now.value


def accept(path: Path, torch: str, found: Mapping[str, Count], why: str, changes: Path) -> list[Difference]:
    """Write the counts found as the accepted ones of this version of torch, and why into the change log; what changed."""
    why = reason(why)
    known = read_expected(path)
    apart = differences(known.get(torch, {}), found)
    if not apart:
        return []
    known[torch] = dict(found)
    plain = {version: {name: one.model_dump() for name, one in sorted(counts.items())} for version, counts in sorted(known.items())}
    _note(changes, f"- Gate, torch {torch}: {why} ({_named(apart)}).")  # first: no count is accepted without its reason
    write_text(path, json.dumps(COUNTS.sealed(plain), indent=1, ensure_ascii=False) + "\n")
    return apart


def reason(why: str) -> str:
    """The words as one line; UserError where there are none."""
    if not why.strip():
        raise UserError("--why: say what changed the counts; it goes into the change log")
    return one_line(" ".join(why.split()))


def _named(apart: list[Difference]) -> str:
    if all(one.expected is None for one in apart):
        return f"{len(apart)} counts are new"
    said = "; ".join(f"{one.name} {one.change}" for one in apart[:_NAMED])
    return said + (f"; and {len(apart) - _NAMED} more" if len(apart) > _NAMED else "")


def _note(changes: Path, line: str) -> None:
    """Add a line to the newest section of the change log; begins one where there is none."""
    try:
        text = changes.read_text(encoding="utf-8") if changes.is_file() else "# Changes\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"gate: {changes} cannot be read ({error}): the change log is UTF-8 text") from error
    lines = text.splitlines()
    heads = [number for number, one in enumerate(lines) if one.startswith("## ")]
    if not heads:
        write_text(changes, "\n".join([*lines, "", "## Unreleased", "", line]) + "\n")
        return
    end = heads[1] if len(heads) > 1 else len(lines)
    while not lines[end - 1].strip():
        end -= 1
    lines[end:end] = [line] if lines[end - 1] != lines[heads[0]] else ["", line]
    write_text(changes, "\n".join(lines) + "\n")
