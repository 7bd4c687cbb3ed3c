"""The page shows what the records hold and nothing else: no text becomes code, no number loses its origin, no network is asked."""

import base64
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, comparison, record, save
from typer.testing import CliRunner

from bench.claims.claim import Claim, Part, Source
from bench.columns import groups
from bench.errors import UserError
from bench.escape import visible
from bench.page.cli import app
from bench.page.colour import contrast, oklab, on_dark, parse, text
from bench.page.drawing import Shapes
from bench.page.evidence import Origin, as_data, command, unshown
from bench.page.find import find
from bench.page.page import MOST_BYTES, page
from bench.page.peers import peers_sheets
from bench.page.sheets import group_sheets, memory_sheets, number
from bench.page.told import told
from bench.report import read_suites, write_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
BREAKOUT = "</script><script>boom()</script><!--<script> ]]> \u2028 <img src=x onerror=boom()> \" ' javascript:boom() {{ 7 * 7 }}"


def part(about: str, verdict: Any = "holds", **more: Any) -> Part:
    return Part(about=about, value="1.5 [1.2, 1.9]", asked="above 1", verdict=verdict, **more)


def claim(id_: str, *parts: Part, says: str = "it `works`") -> Claim:
    return Claim(
        **{"id": id_, "says": says, "where": "table 1", "measured": "loss", "statistic": "t test", "threshold": "1"},
        needs="suite quick",
        judge=lambda evidence: parts,
    )


SOURCE = Source(path="runs/quick", command="python -m bench run quick", runs=("a-run", "another-run"))
CLAIMS = (
    claim("memory", part("counts", sources=(SOURCE,))),
    claim("memory-more", part("less", "does not hold", note=BREAKOUT)),
    claim("chance", part("seeds", None, p_for=0.4, p_against=0.6), says=BREAKOUT),
    claim("gpu"),
)


