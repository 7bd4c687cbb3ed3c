"""The page shows what the records hold and nothing else: no text becomes code, no number loses its source, nothing is loaded."""

import base64
import gzip
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, comparison, record, save
from typer.testing import CliRunner

from bench.analysis.aggregate import groups
from bench.claims.claim import Claim, Part, Source
from bench.cli.main import app
from bench.records.errors import UserError
from bench.records.escape import one_line
from bench.records.store import Store
from bench.report.html.figures import embed
from bench.report.html.lookup import find
from bench.report.html.page import render_page
from bench.report.html.sources import CellSource, command, memory_tables, peer_tables, sourced_group_tables
from bench.report.html.text import render
from bench.report.report import read_suites

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


class Read(HTMLParser):
    """The elements, the words, the scripts and styles, and the unpacked sources of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(content)
        self.close()
        self.sources: list[str] = json.loads(gzip.decompress(base64.b64decode(self.code["script"][0])))

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


@pytest.fixture(scope="module")
def published() -> str:
    return render_page(RESULTS)


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
    assert len(read.all("script")) == len(read.code["script"]) == 2
    assert "boom" not in "".join(read.code["script"] + read.code["style"])
    assert read.all("img") == []
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert not [link for link in read.all("a") if not link["href"].startswith("#")]
    assert "{{ 7 * 7 }}" in "".join(read.words)  # text is not a template
    assert any(one_line(BREAKOUT) in text for text in read.sources)
    assert any("</script><script>boom()</script>" in word for word in read.words)


@pytest.mark.parametrize(
    "content", ["", "<svg", "<html/>", "<svg/>", "<a>" * 5000, '<svg xmlns="http://www.w3.org/2000/svg"/>more']
)
def test_a_damaged_figure_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.svg").write_text(content)
    with pytest.raises(UserError, match=r"a\.svg: damaged figure .*python -m bench report"):
        embed(tmp_path / "a.svg", "python -m bench report")


def test_the_same_records_give_the_same_page(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, glob = render_page(written, ()), Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(sorted(glob(self, pattern), reverse=True)))
    assert render_page(written, ()) == expected


def test_the_published_page_is_small_and_loads_nothing(published: str) -> None:
    assert len(published.encode()) < 8_000_000
    read = Read(published)
    for tag, attributes in read.elements:
        assert "style" not in attributes
        for name in ("href", "src", "srcset", "action", "data", "poster", "background"):
            assert re.match(r"#|data:,", attributes.get(name) or "#"), (tag, name)
    assert not re.search(r"url\(|@import|@font-face", "".join(read.code["style"]))
    assert not re.search(r"fetch|XMLHttp|import\s*\(|WebSocket|innerHTML|eval|document\.write", read.code["script"][1])
    (policy,) = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_published_page_has_every_figure_as_published_and_a_source_for_each_number(published: str) -> None:
    read = Read(published)
    files = [svg for folder in ("figures/*", "memory", "claims") for svg in RESULTS.glob(f"{folder}/*.svg")]
    embedded = sorted(gzip.decompress(base64.b64decode(image["data-svg"])) for image in read.all("img"))
    assert embedded == sorted(path.read_bytes() for path in files)
    assert min(len(image["alt"]) for image in read.all("img")) > 40
    assert len(read.all("table")) == len(read.all("caption")) > 20
    assert {head.get("scope") for head in read.all("th")} == {"row", "col"}
    keys = {int(one["data-source"]) for one in read.all("td") if "data-source" in one}
    assert keys == set(range(len(read.sources)))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in read.all("a")} <= set(ids)


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


def test_a_failed_run_is_listed_does_not_count_and_is_one_line_without_control_characters(written: Path) -> None:
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


def test_a_claim_is_on_the_page_and_in_the_terminal(written: Path) -> None:
    words = "".join(Read(render_page(written, CLAIMS)).words)
    assert "Of 4 claims of the paper, 1 holds, 1 does not hold, 1 is inconclusive, 1 is not tested" in words
    text = render(find(written, "memory", CLAIMS))
    for expected in ("1 of 1 hold", "1.5 [1.2, 1.9]", "above 1", "runs/quick", "another-run", "python -m bench run quick"):
        assert expected in text
        assert expected in words


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


@pytest.fixture
def browser(written: Path, tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium, on a phone's screen in the dark, that has opened the page."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium chromium-driver)")
    (tmp_path / "report.html").write_text(render_page(written, CLAIMS), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/user",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.set_script_timeout(60)
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        )
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
        driver.get(f"file://{tmp_path}/report.html")
        yield driver
    finally:
        driver.quit()


def test_in_a_browser_columns_sort_numbers_open_figures_show_and_a_phone_has_no_overflow(browser: Any) -> None:
    sort = """
        const table = document.querySelector("table.sortable"), body = table.tBodies[1];
        const place = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.startsWith("loss"));
        table.tHead.rows[0].cells[place].querySelector("button").click();
        return [...body.rows].map((row) => row.cells[place].dataset.value ?? null);
    """
    least, greatest = ([None if v is None else float(v) for v in browser.execute_script(sort)] for _ in range(2))
    known = sorted(value for value in least if value is not None)
    assert least == known + [None] * (len(least) - len(known))
    assert greatest == known[::-1] + [None] * (len(least) - len(known))
    assert None in least
    text, shown = browser.execute_async_script("""
        const done = arguments[0], cell = document.querySelector('td[data-source="1"] button');
        cell.click();
        setTimeout(() => done([document.querySelector("dialog[open] pre").textContent, cell.textContent]), 1000);
    """)
    assert "python -m bench run" in text
    assert shown in text
    image = "const one = document.querySelector('details[open] img'); return one.complete && one.naturalWidth"
    assert browser.execute_script(image) > 100
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert browser.get_log("browser") == []
