"""Claims: verdicts from parts, evidence of runs, audits, the published page and the command line."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.analysis.aggregate import groups
from bench.claims import copying, judges_counts, judges_runs, tables
from bench.claims.audit import audit_table
from bench.claims.claim import Claim, Finding, Ledger, Part, judge_claims
from bench.claims.entries import CLAIMS, SUITES
from bench.claims.evidence import Evidence
from bench.claims.quotes import quoted_sentences, quotes
from bench.cli.main import app
from bench.execution.suite_loading import load_suite
from bench.records.errors import UserError
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.record import CurvePoint, Record, measured
from bench.records.side_file import MEMORY
from bench.records.spec import Comparison, ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store
from bench.report.html.lookup import find

RESULTS = Path(__file__).resolve().parents[2] / "results"
EMPTY = Evidence(Path("there-is-none"))


def part(**changes: Any) -> Part:
    return Part(**({"about": "a", "value": "1", "asked": "below 2"} | changes))


def finding(*parts: Part) -> Finding:
    text = {name: name for name in ("says", "where", "measured", "statistic", "threshold", "needs")}
    (found,) = judge_claims([Claim(id="c", judge=lambda _: list(parts), **text)], EMPTY)
    return found


# Verdicts


@pytest.mark.parametrize(("verdicts", "whole"), [
    ((), "not tested"),
    (("not tested",), "not tested"),
    (("holds", "not tested"), "holds"),
    (("holds", "inconclusive"), "inconclusive"),
    (("holds", "inconclusive", "does not hold"), "does not hold"),
    (("holds", "cannot tell", "inconclusive"), "cannot tell"),
    (("cannot tell", "does not hold"), "does not hold"),
    (("holds", "holds"), "holds"),
])  # fmt: skip
def test_a_claim_has_the_verdict_of_its_worst_part(verdicts: Sequence[Any], whole: str) -> None:
    assert finding(*(part(verdict=verdict) for verdict in verdicts)).verdict == whole


def test_a_part_against_a_claim_is_corrected_for_the_other_parts() -> None:
    alone = finding(part(p_for=0.97, p_against=0.03))
    among = finding(part(p_for=0.97, p_against=0.03), part(p_for=0.5, p_against=0.5))
    assert (alone.verdict, among.verdict) == ("does not hold", "inconclusive")
    assert among.parts[0].adjusted == 0.97  # of an inconclusive part, that of the claim


def test_the_p_of_an_inconclusive_claim_is_that_of_the_part_with_the_least_evidence_for_it() -> None:
    assert finding(part(p_for=0.2, p_against=0.8), part(p_for=0.9, p_against=0.1), part(p_for=0.01, p_against=0.99)).p == 0.9


def test_a_part_that_has_its_verdict_still_counts_in_the_correction() -> None:
    """Whether a score is admissible is known after its test: without it the others would be corrected for fewer."""
    alone = finding(part(p_for=0.97, p_against=0.03), part(verdict="inconclusive"))
    among = finding(part(p_for=0.97, p_against=0.03), part(verdict="inconclusive", p_against=0.99))
    assert (alone.verdict, among.verdict) == ("does not hold", "inconclusive")
    assert among.parts[1].adjusted is None


def test_a_part_for_a_claim_needs_no_correction() -> None:
    assert finding(part(p_for=0.03, p_against=0.97), part(p_for=0.04, p_against=0.96)).verdict == "holds"


def test_a_claims_p_is_that_of_its_verdict_and_corrected_over_the_ledger() -> None:
    text = {name: name for name in ("says", "where", "measured", "statistic", "threshold", "needs")}
    parts = {
        "holds": [part(p_for=0.01, p_against=0.99), part(p_for=0.03, p_against=0.97)],
        "fails": [part(p_for=0.99, p_against=0.002), part(p_for=0.9, p_against=0.5)],
        "open": [part(p_for=0.01, p_against=0.99), part(p_for=0.2, p_against=0.8)],
        "fact": [part(verdict="does not hold", fact=True), part(p_for=0.99, p_against=0.001)],
    }
    made = judge_claims([Claim(id=name, judge=lambda _, own=own: own, **text) for name, own in parts.items()], EMPTY)  # type: ignore[misc]
    assert [one.p for one in made] == [0.03, pytest.approx(0.004), 0.2, None]
    assert [one.ledger_p for one in made] == [pytest.approx(2 * 0.03), pytest.approx(3 * 0.004), 0.2, None]


def test_an_open_part_names_the_seeds_that_would_decide() -> None:
    (one,) = finding(part(p_for=0.2, p_against=0.8, needed=12, note="t test")).parts
    assert one.note == "t test; about 12 seeds would decide"
    (one,) = finding(part(p_for=0.01, p_against=0.99, needed=12, note="t test")).parts
    assert one.note == "t test"


def test_the_reason_counts_parts_by_verdict() -> None:
    assert finding(part(verdict="holds"), part(verdict="not tested")).reason == "1 of 2 hold, 1 of 2 not tested"
    assert finding(part(p_for=1e-9, p_against=1.0)).parts[0].decided_by == "< 1e-4"


def test_without_records_the_reason_is_what_to_run() -> None:
    found = judge_claims(CLAIMS, EMPTY)
    assert {one.verdict for one in found} == {"not tested"}
    assert all("needs" in one.reason for one in found)
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


# Evidence of runs


def record(label: str, seed: int, loss: float | None, *, role: Any = "final", trials: tuple[str, ...] = (), **more: Any) -> Record:
    name = label.lower() if label in ("LSTM", "tied") else "deq"
    train = TrainConfig(steps=more.pop("steps", 1), batch=1, learning_rate=more.pop("rate", 1e-3))
    task = ComponentConfig(name="copy", settings={"T": more.pop("T", 30)})
    model = ComponentConfig(name=name, settings={"width": 4})
    spec = RunSpec(group="g", label=label, model=model, task=task, train=train, seed=seed, role=role, trials=trials)
    identity = Identity(data=more.pop("data", "0" * 64), numerics={}, code={}, environment={})
    return Record(
        run_id=identity.run_id(spec.key),
        suite="copy",
        status="ok" if loss is not None else "diverged",
        reason=None if loss is not None else "NaN",
        spec=spec,
        identity=identity,
        metrics={"loss": Metric(unit="nats", better="lower", chance=0.5)},
        measures={"test_loss": measured(loss, "nats", "m", "s", None if loss is not None else "diverged")},
    )


def evidence(folder: Path, records: list[Record]) -> Evidence:
    for one in records:
        Store(folder).write(one)
    return Evidence(folder)


def test_runs_are_paired_by_seed_and_name_their_records(tmp_path: Path) -> None:
    deq = [record("DEQ", seed, 0.01 + seed / 1000) for seed in range(4)] + [record("DEQ", 4, None)]
    lstm = [record("LSTM", seed, 0.5) for seed in range(1, 6)]
    (made,) = judges_runs.loss_ratio(evidence(tmp_path, deq + lstm), ("copy",), [("DEQ*", "LSTM*")], high=0.1)
    assert made.note == "t test, 3 seeds"  # 1, 2 and 3: seed 4 diverged
    assert made.p_for is not None
    assert made.p_for < 1e-3
    assert set(made.sources[0].runs) == {one.run_id for one in deq + lstm}
    assert next(judges_runs.recurrent_at_chance(Evidence(tmp_path))).value == "1.00"


def test_copying_is_judged_by_the_seeds_that_copy(tmp_path: Path) -> None:
    def copies(label: str, *accuracies: float) -> list[Record]:
        made = [record(label, seed, 0.1) for seed in range(len(accuracies))]
        values = [
            one.measures | {"test_accuracy_last10": measured(x, "1", "m", "s")} for one, x in zip(made, accuracies, strict=True)
        ]
        return [one.model_copy(update={"measures": mine}) for one, mine in zip(made, values, strict=True)]

    (equal,) = judges_runs.copies_more(evidence(tmp_path / "a", copies("DEQ", 1.0, 1.0) + copies("LSTM", 1.0, 0.9995)), "LSTM")
    assert (equal.verdict, equal.fact, equal.value) == ("cannot tell", True, "2 of 2 seeds against 2 of 2 seeds")
    (more,) = judges_runs.copies_more(evidence(tmp_path / "b", copies("DEQ", *[1.0] * 4) + copies("LSTM", *[0.5] * 4)), "LSTM")
    assert (more.verdict, more.p_for) == (None, pytest.approx(1 / 70))  # of the 8 over 4 ways to choose who copies
    assert more.p_against == 1.0


@pytest.mark.parametrize(
    ("printed", "verdicts"), [((6.8, 1.1), ["holds", "cannot tell"]), ((8.0, 4.0), ["does not hold", "does not hold"])]
)
def test_a_reading_that_misses_the_printed_figures_decides_nothing(
    printed: tuple[float, float], verdicts: list[str], tmp_path: Path
) -> None:
    labels = ("Transformer-XL small, weight-tied 16 layers", "DEQ-Transformer small")
    rows = [
        {"label": label, "printed_gb": gb, "readings": {"core": size * 2**30}}
        for label, gb, size in zip(labels, printed, (8.0, 4.0), strict=True)
    ]
    found = Evidence(tmp_path)
    found.__dict__["memory"] = {"rows": rows}
    parts = list(judges_counts.reduction(found, "over 80 % less than weight-tied networks"))
    assert [one.verdict for one in parts] == verdicts
    assert parts[1].value == "50 % less"


def test_table_1_with_our_measurements_and_verdicts(tmp_path: Path) -> None:
    losses = {
        "DEQ-Transformer": (1e-6, 1.2e-6, 0.9e-6),  # 3.5e-6 is printed
        "TCN": (1e-3, 2e-3, 3e-3),
        "LSTM": (0.5, 0.51, 0.49),  # chance is 0.5
        "GRU": (0.1, 0.1, 0.2),
        "tied Transformer 4": (1e-9, None, 1e-7),
    }
    assert copying.table(Evidence(tmp_path)) is None
    assert copying.table(evidence(tmp_path / "trials", [record("LSTM", 9, 0.5, role="trial")])) is None
    found = copying.table(evidence(tmp_path, [record(row, n, loss) for row, mine in losses.items() for n, loss in enumerate(mine)]))
    assert found is not None
    texts = [[entry.text for entry in row] for row in found.rows]
    assert [row[0] for row in texts] == list(losses)
    assert [row[4] for row in texts] == ["3.5e-6", "2.7e-5", "0.0501", "0.0491", "—"]
    assert [row[6] for row in texts] == ["holds", "does not hold", "holds", "does not hold", "—"]
    assert texts[4][1] == "2/3"
    assert texts[2][5].startswith("0.500 [0.4")


def test_every_row_of_table_1_is_a_row_of_the_suite() -> None:
    _, (entry, *_) = load_suite(copying.SUITE, {})
    assert isinstance(entry, Comparison)
    assert entry.task.settings["T"] == 400
    assert {one.label for one in copying.TABLE_1} <= set(entry.rows)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([], "none"),
        ([record("LSTM", 3, 1.0)], "DEQ lacks seed 3"),
        ([record("GRU", seed, 1.0, data="1" * 64) for seed in (0, 1)], "the rows' data differ"),
        ([record("GRU", n, 1.0, steps=2) for n in (0, 1)], "rows train for different numbers of steps, which their labels say"),
        ([record("DEQ", 1, 1.0, role="trial")], "seed 1 is a trial's and a final run's; rates are chosen by one seed"),
    ],
)
def test_an_audit_lists_inequalities(more: list[Record], complaint: str, tmp_path: Path) -> None:
    fair = [record(label, seed, 1.0) for label in ("DEQ", "LSTM") for seed in (0, 1)]
    (found,) = audit_table(evidence(tmp_path, fair + more), ["copy"]).rows
    assert found[8].text == complaint


def test_an_audit_counts_trials_and_rates_at_an_end(tmp_path: Path) -> None:
    trials = [record("DEQ", 9, 1.0, role="trial", rate=rate) for rate in (1e-3, 2e-3)]
    keys = tuple(one.spec.key for one in trials)
    finals = [record("DEQ", 0, 1.0, rate=2e-3, trials=keys), record("LSTM", 0, 1.0)]
    (found,) = audit_table(evidence(tmp_path, trials + finals), ["copy"]).rows
    assert [entry.text for entry in found[4:]] == ["2", "1", "1", "1 of 1", "rates are chosen by one seed"]


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "paper.json").write_text("{")
    with pytest.raises(UserError, match=r"paper\.json is damaged"):
        list(judges_counts.peak_is_constant(Evidence(tmp_path)))
    (tmp_path / "memory" / "paper.json").write_text(json.dumps(MEMORY.sealed({"rows": []})))
    with pytest.raises(UserError, match=r"paper\.json is damaged \(it lacks cost, laws, device\)"):
        list(judges_counts.peak_is_constant(Evidence(tmp_path)))


# The published record


EVIDENCE = Evidence(RESULTS)  # reads each suite once


@pytest.fixture(scope="module")
def published() -> tuple[Finding, ...]:
    return judge_claims(CLAIMS, EVIDENCE)


def test_the_published_page_is_that_of_the_published_records(published: tuple[Finding, ...]) -> None:
    text = (RESULTS / "CLAIMS.md").read_text(encoding="utf-8")
    assert text.partition("\n")[2] == tables.page(published, copying.table(EVIDENCE), audit_table(EVIDENCE, SUITES))
    for ledger in get_args(Ledger):
        lines = list(csv.DictReader(io.StringIO((RESULTS / "claims" / f"{ledger}.csv").read_text(encoding="utf-8"))))
        listed = [found for found in published if found.claim.ledger == ledger]
        assert [line["value"] for line in lines] == [one.value for found in listed for one in found.parts]


def test_every_number_of_the_published_record_is_traced(published: tuple[Finding, ...]) -> None:
    for one in (one for found in published for one in found.parts):
        assert one.sources, one.about
        for source in one.sources:
            assert (RESULTS / source.path).exists(), source.path
            for run in source.runs:
                assert (RESULTS / source.path / f"{run}.json").exists(), run


def test_the_published_sentences_are_those_of_the_published_records(published: tuple[Finding, ...]) -> None:
    text = (RESULTS / "claims" / "quotes.md").read_text(encoding="utf-8")
    made = quoted_sentences(quotes(EVIDENCE, published))
    assert text.partition("\n")[2] == made
    assert made in (RESULTS / "README.md").read_text(encoding="utf-8")


def test_what_explains_a_sentence_is_found(published: tuple[Finding, ...]) -> None:
    addresses = [one.evidence for one in quotes(EVIDENCE, published) if one.evidence]
    assert len(addresses) >= 3
    for address in addresses:
        find(RESULTS, address)


def test_losses_of_the_published_record_are_those_of_its_runs(published: tuple[Finding, ...]) -> None:
    """One value, computed from the files."""
    (found,) = (one for one in published if one.claim.id == "perplexity")
    one = next(one for one in found.parts if "wikitext" in one.about)
    losses: dict[str, dict[int, float]] = {}
    for run in one.sources[0].runs:
        data = json.loads((RESULTS / one.sources[0].path / f"{run}.json").read_text())
        losses.setdefault(data["spec"]["label"], {})[data["spec"]["seed"]] = data["measures"]["test_loss"]["value"]
    deq, tied = losses["DEQ (Anderson)"], losses["tied 12"]
    ratio = math.exp(np.mean([deq[seed] - tied[seed] for seed in deq]))
    assert f"{ratio:.3f}" in one.value


def test_the_rows_that_claims_compare_exist() -> None:
    labels = {row.label for suite in ("smoke", "text", "small", "ptb") for group in EVIDENCE.groups(suite) for row in group.rows}
    assert {name for deq, explicit in judges_runs.EXPLICIT for name in (deq, explicit)} <= labels


# The command line


def test_a_folder_without_records_is_refused_and_not_written_to(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path / "typo")])
    assert isinstance(result.exception, UserError)
    assert "no records in" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_page_and_tables(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "not tested" in result.output
    assert (tmp_path / "CLAIMS.md").read_text(encoding="utf-8").startswith("<!-- generated")
    assert (tmp_path / "claims" / "claims.tex").exists()


def test_one_claim_is_shown_with_its_parts() -> None:
    result = CliRunner().invoke(app, ["claims", "--results", str(RESULTS), "--only", "memory-whole"])
    assert result.exit_code == 0, result.output
    assert "DEQ, Broyden" in result.output
    data = json.loads(CliRunner().invoke(app, ["claims", "--results", str(RESULTS), "--only", "memory-88", "--json"]).output)
    assert [one["verdict"] for one in data] == ["does not hold"]


def test_a_users_suite_is_judged_on_request(tmp_path: Path) -> None:
    for one in [record("DEQ", seed, 0.1) for seed in range(5)]:
        share = measured(1.0, "1", "m", "s")
        Store(tmp_path).write(
            one.model_copy(update={"suite": "mine", "measures": one.measures | {"eval_converged_fraction": share}})
        )
    asked = ["claims", "--results", str(tmp_path), "--only", "converges"]
    assert "g: DEQ" not in CliRunner().invoke(app, asked).output
    texts = CliRunner().invoke(app, [*asked, "--suite", "mine"]).output
    assert texts.startswith("converges: holds")
    assert "g: DEQ" in texts


@pytest.mark.parametrize("unit", ["loss", "perplexity"])
def test_a_users_deq_is_compared_with_tied_networks_by_perplexity_or_else_by_loss(unit: str, tmp_path: Path) -> None:
    for label, score in (("DEQ", 1.0), ("tied", 2.0)):
        for seed in range(3):
            one = record(label, seed, 9.0)
            scores = one.measures | {f"test_{unit}": measured(score + seed, "1", "m", "s")}
            Store(tmp_path).write(one.model_copy(update={"suite": "mine", "measures": scores}))
    (made,) = judges_runs.perplexity_on_par(Evidence(tmp_path, own=("mine",)))
    assert (made.about, made.samples) == ("g: DEQ over tied", pytest.approx((1 / 2, 2 / 3, 3 / 4)))


@pytest.mark.parametrize(("seconds", "verdict"), [
    ((0.9, 1.0, 1.1), "holds"), ((1.0, 2.0, 3.0), "inconclusive"), ((3.0, 4.0, 5.0), "does not hold"),
])  # fmt: skip
def test_similar_computation_is_judged_by_the_whole_interval(seconds: Sequence[float], verdict: str) -> None:
    def timed(label: str, seed: int, second: float) -> Record:
        """A run that reaches its loss in three times so many seconds."""
        one = record(label, seed, 1.0)
        points = [CurvePoint(step=n, seconds=second * n, train_loss=9.0, valid={"loss": 4.0 - n}) for n in (1, 2, 3)]
        clock = {"train_s": measured(3 * second, "s", "clock", "train phase")}
        return one.model_copy(update={"suite": "speed", "curve": points, "measures": one.measures | clock})

    records = [timed("DEQ", seed, second) for seed, second in enumerate(seconds)]
    records += [timed(label, seed, second) for label, second in (("LSTM", 1.4), ("tied", 9.0)) for seed in range(3)]
    (made,) = judges_runs.similar_computation(Evidence(EMPTY.results, read={"speed": groups("speed", records)}))
    assert (made.about, made.verdict) == ("g: DEQ over LSTM", verdict)
    assert made.value.startswith(f"{seconds[1] / 1.4:.3g} [")  # the point is below 2 in the first two cases


@pytest.mark.parametrize(("solved", "verdict"), [(60, "holds"), (57, "inconclusive"), (20, "does not hold")])
def test_models_that_converge_are_counted_over_all_runs(solved: int, verdict: str) -> None:
    records = []
    for seed in range(60):
        one, share = record("DEQ", seed, 0.1), measured(1.0 if seed < solved else 0.3, "1", "m", "s")
        records.append(one.model_copy(update={"suite": "small", "measures": one.measures | {"eval_converged_fraction": share}}))
    counted, of_row = judges_runs.converges(Evidence(EMPTY.results, read={"small": groups("small", records)}))
    assert counted.value == f"{solved} of 60"
    assert finding(counted).verdict == verdict
    assert of_row.about == "g: DEQ"


def test_rows_of_one_seed_are_no_independent_runs() -> None:
    records = []
    for label, share in (("DEQ", 1.0), ("DEQ, other", 1.0), ("DEQ, third", 0.3)):
        for one in (record(label, seed, 0.1) for seed in range(3)):
            of_run = {"eval_converged_fraction": measured(share, "1", "m", "s")}
            records.append(one.model_copy(update={"suite": "small", "measures": one.measures | of_run}))
    counted = judges_runs.converges(Evidence(EMPTY.results, read={"small": groups("small", records)}))[0]
    assert (counted.value, finding(counted).verdict) == ("6 of 9", "inconclusive")
    assert counted.p_against == pytest.approx(1 - 0.95**3)  # of three draws at least one fails


@pytest.mark.parametrize("name", ["nine", "copy"])
def test_an_unknown_suite_is_one_line(name: str, tmp_path: Path) -> None:
    Store(tmp_path).write(record("DEQ", 0, 0.1).model_copy(update={"suite": "mine"}))
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path), "--suite", name])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"unknown own suite {name!r}")


def test_without_a_users_suite_the_message_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path), "--suite", "mine"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("only the package's: run mine first")


def test_an_unknown_claim_is_one_line() -> None:
    result = CliRunner().invoke(app, ["claims", "--only", "memory-99"])
    assert isinstance(result.exception, UserError)
    assert "memory-88" in str(result.exception)
