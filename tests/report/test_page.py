"""The page shows what the records hold and nothing else: no text becomes code, no number loses its source, nothing is loaded."""

import base64
import gzip
import json
import math
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cases import exhaustive
from running import save
from test_report import HOSTILE, comparison, record, small
from typer.testing import CliRunner

from bench.analysis.aggregate import groups
from bench.claims.claim import Claim, Part, Source
from bench.claims.entries import CLAIMS as CLAIMS_OF_THE_PACKAGE
from bench.cli.main import app
from bench.records.errors import UserError
from bench.records.escape import one_line
from bench.records.record import CurvePoint, Record, measured
from bench.records.side_file import EXPERIMENTS
from bench.records.store import Store
from bench.report.html.figures import comparison_figures, number, tradeoff
from bench.report.html.lookup import find
from bench.report.html.page import render_page, theme
from bench.report.html.sources import CellSource, command, memory_tables, peer_tables, sourced_group_tables, study_tables
from bench.report.html.text import render
from bench.report.report import read_suites, write_report
from bench.report.style import assign_styles

pytestmark = pytest.mark.end_to_end

RESULTS = Path(__file__).resolve().parents[2] / "results"
BREAKOUT = "</script><script>boom()</script><!--<script> ]]> \u2028 <img src=x onerror=boom()> \" ' javascript:boom() {{ 7 * 7 }}"


def claim(id_: str, *parts: Part, says: str = "it `works`") -> Claim:
    return Claim(
        **{"id": id_, "says": says, "where": "table 1", "measured": "loss", "statistic": "t test", "threshold": "1"},
        needs="suite quick",
        judge=lambda evidence: parts,
    )


def part(about: str, verdict: Any = "holds", **more: Any) -> Part:
    return Part(about=about, value="1.5 [1.2, 1.9]", asked="above 1", verdict=verdict, **more)


SOURCE = Source(path="runs/quick", command="python -m bench run quick", runs=("a-run", "another-run"))
CLAIMS = (
    claim("memory", part("counts", sources=(SOURCE,))),
    claim("memory-more", part("less", "does not hold", note=BREAKOUT)),
    claim("chance", part("seeds", None, p_for=0.4, p_against=0.6), says=BREAKOUT),
    claim("gpu"),
)


