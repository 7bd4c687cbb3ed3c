"""Parameter counts of the paper's models: within 3 % of the printed ones or explained, and equal to closed forms."""

import json

import pytest

from bench.__main__ import params
from bench.execution.parameter_table import WITHIN, ParameterCount, count_model, count_suite
from bench.records.spec import ComponentConfig
from bench.suites.paper import PRINTED, SPECS

ROWS = {(row.group, row.label): row for row in count_suite("paper", {})}
WIKITEXT, PTB = "Table 3, WikiText-103", "Table 2, Penn Treebank"
V = 267_735


def test_every_row_of_the_three_tables_is_counted() -> None:
    assert [sum(row.table.startswith(f"Table {n},") for row in PRINTED) for n in (1, 2, 3)] == [4, 7, 15]
    assert len(ROWS) == len(PRINTED) == 26


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.label)
def test_a_row_is_within_three_percent_of_the_paper_or_has_a_remark(row: ParameterCount) -> None:
    assert row.agrees or row.remark
    assert "\n" not in row.remark


def test_only_the_known_rows_disagree() -> None:
    off = {row.label for row in ROWS.values() if row.total is not None and not row.agrees}
    assert off == {
        "Transformer-XL X-large, adaptive",
        "Transformer-XL medium, 18 layers, adaptive",
        "DEQ-Transformer medium, adaptive",
    }


def test_trellisnet_equals_its_closed_form() -> None:
    inputs, hidden = 400, 1400
    f = 2 * inputs * 4 * hidden + 4 * hidden + 2 * hidden * 4 * hidden
    for label in ("TrellisNet-60", "DEQ-TrellisNet"):
        row = ROWS[PTB, label]
        assert row.nonembedding == f
        assert row.total == f + 10_000 * inputs + 10_000  # one tied table and the head's bias


def test_the_deq_transformer_has_the_98_million_parameters_of_the_released_script() -> None:
    row = ROWS[WIKITEXT, "DEQ-Transformer medium, adaptive"]
    d, inner = 700, 48_000
    f = 5 * d * d + 2 * d * inner
    injection = 3 * d * d
    assert row.nonembedding == pytest.approx(f + injection, rel=2e-3)
    # Transformer-XL's code has a 700 x 700 projection of the frequent words on either side, and a bias a word.
    assert row.total + 2 * d * d + V == pytest.approx(97.8e6, rel=5e-3)


def test_lstm_and_tcn_equal_their_closed_forms() -> None:
    total, nonembedding = count_model(ComponentConfig(name="lstm", settings={"inputs": 1500, "width": 1500, "layers": 2}), 10_000)
    assert nonembedding == 2 * (4 * 1500 * 3000 + 8 * 1500)
    assert total == nonembedding + 2 * 10_000 * 1500 + 10_000
    total, _ = count_model(ComponentConfig(name="tcn", settings={"inputs": 1, "width": 10, "levels": 8, "kernel": 8}), 10)
    assert total == 12_530 + 10  # of the TCN repository, and an embedding of ten numbers for its one channel


def test_relative_error_and_agreement() -> None:
    row = ParameterCount(group="g", label="l", total=102, nonembedding=50, printed_total=100.0)
    assert row.off == (pytest.approx(0.02), None)
    assert row.agrees
    assert not ParameterCount(group="g", label="l", total=104, nonembedding=50, printed_total=100.0).agrees
    assert not ParameterCount(group="g", label="l", total=None, nonembedding=None, printed_total=100.0).agrees
    assert WITHIN == 0.03


def test_the_paper_suite_trains_every_counted_row() -> None:
    assert [(spec.group, spec.label) for spec in SPECS] == [(row.table, row.label) for row in PRINTED if row.model is not None]


def test_rows_have_the_task_and_training_of_their_scripts() -> None:
    specs = {(spec.group, spec.label): spec for spec in SPECS}
    for label in ("TrellisNet-70", "TrellisNet-70, checkpointed", "DEQ-TrellisNet"):
        spec = specs[WIKITEXT, label]
        assert spec.task.settings["length"] == 100
        assert (spec.train.batch, spec.train.learning_rate, spec.train.clip) == (49, 1e-3, 0.07)
    deq, transformer = specs[WIKITEXT, "DEQ-TrellisNet"], specs[WIKITEXT, "DEQ-Transformer medium, adaptive"]
    assert (deq.model.settings["steps"], deq.model.settings["backward_steps"]) == (45, 45)
    assert (transformer.task.settings["length"], transformer.train.batch) == (150, 56)
    assert (transformer.model.settings["steps"], transformer.model.settings["backward_steps"]) == (30, 40)


def test_every_language_model_of_the_paper_suite_has_dropout() -> None:
    for spec in SPECS:
        if not spec.group.startswith("Table 1"):
            assert spec.model.settings["input_dropout"], spec.label
            assert spec.model.settings["output_dropout"], spec.label


def test_a_row_carries_the_printed_score() -> None:
    assert ROWS[WIKITEXT, "DEQ-Transformer small"].printed_score == 32.4
    assert all(row.printed_score is not None for row in ROWS.values())


def test_the_command_prints_both_counts(capsys: pytest.CaptureFixture[str]) -> None:
    params("paper")
    line = next(line for line in capsys.readouterr().out.splitlines() if "DEQ-Transformer medium, adaptive" in line)
    assert "110M" in line
    assert "96.44M" in line
    assert "released script" in line


def test_the_command_counts_any_suite(capsys: pytest.CaptureFixture[str]) -> None:
    params("smoke", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {row["label"] for row in rows} >= {"DEQ (Anderson)", "LSTM", "GRU", "tied 12"}
    assert all(row["printed_total"] is None for row in rows)
