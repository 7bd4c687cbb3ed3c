"""A cell by its address, as a person types it: any case, beginnings of names, the measure's name for a column's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.claims.claim import Claim, Finding, judged
from bench.claims.evidence import Evidence
from bench.claims.ledger import CLAIMS
from bench.columns import groups
from bench.errors import UserError, unknown
from bench.page.evidence import Origin, unshown
from bench.page.peers import peers_sheets
from bench.page.sheets import group_sheets, memory_sheets
from bench.store import Store

_FORM = "a cell is suite/group/row/column, such as 'smoke/copy memory T=20/LSTM/loss'"
_RECORDS = {"memory": ("paper.json", memory_sheets), "peers": ("peers.json", peers_sheets)}


def find(results: Path, address: str, claims: Sequence[Claim] | None = None) -> Origin | Finding:
    """The evidence of a cell, or the finding of a claim by its id; UserError with what there is where nothing, or more, answers."""
    if "/" not in address:
        found = judged(CLAIMS if claims is None else claims, Evidence(results))
        by_id = {finding.claim.id: finding for finding in found}
        return by_id[_chosen("claim", address, by_id)]
    suite, _, rest = address.partition("/")
    suites = Store(results).suites()
    records = [name for name, (file, _) in _RECORDS.items() if name not in suites and (results / name / file).is_file()]
    if not suites and not records:
        raise UserError(f"no records below {results}: run a suite first")
    name = _chosen("suite", suite.strip(), [*suites, *records])
    return _cell(address, rest, _origins(results, name, name in suites))


def _origins(results: Path, name: str, is_suite: bool) -> list[Origin]:
    """Every origin of a suite, or of a record beside the suites; the first of each address."""
    if is_suite:
        found = groups(name, Store(results).read_all(name))
        every = [origin for group in found for sheet in group_sheets(group) for origin in sheet.all()]
        every += [origin for group in found for origin in unshown(group)]
    else:
        every = [origin for sheet in _RECORDS[name][1](results) for origin in sheet.all()]
    return list({origin.address: origin for origin in reversed(every)}.values())[::-1]


def _cell(address: str, rest: str, origins: Sequence[Origin]) -> Origin:
    """The origin that the rest of an address names. Names may hold a slash themselves, so every way to cut it is tried."""
    parts = [part.strip() for part in rest.split("/")]
    if len(parts) < 3 or not all(parts):
        named = sorted({origin.group for origin in origins})
        raise UserError(f"explain {address!r}: {_FORM}; groups: {', '.join(named)}")
    found: list[Origin] = []
    wrong: list[UserError] = []
    for first in range(1, len(parts) - 1):
        for second in range(first + 1, len(parts)):
            cut = ["/".join(parts[:first]), "/".join(parts[first:second]), "/".join(parts[second:])]
            try:
                found.append(_narrowed(cut, origins))
            except UserError as error:
                wrong.append(error)
    if not found:
        raise wrong[-1]
    return found[0]


def _narrowed(cut: Sequence[str], origins: Sequence[Origin]) -> Origin:
    left = list(origins)
    for kind, text in zip(("group", "row"), cut, strict=False):
        name = _chosen(kind, text, {getattr(origin, kind) for origin in left})
        left = [origin for origin in left if getattr(origin, kind) == name]
    by_name = {origin.also: origin for origin in left if origin.also} | {origin.column: origin for origin in left}
    heads = {origin.column for origin in left}
    return by_name[_chosen("column", cut[-1], heads, by_name)]


def _chosen(kind: str, text: str, names: Iterable[str], more: Mapping[str, object] | None = None) -> str:
    """The name that is the text in any case, or the only one that begins with it; `more` are names that count only if whole."""
    listed, low = sorted(names), text.casefold()
    exact = [name for name in [*listed, *(more or ())] if name.casefold() == low]
    if exact:
        return next((name for name in exact if name == text), exact[0])
    beginning = [name for name in listed if name.casefold().startswith(low)]
    if kind == "group":  # of a comparison and its further tables, the comparison
        beginning = [name for name in beginning if ": " not in name] or beginning
    if len(beginning) > 1:
        raise UserError(f"{kind} {text!r} is the beginning of {len(beginning)}: {', '.join(beginning)}")
    if not beginning:
        raise unknown(kind, text, listed)
    return beginning[0]
