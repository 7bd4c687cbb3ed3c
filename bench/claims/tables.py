"""Tables of the verdicts and of each claim's parts, and CLAIMS.md."""

from collections.abc import Sequence

from bench.analysis.grid import Cell, Table, line
from bench.claims.claim import PLURAL, Finding, tally
from bench.report.report import markdown

_RULE = (
    "A claim holds where all of its parts do (parts that rest on chance each at 5 %), does not hold where one does not (Holm's "
    "correction over its parts), is inconclusive where the seeds do not decide, and is not tested where nothing has been run. "
    "A fact is a count of what was measured (bytes, FLOPs, seeds): it is no test and has no p. Equal values in all seeds "
    "have an exact sign test and a bound on the share of seeds that fail; with fewer than five seeds they decide nothing."
)


def summary(findings: Sequence[Finding]) -> Table:
    """One line per claim, with its verdict."""
    counts = ", ".join(f"{count} {PLURAL[verdict]}" for verdict, count in tally(findings) if count)
    heads = ("claim", "what the paper says", "where", "verdict", "parts", "threshold fixed")
    return Table(
        ending="claims",
        title="The claims of the DEQ paper, tested",
        caption=f"{len(findings)} claims: {counts}. At the sizes and on the machine of the records named below each claim.",
        rule=_RULE,
        heads=tuple((head, "") for head in heads),
        rows=tuple(
            line(one.claim.id, one.claim.says, one.claim.where, Cell(one.verdict, bold=True), one.reason, one.claim.fixed)
            for one in findings
        ),
        data=tuple(line for one in findings for line in _data(one)),
        words=(0, 1, 2, 3, 4, 5),
    )


def _data(finding: Finding) -> list[dict[str, object]]:
    return [
        {
            **{"suite": "claims", "group": finding.claim.id, "label": part.about, "column": finding.claim.measured},
            **{name: getattr(part, name) for name in ("value", "asked", "verdict", "p_for", "p_against", "adjusted")},
            **{"fact": "yes" if part.fact else "no", "samples": " ".join(f"{sample:.7g}" for sample in part.samples)},
            **{"claim_verdict": finding.verdict, "run_ids": " ".join(run for source in part.sources for run in source.runs)},
            **{"paths": " ".join(source.path for source in part.sources)},
        }
        for part in finding.parts
    ]


def parts(finding: Finding) -> Table:
    """The parts of one claim."""
    claim = finding.claim
    commands = "; ".join(dict.fromkeys(source.command for part in finding.parts for source in part.sources))
    return Table(
        ending=claim.id,
        title=f"{claim.id}: {finding.verdict}",
        caption=f"{claim.says} ({claim.where}.) Measured: {claim.measured}. Asked: {claim.threshold} (fixed {claim.fixed}). "
        f"Statistic: {claim.statistic}. {f'Made by: {commands}' if commands else f'Needs: {claim.needs}'}.",
        heads=tuple((head, "") for head in ("about", "found", "asked", "verdict", "p", "note")),
        rows=tuple(
            line(part.about, part.value, part.asked, part.verdict or "—", part.decided_by, part.note) for part in finding.parts
        ),
        words=(0, 1, 2, 3, 5),
    )


def page(findings: Sequence[Finding], copied: Table | None, audited: Table) -> str:
    """CLAIMS.md: verdicts, table 1 where it was run, parts of every claim, fairness of the comparisons."""
    texts = [markdown(summary(findings))]
    if copied is not None:
        texts.append(markdown(copied, level=2))
    for finding in findings:
        claim = finding.claim
        asked = f"{claim.says} ({claim.where}.) Asked: {claim.threshold}. {finding.reason.capitalize()}."
        untested = f"## {claim.id}: {finding.verdict}\n\n{asked}\n"
        texts.append(markdown(parts(finding), level=2) if finding.parts else untested)
    return "\n".join([*texts, markdown(audited, level=2)])
