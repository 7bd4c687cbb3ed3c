"""A claim of the paper, the parts it is tested by, and its verdict."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.analysis.statistics import LEVEL, significant
from bench.claims.hypothesis_tests import holm

if TYPE_CHECKING:
    from bench.claims.evidence import Evidence

Verdict = Literal["holds", "does not hold", "inconclusive", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
PLURAL: dict[Verdict, str] = dict(zip(VERDICTS, ("hold", "do not hold", "inconclusive", "not tested"), strict=True))
Judge = Callable[["Evidence"], Sequence["Part"]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The record or the runs of a number, and the command that makes them.

    `path`, relative to the results folder, is that of the record, or of the folder of the runs.
    """

    path: str
    command: str
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One test of a claim: its subject, the value found and the value required.

    `p_for` and `p_against` are the p-values of the one-sided tests for and against the requirement; `decide` adds the verdict
    and `adjusted`, the p-value that it rests on. A `fact` is a count: it has a verdict and no p-value. `samples`: one number per
    seed, whose mean is the value.
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


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, where it stands, the measurement and statistic that test it, and the threshold.

    `beforehand`: the threshold was fixed before the first record was made. `needs`: what to run. `judge` returns the parts, none
    where that has not been run.
    """

    id: str
    says: str
    where: str
    measured: str
    statistic: str
    threshold: str
    beforehand: bool = False
    needs: str
    judge: Judge

    @property
    def fixed(self) -> str:
        """When the threshold was fixed."""
        return "before its runs" if self.beforehand else "after its records were known"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, its verdict, the counts behind it, and the parts."""

    claim: Claim
    verdict: Verdict
    reason: str
    parts: tuple[Part, ...]

    def as_data(self) -> dict[str, Any]:
        """The finding for JSON, the claim's fields at the top level."""
        data = asdict(self)
        claim = {name: value for name, value in data.pop("claim").items() if name != "judge"}
        return claim | data


def tally(findings: Sequence[Finding]) -> list[tuple[Verdict, int]]:
    """Count the claims by verdict."""
    return [(verdict, sum(finding.verdict == verdict for finding in findings)) for verdict in VERDICTS]


def judge_claims(claims: Sequence[Claim], evidence: "Evidence") -> tuple[Finding, ...]:
    """Judge every claim.

    A claim holds where all of its parts do: each at 5 %, which is 5 % for all (an intersection-union test). It does not hold
    where one does not, the p-values of its parts corrected for each other (Holm). It is inconclusive otherwise. A correction
    over all claims was tried first and left hardly any decided with three seeds.
    """
    return tuple(_judge(claim, claim.judge(evidence)) for claim in claims)


def _judge(claim: Claim, parts: Sequence[Part]) -> Finding:
    against = iter(holm([part.p_against for part in parts if part.p_against is not None]))
    decided = tuple(part if part.p_against is None else decide(part, next(against)) for part in parts)
    verdicts = [part.verdict for part in decided]
    if set(verdicts) <= {"not tested"}:
        reason = next((part.note for part in decided if part.note), f"needs {claim.needs}")
        return Finding(claim=claim, verdict="not tested", reason=reason, parts=decided)
    verdict: Verdict = "holds" if set(verdicts) <= {"holds", "not tested"} else "inconclusive"
    if "does not hold" in verdicts:
        verdict = "does not hold"
    counts = {PLURAL[one]: verdicts.count(one) for one in VERDICTS}
    reason = ", ".join(f"{count} of {len(decided)} {words}" for words, count in counts.items() if count)
    return Finding(claim=claim, verdict=verdict, reason=reason, parts=decided)


def decide(part: Part, p_against: float) -> Part:
    """The part with its verdict; `p_against` is corrected for the other parts."""
    assert part.p_for is not None
    if part.p_for < 1 - LEVEL:
        return replace(part, verdict="holds", adjusted=part.p_for)
    if p_against < 1 - LEVEL:
        return replace(part, verdict="does not hold", adjusted=p_against)
    return replace(part, verdict="inconclusive", adjusted=min(part.p_for, p_against))
