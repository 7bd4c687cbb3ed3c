"""A claim of the paper as data: what it says, how it is tested, what would make it hold; and what the evidence makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.analysis.statistics import LEVEL, significant
from bench.claims.hypothesis_tests import holm

if TYPE_CHECKING:
    from bench.claims.evidence import Evidence

Verdict = Literal["holds", "does not hold", "inconclusive", "not tested"]
VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "inconclusive", "not tested")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a number comes from: runs of a suite, or another record; and the command that makes it anew.

    `path` is relative to the results folder: of a record, or of the folder that holds the runs.
    """

    path: str
    command: str
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a claim comes down to: what it is `about`, the `value` found and what was asked of it, both in words.

    A part that rests on chance has the p-values of both one-sided tests: `p_for` is small where the data say that it does not fail,
    `p_against` where they say that it does. Its `verdict` then is None until the parts of its claim have been corrected for each
    other. A `fact` is a count of what was measured: it has its verdict at once, and no p-value. `adjusted` is the
    p-value that decided. `samples` are the numbers, one a seed, that the value is the mean of.
    """

    about: str
    value: str
    asked: str
    verdict: Verdict | None = None
    p_for: float | None = None
    p_against: float | None = None
    adjusted: float | None = None
    fact: bool = False
    note: str = ""
    samples: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def decided_by(self) -> str:
        """`fact`, or the p-value that decided, or a dash."""
        if self.adjusted is None:
            return "fact" if self.fact else "—"
        return significant(self.adjusted, 2) if self.adjusted >= 1e-4 else "< 1e-4"


def counted(about: str, value: str, asked: str, met: bool, source: Source, note: str = "") -> Part:
    """A part that is a fact, not a test."""
    verdict: Verdict = "holds" if met else "does not hold"
    return Part(about=about, value=value, asked=asked, verdict=verdict, fact=True, note=note, sources=(source,))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says and where; what is measured of it, by which statistic, and the threshold.

    `beforehand`: whether the threshold was written down before the first of its records was made. `needs` says what has to be run;
    `judge` finds the parts, none where that has not been run.
    """

    id: str
    says: str
    where: str
    measured: str
    statistic: str
    threshold: str
    beforehand: bool = False
    needs: str
    judge: Callable[["Evidence"], Sequence[Part]]

    @property
    def fixed(self) -> str:
        """When the threshold was, beside the records that it judges."""
        return "before its runs" if self.beforehand else "after its records were known"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim with its verdict, in short why, and the parts that it rests on."""

    claim: Claim
    verdict: Verdict
    reason: str
    parts: tuple[Part, ...]

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON, the claim's own fields beside the verdict's."""
        claim = {field.name: getattr(self.claim, field.name) for field in fields(Claim) if field.name != "judge"}
        return {**claim, "verdict": self.verdict, "reason": self.reason, "parts": [asdict(part) for part in self.parts]}


def tally(findings: Sequence[Finding]) -> list[tuple[Verdict, int]]:
    """How many claims have each verdict."""
    return [(verdict, sum(finding.verdict == verdict for finding in findings)) for verdict in VERDICTS]


def judged(claims: Sequence[Claim], evidence: "Evidence") -> tuple[Finding, ...]:
    """Every claim with its verdict.

    A claim holds where all of its parts do: each at 5 %, which is 5 % for all (an intersection-union test). It does not hold
    where one does not, the p-values of its parts corrected for each other (Holm). It is inconclusive otherwise. One correction over
    the whole ledger was tried first, and left hardly anything decided with three seeds.
    """
    findings = []
    for claim in claims:
        parts = tuple(claim.judge(evidence))
        against = iter(holm([part.p_against for part in parts if part.p_against is not None]))
        ruled = tuple(part if part.p_against is None else decided(part, next(against)) for part in parts)
        findings.append(Finding(claim=claim, verdict=_verdict(ruled), reason=_why(claim, ruled), parts=ruled))
    return tuple(findings)


def decided(part: Part, against: float) -> Part:
    """The part with its verdict, by the p-value that it does not fail and the one, corrected, that it does."""
    assert part.p_for is not None
    if part.p_for < 1 - LEVEL:
        return replace(part, verdict="holds", adjusted=part.p_for)
    if against < 1 - LEVEL:
        return replace(part, verdict="does not hold", adjusted=against)
    return replace(part, verdict="inconclusive", adjusted=min(part.p_for, against))


def _verdict(parts: tuple[Part, ...]) -> Verdict:
    verdicts = {part.verdict for part in parts} - {"not tested"}
    if not verdicts:
        return "not tested"
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts == {"holds"} else "inconclusive"


def _why(claim: Claim, parts: tuple[Part, ...]) -> str:
    tested = [part for part in parts if part.verdict != "not tested"]
    if not tested:
        return next((part.note for part in parts if part.note), f"needs {claim.needs}")
    counts = {verdict: sum(part.verdict == verdict for part in parts) for verdict in VERDICTS}
    said = [f"{count} of {len(parts)} {_WORDS[verdict]}" for verdict, count in counts.items() if count]
    return ", ".join(said)


_WORDS = {"holds": "hold", "does not hold": "do not hold", "inconclusive": "inconclusive", "not tested": "not tested"}