def leaves(content: Any) -> Iterator[str]:
    """The texts in data."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | dict):
        for one in content if isinstance(content, list) else content.values():
            yield from leaves(one)


class Read(HTMLParser):
    """The elements, the words, the scripts and styles, and the unpacked parts of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(content)
        self.close()
        names = [attributes.get("data-name") for attributes in self.all("script")]
        packed = {name: text for name, text in zip(names, self.code["script"], strict=True) if name is not None}
        self.script = self.code["script"][-1]
        texts = {name: gzip.decompress(base64.b64decode(text)).decode() for name, text in packed.items()}
        self.runtime = texts.pop("runtime")
        self.parts: dict[str, Any] = {name: json.loads(text) for name, text in texts.items()}
        self.sources = list(leaves(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.elements[-1][0] if self.elements else ""
        (self.code[tag] if tag in self.code and self.lasttag == tag and data.strip() else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", name="written")
def written_folder(written: tuple[Path, list[Path]]) -> Path:
    return written[0]


def cell(results: Path, address: str) -> CellSource:
    found = find(results, address, ())
    assert isinstance(found, CellSource)
    return found


def test_no_text_of_a_record_or_a_claim_becomes_code(tmp_path: Path) -> None:
    records = []
    for one in comparison():
        environment = one.environment | {"cpu": BREAKOUT, "torch": HOSTILE, "git": {"revision": BREAKOUT, "dirty": True}}
        measures = {name: m.model_copy(update={"method": BREAKOUT, "scope": HOSTILE}) for name, m in one.measures.items()}
        reason = one.reason and BREAKOUT
        records.append(one.model_copy(update={"environment": environment, "reason": reason, "measures": measures}))
    read = Read(render_page(save(tmp_path, records), CLAIMS))
    assert len(read.all("script")) == len(read.code["script"]) == len(read.parts) + 2
    assert "boom" not in "".join(read.code["script"] + read.code["style"])
    assert read.all("img") == []
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert not [link for link in read.all("a") if not link["href"].startswith("#")]
    assert "{{ 7 * 7 }}" in "".join(read.words)  # text is not a template
    assert one_line(BREAKOUT) in read.parts["quick/copy T30"]["words"]
    assert any("</script><script>boom()</script>" in word for word in read.words)


def test_the_same_records_give_the_same_page(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, glob = render_page(written, ()), Path.glob
    monkeypatch.setattr(Path, "glob", lambda *given, **how: iter(sorted(glob(*given, **how), reverse=True)))
    assert render_page(written, ()) == expected


def test_the_published_page_is_small_and_loads_nothing(published_page: str) -> None:
    assert len(published_page.encode()) < 2_500_000
    read = Read(published_page)
    assert len(read.elements) < 6000
    for tag, attributes in read.elements:
        assert "style" not in attributes
        for name in ("href", "src", "srcset", "action", "data", "poster", "background"):
            assert re.match(r"#|data:,", attributes.get(name) or "#"), (tag, name)
    assert not re.search(r"url\(|@import|@font-face", "".join(read.code["style"]))
    assert not re.search(r"fetch|XMLHttp|import\s*\(|WebSocket|innerHTML|eval\(|document\.write", read.script)
    (policy,) = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def cells(part: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, list[Any]]]:
    """The cells with evidence of a part's tables, with their tables and addresses."""
    for table in part["tables"]:
        for row in table["rows"]:
            for one in row[1:]:
                if isinstance(one, list):
                    yield table, "/".join([*table["address"], *(part["words"][place] for place in one[4][:2])]), one


def test_every_number_of_the_published_page_has_an_address_of_its_own_that_its_links_find(published_page: str) -> None:
    read = Read(published_page)
    parts = [part for part in read.parts.values() if "tables" in part]
    # Every table of a comparison counts the same runs in its column n.
    found = [address for part in parts for _, address, _ in cells(part) if not address.endswith("/n")]
    assert len(found) == len(set(found)) > 5000
    links = [link["href"] for link in read.all("a")]
    ids = {attributes["id"] for _, attributes in read.elements if "id" in attributes}
    claims = {fold["data-claim"] for fold in read.all("details") if "data-claim" in fold}
    for link in links:
        kind, _, name = link[1:].partition("=")
        assert name in {"cell": found, "claim": claims}[kind] if name else kind in ids, link
    assert any(link.startswith("#cell=") for link in links)


@pytest.mark.parametrize("stride", [29, *exhaustive(1)])
def test_the_page_shows_what_explain_prints(written: Path, stride: int) -> None:
    """Texts, values, intervals, samples, methods and commands, cell by cell."""
    part = Read(render_page(written, ())).parts["quick/copy T30"]
    words, compared = part["words"], 0
    addressed = [
        (address, shown)
        for _, address, shown in cells(part)
        if address.count("/") == 3 and "trials" not in address and "depth" not in address and not address.endswith("/n")
    ]
    for address, (text, bold, notes, value, evidence) in addressed[::stride]:
        source = cell(written, address)
        _, _, unit, statistic, command_, interval, samples, methods, facts = evidence
        assert (text, bool(bold), tuple(notes)) == (one_line(source.cell.text), source.cell.bold, source.cell.notes)
        expected = source.cell.value if isinstance(source.cell.value, str) else number(source.cell.value)  # never: None
        assert value == expected
        assert [words[unit], words[statistic], words[command_]] == [
            one_line(one) for one in (source.cell.unit, source.statistic, source.command)
        ]
        assert (interval is None) == (source.cell.interval is None)
        assert [words[run] for _, _, run, _ in samples] == [sample.run for sample in source.cell.samples]
        assert [tuple(words[at] for at in pair) for pair in methods] == [tuple(map(one_line, pair)) for pair in source.cell.methods]
        assert [tuple(words[at] for at in pair) for pair in facts] == [tuple(map(one_line, pair)) for pair in source.facts]
        compared += 1
    assert compared > 100 / stride


def test_every_claim_of_the_package_has_a_theme() -> None:
    assert [one.id for one in CLAIMS_OF_THE_PACKAGE if one.ledger != "identities" and theme(one.id) == "Other"] == []
    assert theme("something-new") == "Other"


def test_figures_draw_the_runs_and_their_means(written: Path) -> None:
    part = Read(render_page(written, ())).parts["quick/copy T30"]
    figures = {figure["id"]: figure for figure in part["figures"]}
    assert {"tradeoff", "curves", "depth"} <= figures.keys()
    records = {one.run_id: one for one in Store(written).read_all("quick")}
    view = next(view for view in figures["curves"]["views"] if view["name"] == "validation loss by steps")
    drawn = {run: figures["curves"]["lists"][ys] for label, run, _, ys in view["series"] if label == "LSTM"}
    assert len(drawn) == 3  # two runs ended ok, and their mean
    for run, ys in drawn.items():
        if run:
            assert ys == pytest.approx([point.valid["loss"] for point in records[run].curve if point.step], rel=6e-4)
    runs = [ys for run, ys in drawn.items() if run]
    assert drawn[""] == pytest.approx([math.sqrt(a * b) for a, b in zip(*runs, strict=True)], rel=2e-3)  # of rounded ones
    assert all(
        {series[0] for series in view["series"]} <= figures["curves"]["colours"].keys() for view in figures["curves"]["views"]
    )


def test_many_validations_are_thinned_and_the_last_stays() -> None:
    one = record("LSTM", 0)
    for validations, drawn in ((12, 12), (24, 24), (40, 20), (121, 21)):
        points = [CurvePoint(step=n, seconds=float(n), train_loss=1.0, valid={"loss": 1.0 / n}) for n in range(1, validations + 1)]
        (group,) = groups("quick", [one.model_copy(update={"curve": points})])
        figures = {figure["id"]: figure for figure in comparison_figures(group, assign_styles([group]))}
        view = next(view for view in figures["curves"]["views"] if view["name"] == "validation loss by steps")
        steps = figures["curves"]["lists"][view["series"][0][2]]
        assert (len(steps), steps[-1]) == (drawn, validations)


def test_a_run_whose_step_was_not_timed_has_the_time_of_its_row(tmp_path: Path) -> None:
    """One seed without a step time takes away neither the others nor itself."""
    records = [record("LSTM", seed) for seed in (0, 1)] + [record("DEQ (Broyden)", 0)]
    untimed = measured(None, "ms", "m", "s", "contended")
    records[1] = records[1].model_copy(update={"measures": records[1].measures | {"step_ms_median": untimed, "train_s": untimed}})
    (group,) = groups("quick", records)
    figures = {one["id"]: one for one in comparison_figures(group, assign_styles([group]))}
    view = next(view for view in figures["curves"]["views"] if view["name"] == "validation loss by seconds")
    xs = {run: figures["curves"]["lists"][at] for label, run, at, _ in view["series"] if label == "LSTM"}
    assert xs[records[0].run_id] == xs[records[1].run_id] == xs[""]
    steps = [point.step for point in records[0].curve if point.step]
    assert xs[""] == pytest.approx([step * (records[0].value("step_ms_median") or 0.0) / 1e3 for step in steps], rel=6e-3)


def test_a_point_of_the_tradeoff_says_whether_its_score_counts_and_is_the_best_by_validation() -> None:
    good, lucky = [record("DEQ (Anderson)", seed) for seed in (0, 1)], [record("DEQ (Broyden)", seed) for seed in (0, 1)]

    def scored(one: Record, valid: float, test: float, solved: float) -> Record:
        values = {"valid_loss": valid, "test_loss": test, "eval_converged_fraction": solved}
        return one.model_copy(update={"measures": one.measures | {k: measured(v, "nats", "m", "s") for k, v in values.items()}})

    rows = [scored(one, 1.0, 1.2, 1.0) for one in good] + [scored(one, 1.1, 0.9, 0.5) for one in lucky]
    (group,) = groups("quick", [*rows, record("LSTM", 0)])
    (figure,) = tradeoff(group)
    points = {point["model"]: (point["best"], point["fault"]) for point in figure["views"][0]["points"]}
    assert points["DEQ (Anderson)"] == (True, "")
    assert points["DEQ (Broyden)"] == (False, "inadmissible: 50.0 % of its test solves converge (asked: 99 %)")


def test_sources_are_what_the_record_files_say() -> None:
    """Means and values again from the JSON files, by other arithmetic."""
    tables = [table for group in groups("smoke", Store(RESULTS).read_all("smoke")) for table in sourced_group_tables(group)]
    losses = [one for table in tables for one in table.all() if one.column == "loss" and ":" not in one.group]
    assert len(losses) >= 8
    for source in losses:
        files = [json.loads((RESULTS / "runs" / "smoke" / f"{one.run}.json").read_text()) for one in source.cell.samples]
        measures = [file["measures"]["test_loss"] for file in files]
        values = [measure["value"] for measure in measures]
        assert [one.value for one in source.cell.samples] == values
        assert {file["spec"]["label"] for file in files} == {source.row}
        assert source.cell.value == pytest.approx(math.prod(values) ** (1 / len(values)))
        assert source.cell.methods == ((measures[0]["method"], measures[0]["scope"]),)


def test_cells_of_other_tables_come_from_their_own_lines(written: Path) -> None:
    record = json.loads((RESULTS / "memory" / "paper.json").read_text())
    row = next(row for row in record["rows"] if row["label"] == "DEQ-TrellisNet")
    core = cell(RESULTS, "memory/paper/DEQ-TrellisNet/core")
    assert core.cell.value == row["readings"]["core"]
    history = cell(RESULTS, "memory/phases/DEQ-TrellisNet, backward solve/solver history")
    assert history.cell.value == row["steps"]["core"]["phases"]["backward solve"]["solver history"]
    sources = [one for table in [*memory_tables(RESULTS), *peer_tables(RESULTS)] for one in table.all()]
    by_address: dict[str, CellSource] = {}
    for source in sources:
        assert by_address.setdefault(source.address.casefold(), source) == source
    for group in groups("quick", read_suites(written)["quick"]):
        for table in sourced_group_tables(group):
            for row_, sources_ in zip(table.table.rows, table.sources, strict=True):
                assert len(row_) == len(sources_)
                assert sources_[0] is None
                assert (sources_[-1] is None) == (row_.family == "reference")


def test_a_failed_run_is_listed_does_not_count_and_is_one_line_without_control_characters(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a table is wrapped to it
    found = cell(written, "quick/copy T30/LSTM/loss")
    assert found.cell.interval is not None
    assert found.cell.interval.n == 2
    assert [one.value is None for one in found.cell.samples] == [False, False, True]
    assert found.cell.samples[2].reason == f"oom: {HOSTILE}"
    assert f"oom: {one_line(HOSTILE)}\n" in render(found)
    assert "\x07" not in render(found)
    lost = cell(written, "quick/copy T30/GRU/loss").cell
    assert (lost.interval, lost.value, lost.text) == (None, None, "—")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("quick/copy T30/LSTM/loss", "quick/copy T30/LSTM/loss"),
        ("QUICK/COPY t30/lstm/LOSS", "quick/copy T30/LSTM/loss"),
        ("q/c/L/saved", "quick/copy T30/LSTM/saved for backward"),
        ("quick/copy/tied 12/test_loss", "quick/copy T30/tied 12/loss"),
        ("quick/copy/LSTM/valid_loss", "quick/copy T30/LSTM/valid_loss"),
        ("quick/copy T30: tr/LSTM/chosen", "quick/copy T30: trials/LSTM/chosen"),
        ("quick / copy T30 / LSTM / n", "quick/copy T30/LSTM/n"),
    ],
)
def test_a_cell_is_found_by_any_case_and_by_beginnings(written: Path, asked: str, answered: str) -> None:
    assert cell(written, asked).address == answered


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("quick/copy T30/LTSM/loss", "unknown row 'LTSM'; did you mean 'LSTM'\\? Allowed: DEQ \\(Anderson\\)"),
        ("quick/copy T30/LSTM/los t", "unknown column 'los t'; did you mean"),
        ("quick/copy T30/DEQ/loss", "row 'DEQ' is the beginning of 2: DEQ \\(Anderson\\), DEQ \\(Broyden\\)"),
        ("quik/copy T30/LSTM/loss", "unknown suite 'quik'; did you mean 'quick'\\?"),
        ("quick/paste/LSTM/loss", "unknown group 'paste'.* Allowed: copy T30"),
        ("quick/copy T30", "a cell is suite/group/row/column.*groups: copy T30"),
        ("quick//LSTM/loss", "a cell is suite/group/row/column"),
        ("memory-les", "unknown claim 'memory-les'; did you mean"),
        ("mem", "claim 'mem' is the beginning of 2: memory, memory-more"),
    ],
)
def test_a_wrong_address_lists_what_there_is(written: Path, asked: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(written, asked, CLAIMS)


def test_without_records_or_claims_it_says_so(tmp_path: Path) -> None:
    for read in (lambda: render_page(tmp_path, ()), lambda: find(tmp_path, "smoke/a/b/c")):
        with pytest.raises(UserError, match="no records"):
            read()
    assert "No claims are judged" in render_page(save(tmp_path, [record("LSTM", 0), record("LSTM", 1)]), ())


def test_a_comparison_stopped_after_its_trials_is_reported_beside_the_others(tmp_path: Path) -> None:
    trials = [record(label, 1000, group="copy T60", role="trial") for label in ("DEQ (Broyden)", "LSTM")]
    results = save(tmp_path, [*small(), *trials])
    assert results / "tables/quick/copy-t60-trials.md" in write_report(results)
    read = Read(render_page(results))
    assert {"quick/copy T30", "quick/copy T60"} <= read.parts.keys()


def test_a_claim_is_on_the_page_and_in_the_terminal(written: Path) -> None:
    read = Read(render_page(written, CLAIMS))
    words = "".join(read.words)
    assert "Of 4 claims of the paper, 1 holds, 1 does not hold, 1 inconclusive, 1 not tested" in words
    text = render(find(written, "memory", CLAIMS))
    for expected in ("1 of 1 hold", "1.5 [1.2, 1.9]", "above 1", "runs/quick", "another-run", "python -m bench run quick"):
        assert expected in text
        assert expected in words or expected in json.dumps(read.parts["claims"]["memory"])


def test_the_commands_work_from_a_shell(written: Path, tmp_path: Path) -> None:
    def output(*arguments: str) -> str:
        return CliRunner().invoke(app, [*arguments, "--results", str(written)]).stdout

    out, address = tmp_path / "deep" / "report.html", "quick/copy T30/LSTM/loss"
    assert json.loads(output("page", "--out", str(out), "--json")) == {"file": str(out), "bytes": out.stat().st_size}
    assert json.loads(output("explain", address, "--json")) == cell(written, address).as_data()
    assert output("explain", address) == render(cell(written, address))


def test_the_command_of_a_row_runs_that_row_alone() -> None:
    from bench.execution.suite_loading import load_suite

    pairs = [(entry.group, label) for entry in load_suite("smoke", {})[1] for label in entry.rows]  # type: ignore[union-attr]
    for group in groups("smoke", Store(RESULTS).read_all("smoke")):
        for row in group.rows:
            words = shlex.split(command("smoke", row.finals))
            only = words[words.index("--only") + 1].lower()
            mine = [pair for pair in pairs if any(fnmatchcase(n.lower(), only) for n in (*pair, "/".join(pair)))]
            assert mine == [(group.name, row.finals[0].spec.label)]
            assert words[words.index("--seeds") + 1] == ",".join(str(one.spec.seed) for one in row.finals)
            assert words[-2:] == ["--results", "results/reproduced"]


def test_table_1_opens_its_runs_and_names_what_is_printed(tmp_path: Path) -> None:
    runs = [record(label, seed, suite="copy") for label in ("LSTM", "GRU") for seed in range(3)]
    results = save(tmp_path / "results", runs)
    measured = cell(results, "copy/copy T30: table-1/LSTM/measured")
    expected = [(f"seed {one.spec.seed}", one.value("test_loss"), one.run_id) for one in runs if one.spec.label == "LSTM"]
    assert [(one.about, one.value, one.run) for one in measured.cell.samples] == expected
    printed = cell(results, "copy/copy T30: table-1/GRU/paper: loss")
    assert (printed.cell.text, printed.statistic, printed.cell.samples) == ("0.0491", "printed in the paper: not measured here", ())


def test_the_table_of_adjoints_is_on_the_page(tmp_path: Path) -> None:
    results = save(tmp_path / "results", [record("LSTM", 0)])
    counts = {"evaluations": 8, "products": 3, "forward": {"nfe": 8, "converged": 1.0}, "backward": None}
    point = {"adjoint": "unroll <i>", "solver": "Picard", "rtol": 1e-3, "distance": 0.5, "one_less_cosine": 0.1, **counts}
    rows = [{"task": "copy", "seed": 0, "values": {"points": [point]}, "reason": None}]
    study = {"rows": rows, "settings": {"batch": 4, "cap": 60, "steps": 300}, "seeds": [0]}
    (results / "claims").mkdir()
    (results / "claims" / "experiments.json").write_text(json.dumps(EXPERIMENTS.sealed({"experiments": {"adjoints": study}})))
    (table,) = study_tables(results)
    assert "the gradient of the truncated solve" in " ".join((table.table.caption, table.table.legend, *table.table.remarks))
    assert "unroll <i>" in json.dumps(Read(render_page(results, CLAIMS)).parts["solver"])
