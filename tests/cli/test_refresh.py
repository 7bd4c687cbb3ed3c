"""Guide and sentences in the page of a results folder are those of the last call of `claims`."""

from pathlib import Path

from bench.cli.report import _refresh

GUIDE = "| when | use |\n|:--|:--|\n| a | b |\n\nA caption.\n"
TABLE = "| when | use |\n|:--|:--|\n| a | b |\n"


def test_the_table_below_the_mark_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "# Findings\n\n<!-- claims/guide.md -->\n\n| when | use |\n|:--|:--|\n| old | one |\n\n## More\n\n| x |\n", encoding="utf-8"
    )
    for _ in range(2):  # a second call changes nothing
        _refresh(page, "guide", GUIDE)
        assert page.read_text(encoding="utf-8") == f"# Findings\n\n<!-- claims/guide.md -->\n\n{TABLE}\n## More\n\n| x |\n"


def test_a_page_without_the_mark_and_a_missing_one_stay(tmp_path: Path) -> None:
    _refresh(tmp_path / "README.md", "guide", GUIDE)
    assert not (tmp_path / "README.md").exists()
    (tmp_path / "README.md").write_text("mine\n")
    _refresh(tmp_path / "README.md", "guide", GUIDE)
    assert (tmp_path / "README.md").read_text() == "mine\n"
