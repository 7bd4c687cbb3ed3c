"""The documents agree with the repository: links, tables, numbers, make targets, commands and paths."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.cli.main import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "results/README.md")
FINDINGS = ("README.md", "results/README.md")
LINK = re.compile(r"\]\(((?!https?:)[^)#]*)(#[^)]*)?\)")
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e-?\d+)?")


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def paragraphs(name: str) -> Iterator[str]:
    """Bullets, and blocks between empty lines."""
    yield from re.split(r"\n\n|\n(?=- )", text_of(ROOT / name))


def leaves(value: Any) -> Iterator[float]:
    """The numbers in JSON."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, float):
        yield value


@cache
def rounded(path: Path, digits: int) -> frozenset[str]:
    return frozenset(f"{value:.{digits}f}" for value in leaves(json.loads(text_of(path))))


def stands_in(number: str, path: Path) -> bool:
    if path.suffix == ".json":
        return number in rounded(path, len(number.partition(".")[2]))
    return path.suffix == ".md" and re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", text_of(path)) is not None


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target, anchor in LINK.findall(text_of(ROOT / name)):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(path), re.M)
            assert anchor[1:] in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("name", FINDINGS)
def test_every_decimal_in_a_finding_stands_in_a_file_that_it_links_to(name: str) -> None:
    checked = 0
    for paragraph in paragraphs(name):
        files = [(ROOT / name).parent / target for target, _ in LINK.findall(paragraph) if target]
        numbers = NUMBER.findall(paragraph) if paragraph.startswith("- ") else []
        checked += len(numbers)
        assert [number for number in numbers if not any(stands_in(number, file) for file in files)] == [], paragraph
    assert checked > 10


def test_every_table_in_the_readmes_stands_in_results() -> None:
    for document in FINDINGS:
        pattern = r"<!-- ((?:tables|peers|memory|claims)/[\w/.-]+\.md) -->\n\n((?:\|.*\n)+)\n"
        shown = re.findall(pattern, text_of(ROOT / document))
        assert shown
        for name, table in shown:
            assert table in text_of(ROOT / "results" / name)


def test_the_readme_counts_the_verdicts() -> None:
    table = text_of(ROOT / "results" / "claims" / "claims.md")
    words = ("holds", "does not hold", "inconclusive", "cannot tell")
    holds, fails, undecided, unknown = (table.count(f"| **{verdict}** |") for verdict in words)
    readme = " ".join(text_of(ROOT / "README.md").split())
    total = holds + fails + undecided + unknown
    decided = f"of the paper's {total} claims {holds} hold here, {fails} do not, {undecided} are inconclusive, "
    assert f"{decided}and {unknown} cannot be judged" in readme


def test_every_make_target_is_documented_and_every_documented_one_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", text_of(ROOT / "Makefile"), re.M)) - {"help"}
    readme = text_of(ROOT / "README.md")
    rows = readme.partition("| make |")[2].partition("\n\n")[0].splitlines()[2:]
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])} == targets
    for name in DOCUMENTS:
        assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)\b", "\n".join(commands(name)))) <= targets | {"help"}


def commands(name: str) -> list[str]:
    """Indented lines and inline code."""
    text = text_of(ROOT / name)
    return re.findall(r"^ {4}(.*)$", text, re.M) + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_and_option_exists(name: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in commands(name):
        found = re.search(r"(?:python -m bench|deq-bench) ([a-z]+)(.*)", line)
        if found:
            assert found[1] in known, line
            options = {option for parameter in known[found[1]].params for option in parameter.opts}
            sub = getattr(known[found[1]], "commands", {})
            options |= {option for command in sub.values() for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"(?<= )--[a-z-]+", found[2].partition(" #")[0])) <= options, line


def test_the_readme_lists_every_command() -> None:
    rows = text_of(ROOT / "README.md").partition("| command |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = {name for row in rows for name in re.findall(r"`([a-z]+)[^`]*`", row.split("|")[1])}
    assert listed == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_path_in_the_guide_exists() -> None:
    for line in re.findall(r"`([^`\n]+)`", text_of(ROOT / "CONTRIBUTING.md")):
        if re.fullmatch(r"(?:bench|deq|baselines|tests|results)/[\w/.-]*", line):
            assert (ROOT / line).exists(), line


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_ends_with_an_empty_line(name: str) -> None:
    """Else the next line becomes one of its rows."""
    lines = text_of(ROOT / name).split("\n")
    assert {lines[n + 1] for n, line in enumerate(lines) if line.startswith("|") and not lines[n + 1].startswith("|")} <= {""}
