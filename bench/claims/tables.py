"""Tables of the verdicts and of each claim's parts, and CLAIMS.md."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import get_args

from bench.analysis.grid import Cell, Table, line
from bench.claims.claim import PLURAL, SINGULAR, Finding, Ledger, tally, written_p
from bench.claims.guide import Advice
from bench.report.report import markdown

_RULE = (
    "A claim holds where every part that was tested does (parts that rest on chance each at 5 %), does not hold where one does "
    "not (Holm's correction over its parts), is inconclusive where the seeds do not decide, cannot be judged where it rests on a "
    "reconstruction that does not meet the printed figures, and is not tested where nothing has been run. p is that of the "
    "verdict, and of what is inconclusive that of the claim: near 1 speaks against it. Next to it is the same after Holm's "
    "correction over all claims of the table; the verdicts rest on the former. A fact is a count of what was measured (bytes, "
    "FLOPs, seeds): it is no test and has no p. Equal values in all seeds have an exact sign test and a bound on the share of "
    "seeds that fail; with fewer than five seeds they decide nothing."
)


_TITLES: dict[Ledger, str] = {
    "claims": "The claims of the DEQ paper, tested",
    "since": "Claims made since then, tested",
    "questions": "Questions that no paper claims an answer to",
    "identities": "Identities: what mathematics or a count decides",
}


def summary(findings: Sequence[Finding], ledger: Ledger) -> Table:
    """One line per claim of a ledger, with its verdict."""
    listed = [one for one in findings if one.claim.ledger == ledger]
    noun = {"identities": "identities", "questions": "questions"}.get(ledger, "claims")
    noun = "question" if noun == "questions" and len(listed) == 1 else noun
    heads = ("claim", "what is claimed", "where", "verdict", "parts", "p", "p, all of the table", "threshold fixed")
    return Table(
        kind=ledger,
        title=_TITLES[ledger],
        caption=f"{len(listed)} {noun}: {counted(listed)}. At the sizes and on the machine of the records named below each one.",
        legend=_RULE,
        heads=tuple((head, "") for head in heads),
        rows=tuple(
            line(
                *(one.claim.id, one.claim.says, one.claim.where, Cell(one.verdict, bold=True), one.reason),
                *(written_p(p) for p in (one.p, one.ledger_p)),
                one.claim.fixed,
            )
            for one in listed
        ),
        data=tuple(line for one in listed for line in _data(one)),
        text_columns=(0, 1, 2, 3, 4, 7),
    )


def counted(findings: Sequence[Finding]) -> str:
    """The number of findings by verdict, in words."""
    return ", ".join(f"{count} {SINGULAR[one] if count == 1 else PLURAL[one]}" for one, count in tally(findings) if count)


def summaries(findings: Sequence[Finding]) -> list[Table]:
    """The summary of each ledger."""
    return [summary(findings, ledger) for ledger in get_args(Ledger)]


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
        kind=claim.id,
        title=f"{claim.id}: {finding.verdict}",
        caption=f"{claim.says} ({claim.where}.) Measured: {claim.measured}. Asked: {claim.threshold} (fixed {claim.fixed}). "
        f"Statistic: {claim.statistic}. {f'Made by: {commands}' if commands else f'Needs: {claim.needs}'}.",
        heads=tuple((head, "") for head in ("about", "found", "asked", "verdict", "p", "note")),
        rows=tuple(
            line(part.about, part.value, part.asked, part.verdict or "—", part.decided_by, part.note) for part in finding.parts
        ),
        text_columns=(0, 1, 2, 3, 5),
    )


def advice(rows: Sequence[Advice]) -> Table | None:
    """The decision guide; None without a row."""
    if not rows:
        return None
    return Table(
        kind="guide",
        title="When to use a deep equilibrium model",
        caption="Each line is computed from the records; n is the number of runs, or of samples of a claim, behind its number.",
        heads=tuple((head, "") for head in ("when", "use", "because", "n", "and pay")),
        rows=tuple(line(one.situation, Cell(one.use, bold=True), one.reason, str(one.n or "—"), one.cost or "—") for one in rows),
        data=tuple({"suite": "claims", "group": "guide", "label": one.situation, "column": "use", **asdict(one)} for one in rows),
        text_columns=(0, 1, 2, 4),
    )


def page(findings: Sequence[Finding], copied: Table | None, audited: Table) -> str:
    """CLAIMS.md: verdicts, table 1 where it was run, parts of every claim, fairness of the comparisons."""
    first, *others = summaries(findings)
    texts = [markdown(first), *(markdown(table, level=2) for table in others)]
    if copied is not None:
        texts.append(markdown(copied, level=2))
    for finding in findings:
        claim = finding.claim
        asked = f"{claim.says} ({claim.where}.) Asked: {claim.threshold}. {finding.reason.capitalize()}."
        untested = f"## {claim.id}: {finding.verdict}\n\n{asked}\n"
        texts.append(markdown(parts(finding), level=2) if finding.parts else untested)
    return "\n".join([*texts, markdown(audited, level=2)])
