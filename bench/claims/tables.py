"""The ledger as text: verdicts first, then each claim with the parts that it rests on."""

from collections.abc import Sequence

from bench.analysis.grid import Cell, Table, line
from bench.claims.audit import Audit, audit_table
from bench.claims.claim import Finding, Part, tally
from bench.report.report import markdown

_ENTRY_RULE = (
    "A claim holds where all of its parts do (parts that rest on chance each at 5 %), does not hold where one does not (Holm's "
    "correction over its parts), is inconclusive where the seeds do not decide, and is not tested where nothing has been run. "
    "A fact is a count of what was measured (bytes, FLOPs, seeds): it is no test and has no p. Equal values in all seeds "
    "have an exact sign test and a bound on the share of seeds that fail; with fewer than five seeds they decide nothing."
)
_COUNTED = {"holds": "hold", "does not hold": "do not hold", "inconclusive": "are inconclusive", "not tested": "are not tested"}


def summary(findings: Sequence[Finding]) -> Table:
    """A line a claim, with its verdict."""
    said = ", ".join(f"{count} {_COUNTED[verdict]}" for verdict, count in tally(findings) if count)
    return Table(
        ending="claims",
        title="Does it hold? The claims of the DEQ paper, tested",
        caption=f"{len(findings)} claims: {said}. At the sizes and on the machine of the records named below each claim.",
        rule=_ENTRY_RULE,
        heads=(("claim", ""), ("what the paper says", ""), ("where", ""), ("verdict", ""), ("parts", ""), ("threshold fixed", "")),
        rows=tuple(
            line(one.claim.id, one.claim.says, one.claim.where, Cell(one.verdict, bold=True), one.reason, one.claim.fixed)
            for one in findings
        ),
        data=tuple(_line(one, part) for one in findings for part in one.parts),
        words=(0, 1, 2, 3, 4, 5),
    )


def _line(finding: Finding, part: Part) -> dict[str, object]:
    return {
        **{"suite": "claims", "group": finding.claim.id, "label": part.about, "column": finding.claim.measured},
        **{name: getattr(part, name) for name in ("value", "asked", "verdict", "p_for", "p_against", "adjusted")},
        **{"fact": "yes" if part.fact else "no", "samples": " ".join(f"{sample:.7g}" for sample in part.samples)},
        **{"claim_verdict": finding.verdict, "run_ids": " ".join(run for source in part.sources for run in source.runs)},
        **{"paths": " ".join(source.path for source in part.sources)},
    }


def parts(finding: Finding) -> Table:
    """The parts of one claim."""
    claim = finding.claim
    commands = dict.fromkeys(source.command for part in finding.parts for source in part.sources)
    return Table(
        ending=claim.id,
        title=f"{claim.id}: {finding.verdict}",
        caption=f"{claim.says} ({claim.where}.) Measured: {claim.measured}. Asked: {claim.threshold} (fixed "
        f"{claim.fixed}). Statistic: {claim.statistic}."
        + (f" Made by: {'; '.join(commands)}." if commands else f" Needs: {claim.needs}."),
        heads=(("about", ""), ("found", ""), ("asked", ""), ("verdict", ""), ("p", ""), ("note", "")),
        rows=tuple(
            line(part.about, part.value, part.asked, part.verdict or "—", part.decided_by, part.note) for part in finding.parts
        ),
        words=(0, 1, 2, 3, 5),
    )


def page(findings: Sequence[Finding], copied: Table | None, audited: Sequence[Audit]) -> str:
    """The ledger as one Markdown text, with the paper's table 1 beside ours where that was run."""
    texts = [markdown(summary(findings))]
    texts += [markdown(copied, level=2)] if copied is not None else []
    texts += [markdown(parts(finding), level=2) if finding.parts else _untested(finding) for finding in findings]
    texts.append(markdown(audit_table(audited), level=2))
    return "\n".join(texts)


def _untested(finding: Finding) -> str:
    claim = finding.claim
    asked = f"{claim.says} ({claim.where}.) Asked: {claim.threshold}. {finding.reason.capitalize()}."
    return f"## {claim.id}: {finding.verdict}\n\n{asked}\n"
