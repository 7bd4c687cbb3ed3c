"""The gate's result for a terminal, as Markdown and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from bench.perf_gate.accepted import Difference
from bench.perf_gate.timing import TimingComparison
from bench.records.escape import markdown_escape, visible

_WORDS = {"pass": "pass", "regression": "REGRESSION", "faster": "faster", "inconclusive": "inconclusive"}
_COUNTED = ("count", "accepted", "found", "unit", "change")
_TIMED = ("benchmark", "base (ms)", "head (ms)", "change (%)", "95 %", "floor (%)", "threshold (%)", "clock", "verdict")


def _percent(log_ratio: float, sign: str = "+") -> str:
    return f"{100 * math.expm1(log_ratio):{sign}.1f}" if math.isfinite(log_ratio) else "n/a"


def _value(value: int | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:,}"


def _tables(different: Sequence[Difference] | None, found: TimingComparison | None, style: str) -> list[str]:
    """The tables that are not empty, in a style of tabulate ("pipe": Markdown, escaped); the slowest change first."""
    counted = [(d.name, _value(d.accepted), _value(d.found), d.unit, d.change) for d in different or ()]
    timed = [
        (
            *(name, *(f"{1e3 * found.median_s(side, name):.3g}" for side in (0, 1)), _percent(effect.mean)),
            *(f"[{_percent(effect.low)}, {_percent(effect.high)}]", _percent(effect.floor, ""), _percent(effect.threshold, "")),
            *(effect.clock, _WORDS[effect.verdict] + (f" ({effect.reason})" if effect.reason else "")),
        )
        for name, effect in sorted(found.effects().items() if found else (), key=lambda item: -item[1].mean)
        if found
    ]
    escape = markdown_escape if style == "pipe" else str
    sides = {"l": "left", "r": "right"}
    return [
        tabulate(
            [[escape(cell) for cell in row] for row in rows],
            headers=[escape(head) for head in heads],
            tablefmt=style,
            disable_numparse=True,
            colalign=[sides[side] for side in align],
        )
        for heads, rows, align in ((_COUNTED, counted, "lrrlr"), (_TIMED, timed, "lrrrrrrll"))
        if rows
    ]


def summary(different: Sequence[Difference] | None, counts: int, found: TimingComparison | None) -> list[str]:
    """One line per tier."""
    lines = []
    if different is not None:
        known = [(one.accepted, one.found) for one in different if isinstance(one.accepted, int) and isinstance(one.found, int)]
        more = sum(found > accepted for accepted, found in known)
        less = len(known) - more
        differ = f"{len(different)} of {counts} counts differ from the accepted ones ({more} more, {less} less); if that is meant: "
        differ += "`python -m bench gate accept --why '…'`"
        lines.append(f"exact tier: {differ if different else f'all {counts} counts as accepted'}")
    if found is not None:
        verdicts = [effect.verdict for effect in found.effects().values()]
        listed = ", ".join(f"{verdicts.count(one)} {_WORDS[one]}" for one in _WORDS if one in verdicts)
        rounds = f"{len(found.rounds)} rounds, {found.seconds:.0f} s"
        lines.append(f"timing tier, {found.head} against {found.base}: {listed} ({rounds})")
        lines += [f"ran in the base alone: {', '.join(found.lost)}"] if found.lost else []
        lines += [f"not in the base: {', '.join(found.missing)}"] if found.missing else []
    return lines


def text(different: Sequence[Difference] | None, counts: int, found: TimingComparison | None) -> str:
    """The tables and the summary for a terminal."""
    return visible("\n\n".join([*_tables(different, found, "simple"), "\n".join(summary(different, counts, found))]))


def markdown(different: Sequence[Difference] | None, counts: int, found: TimingComparison | None) -> str:
    """The summary and the tables for a job's page on a forge."""
    lines = "\n".join(f"- {markdown_escape(line)}" for line in summary(different, counts, found))
    return "\n\n".join(["### Performance gate", lines, *_tables(different, found, "pipe")]) + "\n"


def as_data(different: Sequence[Difference] | None, counts: int, found: TimingComparison | None, failed: bool) -> dict[str, Any]:
    """Plain data for a script: log-ratios, times in seconds, null where a number is not known yet."""
    data: dict[str, Any] = {"failed": failed}
    if different is not None:
        data["exact"] = {"counts": counts, "differences": [asdict(one) | {"change": one.change} for one in different]}
    if found is not None:
        benchmarks = {}
        for name, effect in found.effects().items():
            numbers = {"base_s": found.median_s(0, name), "head_s": found.median_s(1, name), "log_ratio": effect.mean}
            numbers |= {key: getattr(effect, key) for key in ("low", "high", "floor", "threshold")}
            finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
            benchmarks[name] = {**finite, "verdict": effect.verdict, "clock": effect.clock, "reason": effect.reason}
        data["timing"] = {
            **{"base": found.base, "head": found.head, "rounds": len(found.rounds), "seconds": found.seconds},
            **{"not_in_base": found.missing, "benchmarks": benchmarks},
        }
    return data
