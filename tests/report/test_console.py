"""Tables of the terminal fit it."""

import pytest

from bench.report.console import for_terminal, text_table

HEADS = ["claim", "what the paper says", "verdict", "p"]
SAYS = "The approach does not depend on the cell: it works for self-attention and for trellis networks."
ROWS = [["memory-saved", "Memory that does not grow.", "holds", "1e-9"], ["cell", SAYS, "inconclusive", "0.04"]]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_texts_wrap_between_words_until_the_table_fits(width: int) -> None:
    lines = text_table(HEADS, ROWS, (0, 1, 2), width).splitlines()
    assert max(map(len, lines)) <= width
    assert {*" ".join(lines).split()} >= {word for row in (HEADS, *ROWS) for cell in row for word in cell.split()}


def test_a_file_gets_a_line_a_row() -> None:
    assert len(text_table(HEADS, ROWS, (0, 1, 2)).splitlines()) == 2 + len(ROWS)


def test_numbers_are_never_cut_and_what_has_no_room_is_named() -> None:
    heads, numbers = [f"head {n}" for n in range(9)], [[str(10**12 + n) for n in range(9)]]
    _, _, row, *more = text_table(heads, numbers, (), 40, "all.md").splitlines()
    assert row.split() == numbers[0][:2]
    assert " ".join(more) == "7 more columns in all.md: " + ", ".join(heads[2:])


def test_an_interval_stays_on_one_line_where_it_can() -> None:
    rows = [["DEQ", "0.123 [0.101, 0.145]", "0.123 [0.101, 0.145]"]]
    assert "[0.101, 0.145]" in text_table(["model", "loss ↓", "error ↓"], rows, (0,), 40)
    assert text_table(["model", "loss ↓", "error ↓"], rows, (0,), 30).splitlines()[-1].split() == ["0.145]", "0.145]"]


def test_words_and_indents_of_lines_are_kept() -> None:
    text = for_terminal("  1 run\nA-long-word-that-does-not-fit, and a \x1b[2J", 13)
    assert text == "  1 run\nA-long-word-that-does-not-fit,\nand a \\x1b[2J"
