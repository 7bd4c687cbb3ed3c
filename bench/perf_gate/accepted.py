"""The accepted counts of each version of torch; every difference, also an improvement, needs a reason."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bench.perf_gate.counts import Quantity
from bench.records.errors import UserError, one_line
from bench.records.record import write_text
from bench.records.side_file import COUNTS

_QUANTITIES = TypeAdapter(dict[str, dict[str, Quantity]])
_LISTED = 5  # differences in an entry of the change log


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A count that differs from the accepted one; None where one of them is missing."""

    name: str
    unit: str
    accepted: int | str | None
    found: int | str | None

    @property
    def change(self) -> str:
        """`+3 (+12.0 %)`, `new`, `gone` or `other`."""
        if self.accepted is None:
            return "new"
        if self.found is None:
            return "gone"
        if isinstance(self.accepted, str) or isinstance(self.found, str):
            return "other"
        share = f" ({100 * (self.found / self.accepted - 1):+.1f} %)" if self.accepted else ""
        return f"{self.found - self.accepted:+,}{share}"


def read_accepted(path: Path) -> dict[str, dict[str, Quantity]]:
    """The accepted counts by version of torch; empty without the file, UserError where it is damaged."""
    try:
        return _QUANTITIES.validate_python(COUNTS.read(path) or {})
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({error.errors()[0]['msg']}); {COUNTS.remedy}") from error


def differences(accepted: Mapping[str, Quantity], found: Mapping[str, Quantity]) -> list[Difference]:
    """The counts, by name, that differ by more than the accepted count's tolerance."""
    different = []
    for name in sorted({*accepted, *found}):
        unit = (found.get(name) or accepted[name]).unit
        was, now = (counts[name].value if name in counts else None for counts in (accepted, found))
        if isinstance(was, int) and isinstance(now, int):
            same = abs(was - now) <= accepted[name].tolerance
        else:
            same = was == now and name in accepted and name in found
        if not same:
            different.append(Difference(name=name, unit=unit, accepted=was, found=now))
    return different


def accept(path: Path, torch: str, found: Mapping[str, Quantity], reason: str, changes: Path) -> list[Difference]:
    """Write the counts as the accepted ones of this version of torch, and the reason into the change log; return what changed."""
    reason = one_line_reason(reason)
    known = read_accepted(path)
    different = differences(known.get(torch, {}), found)
    if different:
        known[torch] = dict(found)
        data = {version: {name: one.model_dump() for name, one in sorted(known[version].items())} for version in sorted(known)}
        _log(changes, f"- Gate, torch {torch}: {reason} ({_summary(different)}).")  # first: no count is accepted without its reason
        write_text(path, json.dumps(COUNTS.sealed(data), indent=1, ensure_ascii=False) + "\n")
    return different


def one_line_reason(reason: str) -> str:
    """The reason as one line; UserError where it is empty."""
    if not reason.strip():
        raise UserError("--why: give the reason for the change of the counts; it goes into the change log")
    return one_line(" ".join(reason.split()))


def _summary(different: list[Difference]) -> str:
    if all(one.accepted is None for one in different):
        return f"{len(different)} counts are new"
    listed = "; ".join(f"{one.name} {one.change}" for one in different[:_LISTED])
    return listed + (f"; and {len(different) - _LISTED} more" if len(different) > _LISTED else "")


def _log(changes: Path, line: str) -> None:
    """Add a line to the newest section of the change log; start one where there is none."""
    try:
        text = changes.read_text(encoding="utf-8") if changes.is_file() else "# Changes\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"gate: {changes} cannot be read ({error}): the change log is UTF-8 text") from error
    before, *sections = f"\n{text.rstrip()}\n".split("\n## ")
    newest, *older = sections or ["Unreleased"]
    entries = newest.rstrip()
    gap = "\n" if "\n" in entries else "\n\n"
    write_text(changes, "\n## ".join([before.removeprefix("\n"), f"{entries}{gap}{line}\n", *older]))
