"""The published records do not contradict themselves."""

from pathlib import Path

from bench.records.record import Record, read_record

RESULTS = Path(__file__).resolve().parents[2] / "results"
# What cannot be larger than the other.
PAIRS = (
    ("saved_bytes", "peak_live_bytes"),
    ("held_bytes", "peak_live_bytes"),
    ("forward_flops", "train_step_flops"),
    ("step_ms_p10", "step_ms_median"),
    ("step_ms_median", "step_ms_p90"),
    ("parameters_nonembedding", "parameters_total"),
)


def contradictions(record: Record) -> list[str]:
    values = [(record.value(less), record.value(more), f"{less} > {more}") for less, more in PAIRS]
    return [about for less, more, about in values if less is not None and more is not None and less > more]


def test_no_part_of_a_step_is_larger_than_the_whole() -> None:
    records = {path.name: read_record(path) for path in RESULTS.rglob("runs/*/*.json")}
    assert len(records) > 500
    assert {name: found for name, record in records.items() if (found := contradictions(record))} == {}
