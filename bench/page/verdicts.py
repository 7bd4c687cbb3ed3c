"""The claims with their verdicts, from the ledger where there is one."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.claims.claim import VERDICTS, Claim, Finding, judged
from bench.claims.evidence import Evidence

_LEDGER = "bench.claims.ledger"


def ledger() -> Sequence[Claim]:
    """The claims that are judged; none without a ledger."""
    try:
        module = importlib.import_module(_LEDGER)
    except ModuleNotFoundError as error:
        if error.name != _LEDGER:
            raise
        return ()
    claims: Sequence[Claim] = module.CLAIMS
    return claims


def findings(results: Path, claims: Sequence[Claim] | None = None) -> tuple[Finding, ...]:
    """Every claim with its verdict on the results."""
    return judged(ledger() if claims is None else claims, Evidence(results))


def tally(found: Sequence[Finding]) -> list[tuple[str, int]]:
    """How many claims have each verdict."""
    return [(verdict, sum(finding.verdict == verdict for finding in found)) for verdict in VERDICTS]


def as_data(finding: Finding) -> dict[str, Any]:
    """A finding for JSON."""
    claim = finding.claim
    return {
        **{name: getattr(claim, name) for name in ("id", "says", "where", "measured", "statistic", "threshold", "needs")},
        "verdict": finding.verdict,
        "why": finding.why,
        "parts": [
            {
                **{name: getattr(part, name) for name in ("about", "value", "asked", "verdict", "p_for", "p_against", "adjusted")},
                "note": part.note,
                "sources": [{"path": s.path, "command": s.command, "runs": list(s.runs)} for s in part.sources],
            }
            for part in finding.parts
        ],
    }
