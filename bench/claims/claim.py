"""A claim of a paper, the parts it is tested by, and its verdict."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.analysis.statistics import LEVEL, Interval, significant
from bench.claims.hypothesis_tests import holm

if TYPE_CHECKING:
    from bench.claims.evidence import Evidence

Verdict = Literal["holds", "does not hold", "inconclusive", "cannot tell", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
PLURAL: dict[Verdict, str] = dict(
    zip(VERDICTS, ("hold", "do not hold", "inconclusive", "cannot be judged", "not tested"), strict=True)
)
SINGULAR: dict[Verdict, str] = dict(
    zip(VERDICTS, ("holds", "does not hold", "inconclusive", "cannot be judged", "not tested"), strict=True)
)
Ledger = Literal["claims", "since", "questions", "identities"]
Fixed = Literal["before its runs", "threshold before, protocol after", "after its records were known"]
SEEDS = (
    "one-sided t tests over seeds (from six on sign flips, of equal values the exact sign test); "
    "Holm's correction over a claim's parts against it"
)
Judge = Callable[["Evidence"], Iterable["Part"]]


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
    and `adjusted`, the p-value that it rests on, which of an inconclusive part is `p_for`. A `fact` is a count: it has a verdict
    and no p-value. `samples`: one number per seed, whose mean is the value; `estimate`: that mean with its interval; `limits`:
    what it must lie between (None: no limit); `needed`: about how many seeds would decide, if they spread as these.
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
    needed: int | None = None
    samples: tuple[float, ...] = ()
    estimate: Interval | None = None
    limits: tuple[float | None, float | None] | None = None
    sources: tuple[Source, ...] = ()

    @property
    def decided_by(self) -> str:
        """`fact`, or the p-value that decided, or a dash."""
        return "fact" if self.fact else written_p(self.adjusted)


def written_p(p: float | None) -> str:
    """A p-value in a table, or a dash."""
    if p is None:
        return "—"
    return significant(p, 2) if p >= 1e-4 else "< 1e-4"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper, where it stands, the measurement and statistic that test it, and the threshold.

    `ledger`: an identity is what mathematics or a count decides, a claim, of the DEQ paper or made since, what only evidence can,
    a question what no paper claims.
    `fixed`: when the threshold and the protocol were written down. `needs`: what to run. `judge` returns the parts, none where
    that has not been run.
    """

    id: str
    says: str
    where: str
    measured: str
    statistic: str
    threshold: str
    ledger: Ledger = "claims"
    fixed: Fixed = "after its records were known"
    needs: str
    judge: Judge


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, its verdict, the counts behind it, and the parts.

    `p` is that of the verdict, `ledger_p` the same corrected for all claims of the ledger (Holm); None where it rests on facts.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    parts: tuple[Part, ...]
    p: float | None = None
    ledger_p: float | None = None

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

    A claim holds where every part that was tested does: each at 5 %, which is 5 % for all (an intersection-union test). It does not
    hold where one does not, the p-values of its parts corrected for each other (Holm). "Cannot tell" of one part is that of the
    claim. It is inconclusive otherwise. Verdicts rest on a claim's own p; a correction over all claims leaves hardly any decided
    with three seeds, and is reported next to it.
    """
    findings = tuple(_judge(claim, tuple(claim.judge(evidence))) for claim in claims)
    corrected: dict[str, float] = {}
    for ledger in get_args(Ledger):
        tested = {one.claim.id: one.p for one in findings if one.claim.ledger == ledger and one.p is not None}
        corrected |= zip(tested, holm(list(tested.values())), strict=True)
    return tuple(replace(one, ledger_p=corrected.get(one.claim.id)) for one in findings)


def _judge(claim: Claim, parts: Sequence[Part]) -> Finding:
    against = iter(holm([part.p_against for part in parts if part.p_against is not None]))
    decided = tuple(part if part.p_against is None else decide(part, next(against)) for part in parts)
    verdicts = [part.verdict for part in decided]
    if set(verdicts) <= {"not tested"}:
        reason = next((part.note for part in decided if part.note), f"needs {claim.needs}")
        return Finding(claim=claim, verdict="not tested", reason=reason, parts=decided)
    verdict: Verdict = "holds" if set(verdicts) <= {"holds", "not tested"} else "inconclusive"
    worse: tuple[Verdict, ...] = ("does not hold", "cannot tell")
    verdict = next((one for one in worse if one in verdicts), verdict)
    counts = {PLURAL[one]: verdicts.count(one) for one in VERDICTS}
    reason = ", ".join(f"{count} of {len(decided)} {words}" for words, count in counts.items() if count)
    return Finding(claim=claim, verdict=verdict, reason=reason, parts=decided, p=_p_value(verdict, decided))


def _p_value(verdict: Verdict, parts: Sequence[Part]) -> float | None:
    """The p-value of a verdict: the smallest of parts of which one must fail, else the largest of parts that all must hold."""
    if verdict == "does not hold" and any(part.fact and part.verdict == verdict for part in parts):
        return None
    held = [part.adjusted for part in parts if part.adjusted is not None and part.verdict == "holds"]
    failed = [part.adjusted for part in parts if part.adjusted is not None and part.verdict == "does not hold"]
    open_ = [part.adjusted for part in parts if part.adjusted is not None and part.verdict == "inconclusive"]
    if verdict == "does not hold":
        return min(failed, default=None)
    return max([*held, *open_], default=None)


def deciding(finding: Finding) -> Part | None:
    """The first part with the claim's verdict, or the first part."""
    return next((part for part in finding.parts if part.verdict == finding.verdict), next(iter(finding.parts), None))


def decide(part: Part, p_against: float) -> Part:
    """The part with its verdict, that which it has or that of its tests; `p_against` is corrected for the other parts."""
    if part.verdict is not None:
        return part
    assert part.p_for is not None
    if part.p_for < 1 - LEVEL:
        return replace(part, verdict="holds", adjusted=part.p_for)
    if p_against < 1 - LEVEL:
        return replace(part, verdict="does not hold", adjusted=p_against)
    more = f"; about {part.needed:,} seeds would decide" if part.needed else ""
    return replace(part, verdict="inconclusive", adjusted=part.p_for, note=part.note + more)
