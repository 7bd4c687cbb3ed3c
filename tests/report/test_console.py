"""Tables of the terminal fit it."""

import pytest

from bench.report.console import text_table

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


def test_numbers_are_never_cut() -> None:
    numbers = [[str(10**12 + n) for n in range(9)]]
    assert text_table(["n"] * 9, numbers, (), 40).split()[-9:] == numbers[0]