class Read(HTMLParser):
    """A page as its reader's browser takes it apart."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._at = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._at = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._at = ""

    def handle_data(self, data: str) -> None:
        if self._at in self.inside:
            self.inside[self._at][-1] += data
        else:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def evidence(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inside["script"][1])
        return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = save(tmp_path_factory.mktemp("results"), comparison())
    write_report(results)
    return results


@pytest.fixture(scope="module")
def published() -> str:
    return page(RESULTS)


@pytest.fixture(scope="module")
def origins() -> list[Origin]:
    suites = {suite: groups(suite, records) for suite, records in read_suites(RESULTS).items()}
    sheets = [sheet for found in suites.values() for group in found for sheet in group_sheets(group)]
    return [origin for sheet in [*sheets, *memory_sheets(RESULTS), *peers_sheets(RESULTS)] for origin in sheet.all()]


def hostile(results: Path) -> Path:
    """Records whose every free text tries to become code."""
    records = []
    for one in comparison():
        environment = one.environment | {"cpu": BREAKOUT, "torch": HOSTILE, "git": {"revision": BREAKOUT, "dirty": True}}
        why = None if one.why is None else BREAKOUT
        measures = {name: m.model_copy(update={"method": BREAKOUT, "scope": HOSTILE}) for name, m in one.measures.items()}
        records.append(one.model_copy(update={"environment": environment, "why": why, "measures": measures}))
    return save(results, records)


def test_no_text_of_a_record_or_a_claim_becomes_code(tmp_path: Path) -> None:
    read = Read(page(hostile(tmp_path), CLAIMS))
    assert len(read.all("script")) == 3  # the theme, the evidence, the page's own
    assert "boom" not in read.inside["script"][0] + read.inside["script"][2] + "".join(read.inside["style"])
    assert read.all("img") == []
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "javascript:" not in (attributes.get("href") or "") + (attributes.get("src") or "")
    assert "{{ 7 * 7 }}" in "".join(read.words)  # a template is not one twice over
    assert visible(BREAKOUT) in read.evidence["words"]  # told, not left out
    assert any("</script><script>boom()</script>" in word for word in read.words)


def test_the_evidence_cannot_end_its_element_nor_open_another(tmp_path: Path) -> None:
    content = page(hostile(tmp_path), CLAIMS)
    block = re.search(r'<script type="application/json" id="evidence">(.*?)</script>', content, re.S)
    assert block is not None
    assert not set("<>&\u2028\u2029") & set(block[1])


def test_a_hostile_figure_is_left_with_its_shapes(tmp_path: Path) -> None:
    figure = tmp_path / "a.svg"
    figure.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 10" onload="boom()">'
        "<script>boom()</script><style>*{background:url(http://a.b/c)}</style><foreignObject><b>boom</b></foreignObject>"
        '<a xlink:href="javascript:boom()"><path d="M 0 0 L 1 1"/></a><image xlink:href="http://a.b/c.png"/>'
        '<use xlink:href="http://a.b/c#d"/><use xlink:href="#nowhere"/><rect x="1" y="boom" width="2" height="3" onclick="boom()"/>'
        '<path d="M 1.26 2 L 3 4 boom()" style="fill: #0072B2; background: url(http://a.b/c); stroke: url(#x)"/></svg>'
    )
    drawn = Shapes().drawn(figure, '"><script>boom()</script>')
    assert [tag for tag, _ in Read(drawn).elements] == ["svg", "rect", "path"]
    assert "boom" not in drawn.replace("&gt;&lt;script&gt;boom()", "")
    assert "http" not in drawn
    assert re.search(r'd="M1\.3 2L3 4[a-zA-Z]?"', drawn)  # letters may be commands, nothing else is kept


SVG = '<svg xmlns="http://www.w3.org/2000/svg"'


@pytest.mark.parametrize(
    "content",
    [
        *("", "<svg", "<html/>", f"{SVG}/>", "<a>" * 5000, f'{SVG} viewBox="0 0 1 1"/>more'),
        f'{SVG} viewBox="0 0 1 1">{"<g>" * 2000}<path d="M 0 0"/>{"</g>" * 2000}</svg>',
        f'{SVG} viewBox="0 0 1 1"><defs><clipPath id="a">{"<g>" * 100_000}{"</g>" * 100_000}</clipPath></defs></svg>',
    ],
)
def test_a_damaged_figure_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.svg").write_text(content)
    with pytest.raises(UserError, match=r"a\.svg: damaged figure .*python -m bench report"):
        Shapes().drawn(tmp_path / "a.svg", "a figure")


def test_a_path_drawn_step_by_step_ends_where_it_did(tmp_path: Path) -> None:
    """Rounded steps must not add up to a drift."""
    points = [(0.37 * index, 50 + 49 * math.sin(index / 7)) for index in range(400)]
    path = "M " + " L ".join(f"{x} {y}" for x, y in points)
    (tmp_path / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 100"><path d="{path}"/></svg>')
    drawn = Shapes().drawn(tmp_path / "a.svg", "a line")
    start, steps = re.search(r'd="M([^l]*)l([^"]*)"', drawn).groups()  # type: ignore[union-attr]
    numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", f"{start} {steps}")]
    at = [0.0, 0.0]
    for index, (dx, dy) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        at = [at[0] + dx, at[1] + dy]
        assert at == pytest.approx(points[index], abs=0.051)
    assert index == 399


def test_the_same_records_give_the_same_page(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.sha256(page(written, ()).encode()).hexdigest()
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(sorted(glob(self, pattern), reverse=True)))
    assert hashlib.sha256(page(written, ()).encode()).hexdigest() == expected
    code = "import hashlib, pathlib, sys; from bench.page.page import page; "
    code += "print(hashlib.sha256(page(pathlib.Path(sys.argv[1]), ()).encode()).hexdigest())"
    again = subprocess.run(
        [sys.executable, "-c", code, str(written)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip() == expected, again.stderr


def test_the_published_page_is_small_and_asks_for_nothing(published: str) -> None:
    assert len(published.encode()) < MOST_BYTES
    read = Read(published)
    for tag, attributes in read.elements:
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href", "background"):
            assert re.match(r"#|data:,|data:image/png;base64,", attributes.get(name) or "#"), (tag, name)
        for value in attributes.values():
            assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", value or ""))
    assert [link["rel"] for link in read.all("link")] == ["icon"]
    assert not re.search(r"url\(|@import|@font-face", "".join(read.inside["style"]))
    own = read.inside["script"][0] + read.inside["script"][2]
    assert not re.search(
        r"fetch|XMLHttp|import\s*\(|WebSocket|EventSource|sendBeacon|Worker|location|innerHTML|eval|document\.write", own
    )


def test_the_policy_allows_the_page_s_own_code_and_nothing_else(published: str) -> None:
    read = Read(published)
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = {rule.split()[0]: rule.split()[1:] for rule in (policy or "").split("; ")}

    def digest(code: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"

    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [digest(read.inside["script"][0]), digest(read.inside["script"][2])]
    assert rules["style-src"] == [digest(read.inside["style"][0])]
    assert rules["img-src"] == ["data:"]
    assert not [tag for tag, attributes in read.elements if "style" in attributes]


def test_every_figure_is_on_the_page_and_says_what_it_draws(published: str) -> None:
    files = [svg for folder in ("figures/*", "memory", "claims") for svg in RESULTS.glob(f"{folder}/*.svg")]
    drawings = [one for one in Read(published).all("svg") if one.get("role") == "img"]
    labels = [one["aria-label"] or "" for one in drawings]
    assert len(drawings) == len(files) > 20
    assert min(map(len, labels)) > 80
    assert len(set(labels)) > 0.6 * len(labels)  # comparisons of two suites may share name and models
    assert not [label for label in labels if "{" in label]
    known = re.findall(r'<(?:path|g|clipPath) id="(d\d+)"', published)
    used = re.findall(r'href="#(d\d+)"|url\(#(d\d+)\)', published)
    assert len(known) == len(set(known))
    assert {one or other for one, other in used} == set(known)


def test_every_cell_s_evidence_exists_and_is_of_that_cell(published: str, origins: list[Origin]) -> None:
    read = Read(published)
    evidence = read.evidence
    keys = {int(cell["data-e"] or -1) for cell in read.all("td") if "data-e" in cell}
    assert keys == set(range(len(evidence["cells"])))
    by_address = {origin.address: as_data(origin) for origin in reversed(origins)}
    words = evidence["words"]
    seen = set()
    for cell in evidence["cells"]:
        address = "/".join(words[word] for word in cell[:4])
        expected = by_address[address]
        seen.add(address)
        told_of = [words[word] for word in cell[4:9]]
        assert told_of == [expected[name] for name in ("shown", "shown_unit", "unit", "statistic", "command")]
        estimate = expected["estimate"] and [expected["estimate"][name] for name in ("mean", "low", "high", "n")]
        assert (cell[9] or None) == estimate
        readings = [cell[10][place : place + 4] for place in range(0, len(cell[10]), 4)]
        assert [(words[about], words[value[0]] if isinstance(value, list) else value, words[run], words[why])
                for about, value, run, why in readings] == [
            (one["about"], one["value"], one["run"], one["why"]) for one in expected["readings"]
        ]  # fmt: skip
    assert seen == set(by_address)


def test_every_cell_of_a_suite_s_tables_has_evidence_but_names_and_yardsticks(written: Path) -> None:
    for group in groups("quick", read_suites(written)["quick"]):
        for sheet in group_sheets(group):
            for entries, line in zip(sheet.table.rows, sheet.origins, strict=True):
                assert len(entries) == len(line)
                if entries[0].text not in ("(chance)", "(optimum)"):
                    assert line[-1] is not None
                    assert line[0] is None


def test_tables_have_captions_and_every_row_and_column_a_head(published: str) -> None:
    read = Read(published)
    tables = len(read.all("table"))
    assert tables == len(read.all("caption")) > 20
    scopes = [head.get("scope") for head in read.all("th")]
    assert set(scopes) == {"row", "col"}
    rows = len(read.all("tr")) - len(read.all("thead"))
    assert scopes.count("row") == rows
    assert read.all("html")[0]["lang"] == "en"
    headings = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(link["href"] or "")[1:] for link in read.all("a")} <= set(ids)


def test_the_evidence_is_that_of_the_files(origins: list[Origin]) -> None:
    """Means and values anew from the JSON files, by other arithmetic."""
    checked = 0
    for origin in origins:
        if origin.suite != "smoke" or origin.column != "loss" or ":" in origin.group:
            continue
        files = [json.loads((RESULTS / "runs" / "smoke" / f"{one.run}.json").read_text()) for one in origin.readings]
        values = [file["measures"]["test_loss"]["value"] for file in files]
        assert [one.value for one in origin.readings] == values
        assert {file["spec"]["label"] for file in files} == {origin.row}
        assert origin.value == pytest.approx(math.prod(values) ** (1 / len(values)))
        assert origin.methods == ((files[0]["measures"]["test_loss"]["method"], files[0]["measures"]["test_loss"]["scope"]),)
        checked += 1
    assert checked >= 8


def test_cells_of_other_tables_are_made_of_their_own_lines(origins: list[Origin]) -> None:
    by_address = {origin.address: origin for origin in origins}
    record = json.loads((RESULTS / "memory" / "paper.json").read_text())
    row = next(row for row in record["rows"] if row["label"] == "DEQ-TrellisNet")
    core = by_address["memory/paper/DEQ-TrellisNet/core"]
    assert core.value == row["readings"]["core"]
    assert [one.value for one in core.readings] == [row["readings"]["core"]]
    history = by_address["memory/phases/DEQ-TrellisNet, backward solve/solver history"]
    assert history.value == row["steps"]["core"]["phases"]["backward solve"]["solver history"]
    for origin in origins:
        if origin.group.endswith(": depth") and origin.column == "greatest depth":
            assert origin.value == origin.readings[-1].value
            assert origin.readings[-1].about.startswith("depth ")


def test_a_failed_run_is_told_and_does_not_count(written: Path) -> None:
    found = find(written, "quick/copy T30/LSTM/loss")
    assert isinstance(found, Origin)
    assert found.estimate is not None
    assert found.estimate.n == 2
    assert [one.value is None for one in found.readings] == [False, False, True]
    assert found.readings[2].why == f"oom: {HOSTILE}"
    lost = find(written, "quick/copy T30/GRU/loss")
    assert isinstance(lost, Origin)
    assert lost.estimate is None
    assert lost.value is None
    assert lost.shown == "—"


def test_addresses_are_each_of_one_cell(origins: list[Origin]) -> None:
    by_address: dict[str, Origin] = {}
    for origin in origins:
        assert by_address.setdefault(origin.address.casefold(), origin) == origin


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
    found = find(written, asked, ())
    assert isinstance(found, Origin)
    assert found.address == answered


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("quick/copy T30/LTSM/loss", "unknown row 'LTSM'; did you mean 'LSTM'\\? Allowed: DEQ \\(Anderson\\)"),
        ("quick/copy T30/LSTM/los t", "unknown column 'los t'; did you mean"),
        ("quick/copy T30/DEQ/loss", "row 'DEQ' is the beginning of 2: DEQ \\(Anderson\\), DEQ \\(Broyden\\)"),
        ("quik/copy T30/LSTM/loss", "unknown suite 'quik'; did you mean 'quick'\\?"),
        ("quick/paste/LSTM/loss", "unknown group 'paste'.* Allowed: copy T30"),
        ("quick/copy T30", "a cell is suite/group/row/column.*groups: copy T30"),
        ("quick//LSTM/loss", "a cell is suite/group/row/column"),
        ("memory-les", "unknown claim 'memory-les'; did you mean 'memory-more'\\?|did you mean"),
        ("mem", "claim 'mem' is the beginning of 2: memory, memory-more"),
        ("", "is the beginning of 4"),
    ],
)
def test_a_wrong_address_is_told_what_there_is(written: Path, asked: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find(written, asked, CLAIMS)


def test_without_records_or_claims_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records"):
        page(tmp_path, ())
    with pytest.raises(UserError, match="no records below"):
        find(tmp_path, "smoke/a/b/c")
    assert "nothing is judged" in page(save(tmp_path, [record("LSTM", 0), record("LSTM", 1)]), ())


@pytest.mark.parametrize(
    ("file", "content"),
    [("memory/paper.json", "{}"), ("memory/paper.json", '{"rows": [{}]}'), ("peers/peers.json", "{}"), ("peers/peers.json", "[")],
)
def test_a_damaged_record_beside_the_suites_is_named_and_hides_no_suite(tmp_path: Path, file: str, content: str) -> None:
    save(tmp_path, [record("LSTM", 0), record("LSTM", 1)])
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=file):
        page(tmp_path, ())
    with pytest.raises(UserError, match=file):
        find(tmp_path, f"{file.split('/')[0]}/a/b/c")
    assert isinstance(find(tmp_path, "quick/copy T30/LSTM/loss"), Origin)


def test_a_claim_s_verdict_parts_and_sources_are_on_the_page_and_in_the_terminal(written: Path) -> None:
    words = "".join(Read(page(written, CLAIMS)).words)
    assert "Of 4 claims of the paper" in words
    assert "1 holds, 1 does not hold, 1 is inconclusive and 1 is not tested" in words
    assert "python -m bench explain memory" in words
    assert "another-run" in words
    found = find(written, "memory", CLAIMS)
    assert not isinstance(found, Origin)
    said = told(found)
    for expected in ("holds: 1 of 1 hold", "1.5 [1.2, 1.9]", "above 1", "runs/quick", "a-run", "python -m bench run quick"):
        assert expected in said
    assert json.loads(json.dumps(found.as_data()))["parts"][0]["sources"] == [
        {"path": "runs/quick", "command": "python -m bench run quick", "runs": ["a-run", "another-run"]}
    ]


def test_the_terminal_gets_no_control_characters_and_all_values(written: Path, tmp_path: Path) -> None:
    bell = [one.model_copy(update={"why": "\x1b[2J\x07gone\r\nmore"}) if one.why else one for one in comparison()]
    said = told(find(save(tmp_path, bell), "quick/copy T30/LSTM/loss"))
    assert not [character for character in said if ord(character) < 32 and character != "\n"]
    assert r"oom: \x1b[2J\x07gone more" in said
    for one in read_suites(written)["quick"]:
        if one.spec.label == "LSTM" and one.spec.role == "final":
            assert one.run_id in said


def test_the_commands_work_from_a_shell(written: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "deep" / "report.html"
    made = runner.invoke(app, ["page", "--results", str(written), "--out", str(out), "--json"])
    assert json.loads(made.stdout) == {"file": str(out), "bytes": out.stat().st_size}
    made = runner.invoke(app, ["explain", "quick/copy T30/LSTM/loss", "--results", str(written), "--json"])
    found = find(written, "quick/copy T30/LSTM/loss")
    assert isinstance(found, Origin)
    assert json.loads(made.stdout) == as_data(found)
    assert runner.invoke(app, ["explain", "quick/copy T30/LSTM/loss", "--results", str(written)]).stdout == told(found)


def test_the_command_of_a_row_runs_that_row_alone() -> None:
    from bench.suite_loading import load_suite

    _, entries = load_suite("smoke", {})
    rows = [(entry.group, label) for entry in entries for label in entry.rows]  # type: ignore[union-attr]
    found = groups("smoke", read_suites(RESULTS)["smoke"])
    for group in found:
        for row in group.rows:
            words = shlex.split(command("smoke", row.finals))
            assert words[:5] == ["python", "-m", "bench", "run", "smoke"]
            only = words[words.index("--only") + 1].lower()
            mine = [pair for pair in rows if any(fnmatchcase(n.lower(), only) for n in (*pair, "/".join(pair)))]
            assert mine == [(group.name, row.finals[0].spec.label)]
            assert words[words.index("--seeds") + 1] == ",".join(str(one.spec.seed) for one in row.finals)
            assert words[-2:] == ["--results", "results/reproduced"]


def test_table_1_opens_the_runs_that_stand_beside_what_is_printed(tmp_path: Path) -> None:
    runs = [record(label, seed, suite="copy") for label in ("LSTM", "GRU") for seed in range(3)]
    results = save(tmp_path / "results", runs)
    write_report(results)
    found = find(results, "copy/copy T30: table-1/LSTM/measured")
    assert isinstance(found, Origin)
    assert [(r.about, r.value, r.run) for r in found.readings] == [
        (f"seed {one.spec.seed}", one.value("test_loss"), one.run_id) for one in runs if one.spec.label == "LSTM"
    ]
    assert found.command.startswith("python -m bench run copy --only")
    printed = find(results, "copy/copy T30: table-1/GRU/paper: loss")
    assert isinstance(printed, Origin)
    assert (printed.shown, printed.statistic, printed.readings) == ("0.0491", "printed in the paper: not measured here", ())
    assert "Table 1 of the paper, and ours" in "".join(Read(page(results)).words)


def test_measures_that_no_table_shows_can_be_explained(written: Path) -> None:
    group = groups("quick", read_suites(written)["quick"])[0]
    also = {origin.also for origin in unshown(group)}
    assert {"valid_loss", "forward_flops", "energy_J"} <= also
    assert "test_loss" not in also


@pytest.mark.parametrize(
    ("shown", "value"),
    [("1,234.5 [1, 2]", 1234.5), ("never", math.inf), ("—", None), ("-0.3 x", -0.3), ("6e-09", 6e-9), ("", None)],
)
def test_a_text_is_sorted_by_the_number_it_begins_with(shown: str, value: float | None) -> None:
    assert number(shown) == value


def test_colours_on_dark_keep_their_order_and_can_be_told_from_the_ground() -> None:
    ground = "#15171a"
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    hues = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#00446b", "#803800", "#005f45", "#f1ca73")
    for colour in hues:
        assert text(*parse(colour)) == colour
        assert contrast(on_dark(colour), ground) > 3.5
    lightness = sorted(hues, key=lambda colour: oklab(colour)[0])
    assert lightness == sorted(hues, key=lambda colour: oklab(on_dark(colour))[0])
    for grey in ("#000000", "#444444", "#555555"):  # letters
        assert contrast(on_dark(grey), ground) >= 4.5
    assert contrast(on_dark("#e4e4e4"), ground) < 1.4  # a grid stays a grid


# In a browser


@pytest.fixture(scope="module")
def browser(published: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser import Served, chromium

    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(published, encoding="utf-8")
    served = Served(folder)
    try:
        with chromium(tmp_path_factory.mktemp("chromium")) as driver:
            driver.served = served
            yield driver
    finally:
        served.close()


def opened(browser: Any, width: int = 1400, dark: bool = False, media: str = "", scripts: bool = True) -> Any:
    """The page, fresh, as a screen of that width or as paper; what the tests call `$` finds the first table of scores."""
    run = browser.execute_cdp_cmd
    run("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    run("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    run("Emulation.setEmulatedMedia", {"media": media, "features": [theme]})
    browser.get(browser.served.address("report.html"))
    return browser


COLUMN = """
const table = document.querySelector('.comparison table.grid');
const place = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.startsWith('loss'));
const body = table.tBodies[table.tBodies.length - 1];
"""


def column(browser: Any) -> tuple[list[float | None], list[str], str]:
    values, labels, sort = browser.execute_script(
        COLUMN
        + """
        const rows = [...body.rows];
        return [
            rows.map((row) => row.cells[place].dataset.v ?? null),
            rows.map((row) => row.cells[0].textContent),
            table.tHead.rows[0].cells[place].getAttribute('aria-sort'),
        ];
        """
    )
    return [None if value is None else float(value) for value in values], labels, sort


def test_a_click_and_a_key_sort_a_column_both_ways(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser)
    head = browser.execute_script(COLUMN + "return table.tHead.rows[0].cells[place].querySelector('button')")
    before = column(browser)
    head.click()
    values, labels, sort = column(browser)
    assert sort == "ascending"
    assert [v for v in values if v is not None] == sorted(v for v in before[0] if v is not None)
    assert sorted(labels) == sorted(before[1])
    assert dict(zip(labels, values, strict=True)) == dict(zip(before[1], before[0], strict=True))  # rows move whole
    head.send_keys(Keys.ENTER)
    values, _, sort = column(browser)
    assert sort == "descending"
    assert [v for v in values if v is not None] == sorted((v for v in before[0] if v is not None), reverse=True)
    head.send_keys(Keys.SPACE)
    assert column(browser)[:2] == before[:2]
    name = browser.execute_script("return document.querySelector('.comparison thead button')")
    name.click()
    labels = column(browser)[1]
    assert labels == sorted(
        labels, key=lambda label: [int(p) if p.isdigit() else p.casefold() for p in re.findall(r"\d+|\D+", label)]
    )


def test_rows_without_a_value_stay_last_and_yardsticks_first(browser: Any) -> None:
    opened(browser)
    found = browser.execute_script(
        """
        const cell = [...document.querySelectorAll('.comparison table.grid tbody:last-child td[data-e]')]
            .find((one) => one.dataset.v === undefined && [...one.closest('table').querySelectorAll('td')]
                .some((other) => other.cellIndex === one.cellIndex && other.dataset.v));
        const table = cell.closest('table'), place = cell.cellIndex;
        const press = table.tHead.rows[0].cells[place].querySelector('button');
        const orders = [];
        for (let time = 0; time < 2; time++) {
            press.click();
            orders.push([...table.tBodies[table.tBodies.length - 1].rows].map((row) => row.cells[place].dataset.v !== undefined));
        }
        const fixed = document.querySelector('.comparison tbody.fixed');
        return [orders, fixed.nextElementSibling.tagName, fixed.rows[0].cells[0].textContent];
        """
    )
    for order in found[0]:
        assert order == sorted(order, reverse=True)
        assert False in order
    assert found[1:] == ["TBODY", "(chance)"]


def test_a_cell_opens_its_evidence_by_key_and_escape_gives_the_focus_back(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser)
    press = browser.execute_script(COLUMN + "return body.rows[0].cells[place].querySelector('button')")
    shown, row = press.text, browser.execute_script(COLUMN + "return body.rows[0].cells[0].textContent")
    press.send_keys(Keys.ENTER)
    panel = browser.execute_script("return document.querySelector('dialog[open]')")
    said = panel.text
    assert f"loss · {row}" in said
    assert shown in said
    for expected in ("Statistic", "Method", "Scope", "seed 0", "python -m bench run", "python -m bench explain"):
        assert expected in said
    runs = re.findall(r"-s\d-[0-9a-f]{12}-[0-9a-f]{12}", said)
    assert len(runs) >= 3
    assert browser.execute_script("return document.activeElement.closest('dialog') !== null")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.execute_script("return document.querySelector('dialog[open]')") is None
    assert browser.execute_script("return document.activeElement === arguments[0]", press)


def test_the_panels_of_cells_of_every_kind_can_be_opened(browser: Any) -> None:
    """Every hundredth cell: a panel over so large a page takes a tenth of a second."""
    opened(browser)
    count = browser.execute_script(
        """
        const panel = document.getElementById('evidence-panel');
        let count = 0;
        const cells = [...document.querySelectorAll('td[data-e] button')].filter((_, place) => place % 100 === 0);
        for (const press of cells) {
            press.click();
            const text = panel.querySelector('.figure').textContent.trim();
            if (!panel.open || !text.startsWith(press.textContent.trim()) || /undefined|NaN|object/.test(panel.textContent)) {
                return press.closest('table').caption.textContent + ': ' + panel.textContent;
            }
            panel.close();
            count++;
        }
        return count;
        """
    )
    assert isinstance(count, int), count
    assert count > 20


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(browser: Any) -> None:
    from browser import requested

    browser.served.asked.clear()
    requested(browser)
    browser.get_log("browser")
    opened(browser)
    browser.execute_script("document.getElementById('expand').click(); document.getElementById('theme').click()")
    browser.execute_script("document.querySelector('td[data-e] button').click(); scrollTo(0, document.body.scrollHeight)")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert requested(browser) == [browser.served.address("report.html")]
    assert browser.served.asked == ["/report.html"]
    assert browser.get_log("browser") == []
    browser.execute_script("localStorage.clear()")


_COLOURS = """
for (const fold of document.querySelectorAll('details')) fold.open = true;
document.querySelector('td[data-e] button').click();
const clear = 'rgba(0, 0, 0, 0)', pairs = {};
for (const element of document.querySelectorAll('body *')) {
    const words = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!words || element.closest('svg, script, .skip')) continue;
    let ground = element;
    while (ground && getComputedStyle(ground).backgroundColor === clear) ground = ground.parentElement;
    pairs[getComputedStyle(element).color + '|' + getComputedStyle(ground).backgroundColor] = element.className || element.tagName;
}
return pairs;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_contrast_in_both_themes(browser: Any, dark: bool) -> None:
    opened(browser, dark=dark)
    pairs = browser.execute_script(_COLOURS)
    assert len(pairs) >= 4

    def hexadecimal(colour: str) -> str:
        red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
        return f"#{red:02x}{green:02x}{blue:02x}"

    low = {}
    for pair, where in pairs.items():
        front, ground = map(hexadecimal, pair.split("|"))
        if contrast(front, ground) < 4.5:
            low[where] = (front, ground, contrast(front, ground))
    assert low == {}
    surface = hexadecimal(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (contrast(surface, "#ffffff") > 10) == dark


def test_a_chosen_theme_is_remembered_and_wins_over_the_system_s(browser: Any) -> None:
    opened(browser)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    browser.find_element("id", "theme").click()
    dark = browser.execute_script(ground)
    assert dark != light
    opened(browser)
    assert browser.execute_script(ground) == dark
    assert browser.find_element("id", "theme").get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return getComputedStyle(document.documentElement).colorScheme") == "dark"
    browser.execute_script("localStorage.clear()")
    opened(browser)
    assert browser.execute_script(ground) == light


def test_it_works_where_there_is_no_storage(browser: Any) -> None:
    run = browser.execute_cdp_cmd
    source = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    added = run("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        browser.get_log("browser")
        opened(browser)
        browser.find_element("id", "theme").click()
        assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
        assert browser.get_log("browser") == []
    finally:
        run("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


def test_a_phone_scrolls_tables_in_their_own_box_with_the_models_in_sight(browser: Any) -> None:
    opened(browser, width=390)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) <= 390
    browser.execute_script("document.getElementById('expand').click()")
    assert browser.execute_script(wide) <= 390
    left, box, moved = browser.execute_script(
        """
        const box = document.querySelector('.comparison .scroll');
        box.scrollLeft = 150;
        const head = box.querySelector('tbody th');
        return [head.getBoundingClientRect().left, box.getBoundingClientRect().left, box.scrollLeft];
        """
    )
    assert moved == 150
    assert left == pytest.approx(box, abs=1)


def test_paper_gets_everything_that_is_folded_and_no_buttons(browser: Any) -> None:
    opened(browser, dark=True, media="print")
    seen = browser.execute_script(
        """
        const shown = (element) => element.getClientRects().length > 0 && element.checkVisibility({ contentVisibilityAuto: true });
        return {
            tools: shown(document.querySelector('.tools')),
            contents: shown(document.querySelector('.contents')),
            folded: [...document.querySelectorAll('details.fold:not(.ids) table')].every(shown),
            claims: [...document.querySelectorAll('.claim dl')].every(shown),
            underline: getComputedStyle(document.querySelector('td[data-e] button')).borderBottomStyle,
            ground: getComputedStyle(document.body).backgroundColor,
        };
        """
    )
    red = int(re.findall(r"\d+", seen.pop("ground"))[0])
    assert red > 240
    assert seen == {"tools": False, "contents": False, "folded": True, "claims": True, "underline": "none"}


def test_without_scripts_verdicts_and_tables_are_there(browser: Any) -> None:
    opened(browser, scripts=False)
    try:
        text = browser.find_element("tag name", "main").text
        assert "Verdicts on the paper" in text
        assert "scores on the test split" in text
        assert browser.find_elements("css selector", "main button") == []
        assert not browser.find_element("css selector", ".tools").is_displayed()
        assert browser.find_element("css selector", ".comparison td[data-e]").is_displayed()
    finally:
        opened(browser)


def test_the_first_stop_of_a_keyboard_skips_to_the_verdicts_and_focus_can_be_seen(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser)
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.get_attribute("href").endswith("#main")
    assert first.location["x"] >= 0
    first.send_keys(Keys.TAB)
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
