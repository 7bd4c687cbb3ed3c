"""What the gate found: for a terminal, as Markdown, as JSON, and in Bencher's format."""

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from bench.escape import markdown_escape, visible
from bench.gate.expected import Difference
from bench.gate.timing import Comparison

_WORDS = {"pass": "pass", "regression": "REGRESSION", "faster": "faster", "inconclusive": "inconclusive"}


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):+.1f}" if math.isfinite(log_ratio) else "n/a"


def _value(value: int | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:,}"


def counted_rows(apart: Sequence[Difference]) -> list[list[str]]:
    """A line for each count that differs."""
    return [[one.name, _value(one.expected), _value(one.found), one.unit, one.change] for one in apart]


def timed_rows(found: Comparison) -> list[list[str]]:
    """A line for each benchmark, the slowest change first."""
    effects = sorted(found.effects().items(), key=lambda item: -item[1].mean)
    return [
        [
            name,
            f"{1e3 * found.median_s(0, name):.3g}",
            f"{1e3 * found.median_s(1, name):.3g}",
            _percent(effect.mean),
            f"[{_percent(effect.low)}, {_percent(effect.high)}]",
            _percent(effect.floor).removeprefix("+"),
            _percent(effect.threshold).removeprefix("+"),
            _WORDS[effect.verdict],
        ]
        for name, effect in effects
    ]


COUNTED = ("count", "accepted", "found", "unit", "change")
TIMED = ("benchmark", "base (ms)", "head (ms)", "change (%)", "95 %", "floor (%)", "threshold (%)", "verdict")


def summary(apart: Sequence[Difference] | None, counts: int, found: Comparison | None) -> list[str]:
    """The verdicts in a line each."""
    lines = []
    if apart is not None:
        lines.append(
            f"exact tier: {len(apart)} of {counts} counts differ from what was accepted"
            if apart
            else f"exact tier: all {counts} counts as accepted"
        )
    if found is not None:
        verdicts = [effect.verdict for effect in found.effects().values()]
        listed = ", ".join(f"{verdicts.count(one)} {_WORDS[one]}" for one in _WORDS if one in verdicts)
        lines.append(
            f"timing tier, {found.head} against {found.base}: {listed} ({len(found.rounds)} rounds, {found.seconds:.0f} s)"
        )
        if found.lost:
            lines.append(f"ran in the base alone: {', '.join(found.lost)}")
        if found.missing:
            lines.append(f"not in the base: {', '.join(found.missing)}")
    return lines


def text(apart: Sequence[Difference] | None, counts: int, found: Comparison | None) -> str:
    """For a terminal."""
    parts = []
    if apart:
        parts.append(tabulate(counted_rows(apart), headers=COUNTED, tablefmt="simple", disable_numparse=True))
    if found is not None:
        align = ("left", *["right"] * 6, "left")
        parts.append(tabulate(timed_rows(found), headers=TIMED, tablefmt="simple", disable_numparse=True, colalign=align))
    return visible("\n\n".join([*parts, "\n".join(summary(apart, counts, found))]))


def markdown(apart: Sequence[Difference] | None, counts: int, found: Comparison | None) -> str:
    """For a job's summary on a forge."""
    lines = ["### Performance gate", "", *(f"- {markdown_escape(line)}" for line in summary(apart, counts, found)), ""]
    if apart:
        lines += _table(COUNTED, counted_rows(apart), (1, 2, 4))
    if found is not None and found.names:
        lines += _table(TIMED, timed_rows(found), range(1, 7))
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_escape(cell) for cell in cells) + " |"

    return [line(heads), "|" + "|".join("--:" if i in right else ":--" for i in range(len(heads))) + "|", *map(line, rows), ""]


def as_data(apart: Sequence[Difference] | None, counts: int, found: Comparison | None, failed: bool) -> dict[str, Any]:
    """For a script; log-ratios as they are, times in seconds."""
    data: dict[str, Any] = {"failed": failed}
    if apart is not None:
        rows = [{"name": a.name, "unit": a.unit, "accepted": a.expected, "found": a.found, "change": a.change} for a in apart]
        data["exact"] = {"counts": counts, "differences": rows}
    if found is not None:
        data["timing"] = {
            "base": found.base,
            "head": found.head,
            "rounds": len(found.rounds),
            "seconds": found.seconds,
            "not_in_base": found.missing,
            "benchmarks": {
                name: {
                    "base_s": found.median_s(0, name),
                    "head_s": found.median_s(1, name),
                    "log_ratio": effect.mean,
                    "low": effect.low if math.isfinite(effect.low) else None,
                    "high": effect.high if math.isfinite(effect.high) else None,
                    "floor": effect.floor if math.isfinite(effect.floor) else None,
                    "threshold": effect.threshold if math.isfinite(effect.threshold) else None,
                    "verdict": effect.verdict,
                }
                for name, effect in found.effects().items()
            },
        }
    return data


def bencher(found: Comparison) -> dict[str, Any]:
    """Head's times in Bencher's metric format (nanoseconds), its interval that of the change applied to base's median."""
    metrics = {}
    for name, effect in found.effects().items():
        base = 1e9 * found.median_s(0, name)
        bounds = {"lower_value": base * math.exp(effect.low), "upper_value": base * math.exp(effect.high)}
        finite = bounds if math.isfinite(effect.low) else {}
        metrics[name] = {"latency": {"value": 1e9 * found.median_s(1, name), **finite}}
    return metrics
