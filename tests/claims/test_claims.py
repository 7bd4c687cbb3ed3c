"""A verdict is what the records say: paired by seed, both errors kept to 5 %, and never more than the design can tell."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from bench.analysis.aggregate import groups
from bench.claims import copying, judges_counts, judges_runs, judges_studies, tables
from bench.claims.audit import audits
from bench.claims.claim import Claim, Finding, Part, judge_claims
from bench.claims.entries import CLAIMS, SUITES
from bench.claims.evidence import Evidence
from bench.claims.hypothesis_tests import bound, holm, paired
from bench.claims.hypothesis_tests import tested as judge
from bench.cli.main import app
from bench.execution.suite_loading import load_suite
from bench.records.errors import UserError
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.record import Record
from bench.records.record import measured as measure
from bench.records.side_file import EXPERIMENTS, MEMORY
from bench.records.spec import Comparison, ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store
from bench.report.html.text import render

RESULTS = Path(__file__).resolve().parents[2] / "results"
EMPTY = Evidence(Path("there-is-none"))


def part(**changes: Any) -> Part:
    return Part(**({"about": "a", "value": "1", "asked": "below 2"} | changes))


def finding(*parts: Part) -> Finding:
    text = {name: name for name in ("says", "where", "measured", "statistic", "threshold", "needs")}
    (found,) = judge_claims([Claim(id="c", judge=lambda _: list(parts), **text)], EMPTY)
    return found


# Statistics


def test_holm_is_what_its_author_wrote() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_few_pairs_have_students_test(scale: Any) -> None:
    ours, theirs = {0: 1.2, 1: 1.5, 2: 1.1, 7: 9.0}, {0: 2.0, 1: 2.2, 2: 2.9, 8: 1.0}  # 7 and 8 have no partner
    found = paired(ours, theirs, 0.9, scale)
    assert found is not None
    pairs = [(ours[seed], theirs[seed]) for seed in (0, 1, 2)]
    distances = [math.log(a / b) - math.log(0.9) if scale == "log" else a - b - 0.9 for a, b in pairs]
    expected = stats.ttest_1samp(distances, 0.0, alternative="less").pvalue
    assert (found.below, found.above) == (pytest.approx(expected), pytest.approx(1 - expected))
    assert found.estimate.n == 3


def test_six_pairs_or_more_have_all_sign_flips() -> None:
    values = [0.5, 0.7, 0.9, 1.3, 0.4, 0.8]
    found = judge(values, 1.0, "linear")
    centred = np.asarray(values) - 1.0
    expected = stats.permutation_test((centred,), np.mean, permutation_type="samples", alternative="less", n_resamples=np.inf)
    assert found.below == pytest.approx(expected.pvalue)
    assert judge([0.1] * 6 + [0.2], 1.0, "log").below == 1 / 2**7
    assert "sign flips" in found.method


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_are_never_significant(n: int) -> None:
    found = judge([1e-9] * n, 1.0, "log")
    assert (found.below, found.above) == (None, None)
    made = judges_runs.part("a", found, 1.0, "below", "", suite="s")
    assert made.verdict == "inconclusive"
    assert "3 seeds" in made.note


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_a_value_without_a_logarithm_is_no_test_and_no_crash(ours: float, theirs: float) -> None:
    found = paired({0: 1.0, 1: ours, 2: 1.0}, {0: 1.0, 1: theirs, 2: 1.0}, 1.0, "log")
    made = judges_runs.part("a", found, 1.0, "below", "", suite="s")
    assert (made.value, made.verdict, made.note) == ("—", "inconclusive", "no test: a value is not positive")


def test_without_common_seeds_nothing_is_tested() -> None:
    assert paired({0: 1.0}, {1: 1.0}, 1.0, "log") is None
    assert judges_runs.part("a", None, 1.0, "below", "", suite="s").verdict == "not tested"


@pytest.mark.parametrize(("n", "verdict"), [(3, "inconclusive"), (4, "inconclusive"), (5, "holds"), (8, "holds"), (20, "holds")])
@pytest.mark.parametrize("spread", [0.0, 1e-16])
def test_equal_values_have_an_exact_sign_test_and_a_bound(n: int, verdict: str, spread: float) -> None:
    values = [1.0 - spread * (seed % 2) for seed in range(n)]  # 1 - 1e-16 is rounding
    found = judge(values, 0.99, "fraction")
    assert (found.above, found.below) == (pytest.approx(0.5**n), 1.0)
    made = judges_runs.part("a", found, 0.99, "above", "", suite="s")
    assert finding(made).verdict == verdict
    most = 100 * (1 - 0.05 ** (1 / n))  # 0 of n fail
    assert made.note == f"sign test of equal values, {n} seeds; 0 of {n} seeds fail: at most {most:.0f} % do, at 95 %"
    failing = judges_runs.part("a", judge([0.5] * n, 0.99, "fraction"), 0.99, "above", "", suite="s")
    assert finding(failing).verdict == ("does not hold" if verdict == "holds" else verdict)
    assert failing.note.endswith(f"{n} of {n} seeds fail: at least {100 - most:.0f} % do, at 95 %")


def test_equal_values_at_the_threshold_are_on_no_side() -> None:
    found = judge([0.99] * 5, 0.99, "linear")
    assert (found.below, found.above) == (1.0, 1.0)


def test_equal_ratios_between_two_bounds_have_a_bound_of_their_own() -> None:
    made = judges_runs.between("a", dict.fromkeys(range(5), 1.0), dict.fromkeys(range(5), 1.0), 1 / 1.2, 1.2, suite="s")
    assert made.note == "sign test of equal values, 5 seeds; 0 of 5 seeds fail: at most 45 % do, at 95 %"
    assert finding(made).verdict == "holds"


@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3),
    st.integers(3, 12),
    st.floats(0.02, 0.98),
    st.sampled_from(["log", "fraction"]),
)
@settings(max_examples=60, deadline=None)
def test_no_few_values_give_a_p_of_0(values: list[float], n: int, threshold: float, scale: Any) -> None:
    found = judge([values[seed % len(values)] for seed in range(n)], threshold, scale)
    assert found.below is not None
    assert found.above is not None
    if len({*values}) == 1:
        assert min(found.below, found.above) >= 0.5**n
        assert max(found.below, found.above) == 1.0
    assert 0 < found.below + found.above <= 2


def test_a_bound_is_that_of_clopper_and_pearson() -> None:
    assert bound(0, 3) == "0 of 3 seeds fail: at most 63 % do, at 95 %"
    low, high = stats.beta.ppf(0.025, 2, 4), stats.beta.ppf(0.975, 3, 3)
    assert bound(2, 5) == f"2 of 5 seeds fail: {100 * low:.0f} to {100 * high:.0f} % do, at 95 %"


def test_a_share_has_the_interval_of_the_tables_which_ends_at_1() -> None:
    assert judge([1.0, 0.9, 1.0], 0.99, "fraction").estimate.high == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("n", [3, 5, 6, 8])
def test_what_is_at_the_threshold_is_seldom_called_beyond_it(n: int) -> None:
    random = np.random.default_rng(n)
    wrong = sum((judge(np.exp(random.normal(0.0, 0.5, n)).tolist(), 1.0, "log").below or 0) < 0.05 for _ in range(1500))
    assert wrong / 1500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_a_claim_of_many_parts_at_their_thresholds_is_seldom_called_wrong() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        parts = [
            judges_runs.part("a", judge(random.normal(1.0, 0.2, 5).tolist(), 1.0, "linear"), 1.0, "below", "", suite="s")
            for _ in range(8)
        ]
        wrong += finding(*parts).verdict != "inconclusive"
    assert wrong / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_cover_what_they_say(n: int) -> None:
    random = np.random.default_rng(n)
    found = [judge(np.exp(random.normal(0.3, 0.8, n)).tolist(), 1.0, "log").estimate for _ in range(2000)]
    covered = sum((one.low or 0) <= math.exp(0.3) <= (one.high or 0) for one in found) / 2000
    assert abs(covered - 0.95) < 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(("values", "verdict"), [
    ([1.0, 1.01, 0.99], "holds"), ([0.5, 0.51, 0.49], "does not hold"),
    ([2.0, 2.1, 1.9], "does not hold"), ([1.0, 1.4, 0.7], "inconclusive"),
])  # fmt: skip
def test_a_ratio_between_two_bounds_is_tested_on_both_sides(values: list[float], verdict: str) -> None:
    made = judges_runs.between("a", dict(enumerate(values)), dict.fromkeys(range(3), 1.0), 1 / 1.2, 1.2, suite="s")
    assert finding(made).verdict == verdict


# Verdicts


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ((), "not tested"),
        (("not tested",), "not tested"),
        (("holds", "not tested"), "holds"),
        (("holds", "inconclusive"), "inconclusive"),
        (("holds", "inconclusive", "does not hold"), "does not hold"),
        (("holds", "holds"), "holds"),
    ],
)
def test_a_claim_is_as_good_as_its_worst_part(verdicts: Sequence[Any], whole: str) -> None:
    assert finding(*(part(verdict=verdict) for verdict in verdicts)).verdict == whole


def test_a_part_against_a_claim_is_corrected_for_the_other_parts() -> None:
    alone = finding(part(p_for=0.97, p_against=0.03))
    among = finding(part(p_for=0.97, p_against=0.03), part(p_for=0.5, p_against=0.5))
    assert (alone.verdict, among.verdict) == ("does not hold", "inconclusive")
    assert among.parts[0].adjusted == pytest.approx(0.06)


def test_what_was_not_tested_is_counted_where_the_rest_holds() -> None:
    assert finding(part(verdict="holds"), part(verdict="not tested")).reason == "1 of 2 hold, 1 of 2 not tested"


def test_a_part_for_a_claim_needs_no_correction() -> None:
    assert finding(part(p_for=0.03, p_against=0.97), part(p_for=0.04, p_against=0.96)).verdict == "holds"


def test_where_nothing_was_run_the_ledger_says_what_to_run() -> None:
    found = judge_claims(CLAIMS, EMPTY)
    assert {one.verdict for one in found} == {"not tested"}
    assert all("needs" in one.reason for one in found)
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


# Evidence of runs


def record(label: str, seed: int, loss: float | None, *, role: Any = "final", trials: tuple[str, ...] = (), **more: Any) -> Record:
    name = "lstm" if label == "LSTM" else "deq"
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
        measures={"test_loss": measure(loss, "nats", "m", "s", None if loss is not None else "diverged")},
    )


def evidence(folder: Path, records: list[Record]) -> Evidence:
    for one in records:
        Store(folder).write(one)
    return Evidence(folder)


def test_runs_are_paired_by_seed_and_name_their_records(tmp_path: Path) -> None:
    deq = [record("DEQ", seed, 0.01 + seed / 1000) for seed in range(4)] + [record("DEQ", 4, None)]
    lstm = [record("LSTM", seed, 0.5) for seed in range(1, 6)]
    (made,) = judges_runs.copying("LSTM", 0.1)(evidence(tmp_path, deq + lstm))
    assert made.note == "t test, 3 seeds"  # 1, 2 and 3: seed 4 diverged
    assert made.p_for is not None
    assert made.p_for < 1e-3
    assert set(made.sources[0].runs) == {one.run_id for one in deq + lstm}
    assert judges_runs.recurrent_at_chance(Evidence(tmp_path))[0].value == "1.00"


def test_table_1_stands_beside_ours_and_judges_it_by_what_is_printed(tmp_path: Path) -> None:
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
    told = [[entry.text for entry in row] for row in found.rows]
    assert [row[0] for row in told] == list(losses)
    assert [row[4] for row in told] == ["3.5e-6", "2.7e-5", "0.0501", "0.0491", "—"]
    assert [row[7] for row in told] == ["holds", "does not hold", "holds", "does not hold", "—"]
    assert told[4][1] == "2/3"
    assert told[2][5].startswith("0.500 [0.4")


def test_every_row_of_table_1_is_a_row_of_the_suite() -> None:
    _, (entry,) = load_suite(copying.SUITE, {})
    assert isinstance(entry, Comparison)
    assert entry.task.settings["T"] == 400
    assert {one.label for one in copying.TABLE_1} <= set(entry.rows)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "none"),
        ([record("LSTM", 3, 1.0)], "DEQ lacks seed 3"),
        ([record("GRU", seed, 1.0, data="1" * 64) for seed in (0, 1)], "the rows' data differ"),
        (
            [record("GRU", seed, 1.0, steps=2) for seed in (0, 1)],
            "rows train for different numbers of steps, which their labels say",
        ),
        ([record("DEQ", 1, 1.0, role="trial")], "seed 1 is a trial's and a final run's"),
    ],
)
def test_an_audit_names_what_is_unequal(more: list[Record], said: str, tmp_path: Path) -> None:
    fair = [record(label, seed, 1.0) for label in ("DEQ", "LSTM") for seed in (0, 1)]
    (found,) = audits(evidence(tmp_path, fair + more), ["copy"])
    assert found.complaints == (() if said == "none" else (said,))


def test_an_audit_counts_trials_and_rates_at_an_end(tmp_path: Path) -> None:
    trials = [record("DEQ", 9, 1.0, role="trial", rate=rate) for rate in (1e-3, 2e-3)]
    keys = tuple(one.spec.key for one in trials)
    finals = [record("DEQ", 0, 1.0, rate=2e-3, trials=keys), record("LSTM", 0, 1.0)]
    (found,) = audits(evidence(tmp_path, trials + finals), ["copy"])
    assert (found.trials, found.tuned, found.at_an_end) == ((2, 2), 1, 1)


def test_a_broken_record_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "paper.json").write_text("{")
    with pytest.raises(UserError, match=r"paper\.json is damaged"):
        judges_counts.peak_is_constant(Evidence(tmp_path))
    (tmp_path / "memory" / "paper.json").write_text(json.dumps(MEMORY.sealed({"rows": []})))
    with pytest.raises(UserError, match=r"paper\.json is damaged \(it lacks cost, laws, device\)"):
        judges_counts.peak_is_constant(Evidence(tmp_path))


# Evidence of experiments


def experiments(folder: Path, **rows: list[dict[str, Any]]) -> Evidence:
    (folder / "claims").mkdir()
    found = {"experiments": {name.replace("_", " "): {"rows": mine} for name, mine in rows.items()}}
    (folder / "claims" / "experiments.json").write_text(json.dumps(EXPERIMENTS.sealed(found)))
    return Evidence(folder)


def rows(values: Sequence[dict[str, Any] | None], **subject: Any) -> list[dict[str, Any]]:
    return [{"task": "t", "seed": seed, "values": one, **subject} for seed, one in enumerate(values)]


def verdicts(claim: str, found: Evidence) -> list[str | None]:
    (judge,) = (one.judge for one in CLAIMS if one.id == claim)
    return [one.verdict for one in finding(*judge(found)).parts]


def test_growth_of_steps_is_the_last_tenth_over_the_first_and_a_failed_row_is_left_out(tmp_path: Path) -> None:
    course = [{"course": [{"forward_nfe": 10.0}, {"forward_nfe": 99.0}, {"forward_nfe": end}]} for end in (20.0, 21.0, 22.0)]
    found = experiments(tmp_path, training=rows([*course, None], model="DEQ") + rows(course[::-1], model="tied 12"))
    (made,) = judges_studies.steps_grow(found)
    assert made.value.startswith(f"{(2.0 * 2.1 * 2.2) ** (1 / 3):.2f}")
    assert verdicts("steps-grow", found) == ["holds"]


@pytest.mark.parametrize(("backward", "verdict"), [(5.0, "holds"), (9.0, "does not hold")])
def test_a_backward_solve_is_held_against_the_forward_one_of_its_seed(tmp_path: Path, backward: float, verdict: str) -> None:
    values = [{"train_forward_nfe_mean": 10.0 + seed, "train_backward_nfe_mean": backward + seed} for seed in range(5)]
    assert verdicts("backward-shorter", experiments(tmp_path, training=rows(values, model="DEQ"))) == [verdict]


@pytest.mark.parametrize(("factor", "verdict"), [(1.7, "holds"), (3.0, "does not hold"), (1.0, "does not hold")])
def test_the_time_of_an_answer_is_held_against_the_tied_networks_of_its_seed(tmp_path: Path, factor: float, verdict: str) -> None:
    values = [{"deq_ms": factor * (10 + seed), "tied_ms": 10.0 + seed + 0.01 * seed**2, "nfe": 8 + seed} for seed in range(5)]
    found = experiments(tmp_path, inference=rows([*values, None]))
    assert verdicts("inference-time", found) == [verdict]
    (made,) = judges_studies.slower_to_answer(1.6, 1.8)(found)
    assert made.note == "t test, 5 seeds; evaluations of the solves: 8, 9, 10, 11, 12"
    assert made.samples == pytest.approx([one["deq_ms"] / one["tied_ms"] for one in values])


@pytest.mark.parametrize(("lost", "verdict"), [(0.001, "holds"), (0.5, "does not hold")])
def test_a_loose_tolerance_is_held_against_the_tight_one_of_its_seed(tmp_path: Path, lost: float, verdict: str) -> None:
    def points(seed: int) -> list[dict[str, float]]:
        return [
            {"rtol": 1e-6, "cap": 120, "loss": 2.0 + seed},
            {"rtol": 0.1, "cap": 30, "loss": 2.0 + seed + lost * (1 + seed / 10)},
        ]

    values = [{"points": points(seed)} for seed in range(5)]
    found = experiments(tmp_path, tolerance=rows(values), cap=rows(values))
    assert verdicts("tolerance", found) == verdicts("cap", found) == [verdict]


def still(share: float, spread: float = 1e-3) -> list[dict[str, Any] | None]:
    return [{"lengths": {"T=20": {"still": share + spread * seed}, "T=40": {"still": 0.0}}} for seed in range(3)]


def test_a_tied_network_is_judged_where_its_unrest_is_clearest(tmp_path: Path) -> None:
    layers = rows(still(0.99), model="tied 12") + rows(still(0.2), model="tied 12", task="u") + rows(still(0.0), model="DEQ")
    found = experiments(tmp_path, layers=layers)
    (made,) = judges_studies.tied_need_not_converge(found)
    assert made.about.startswith("u: ")
    assert verdicts("tied-rest", found) == ["holds"]


def test_the_clearest_of_several_tasks_pays_for_the_choice(tmp_path: Path) -> None:
    unclear = still(0.5, 0.17)  # alone these are below 0.99 at 4.1 %
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = experiments(tmp_path / "one", layers=rows(unclear, model="tied 12"))
    among = experiments(tmp_path / "two", layers=rows(unclear, model="tied 12") + rows(still(0.995), model="tied 12", task="u"))
    (one,), (two,) = judges_studies.tied_need_not_converge(alone), judges_studies.tied_need_not_converge(among)
    assert one.p_for is not None
    assert two.p_for == pytest.approx(2 * one.p_for)
    assert (verdicts("tied-rest", alone), verdicts("tied-rest", among)) == (["holds"], ["inconclusive"])


def test_a_network_at_rest_on_every_task_is_against_the_claim(tmp_path: Path) -> None:
    layers = rows(still(0.995), model="tied 12") + rows(still(0.996), model="tied 12", task="u")
    assert verdicts("tied-rest", experiments(tmp_path, layers=layers)) == ["does not hold"]


@pytest.mark.parametrize(("same", "verdict"), [(1.0, "holds"), (0.5, "does not hold")])
def test_roots_are_judged_by_the_pair_least_alike(tmp_path: Path, same: float, verdict: str) -> None:
    values = [{"pairs": {"a, b": {"same": 1.0}, "a, c": {"same": same}, "b, c": {"same": None}}}] * 5
    assert verdicts("root", experiments(tmp_path, independence=rows(values))) == [verdict]


def test_gradients_batches_and_recomputation_are_judged_by_their_worst(tmp_path: Path) -> None:
    def gradient(distance: float, cosine: float) -> dict[str, Any]:
        backward = [{"rtol": 1e-2, "distance": 0.1}, {"rtol": 1e-8, "distance": distance}, {"rtol": 1e-7, "distance": None}]
        return {"start": {"reason": "no roots"}, "end": {"backward": backward, "as trained": {"one_less_cosine": cosine}}}

    batch = [{"float64": [{"logits": 1e-9}, {"logits": worst}], "float32": [{"logits": 1e-4}]} for worst in (1e-8, 1e-5)]
    core = {"none": {"ratio": 1.0}, "sqrt": {"ratio": 1.33}, "every": {"ratio": 1.5}}
    found = experiments(
        tmp_path,
        gradient=rows([gradient(1e-9, 1e-3), gradient(1e-8, 0.02)]),
        batch=rows(batch),
        recompute=rows([{"core": core}], depth=12),
    )
    assert verdicts("gradient", found) == ["holds", "does not hold"]
    assert verdicts("batch", found) == ["does not hold", "holds"]
    assert verdicts("checkpointing-cost", found) == ["holds", "does not hold"]
    gradient_parts = judges_studies.gradient_is_exact(found)
    assert gradient_parts[0].note == "0 of 2 seeds fail: at most 78 % do, at 95 %"
    assert gradient_parts[1].note == "1 of 2 seeds fail: 1 to 99 % do, at 95 %"


def test_a_count_is_called_a_fact_and_has_no_p(tmp_path: Path) -> None:
    core = {"sqrt": {"ratio": 1.33}, "every": {"ratio": 1.33}}
    found = finding(*judges_studies.one_more_forward(experiments(tmp_path, recompute=rows([{"core": core}], depth=12))))
    assert {(one.fact, one.adjusted, one.decided_by) for one in found.parts} == {(True, None, "fact")}
    assert {row[4].text for row in tables.parts(found).rows} == {"fact"}
    assert {line["fact"] for line in tables.summary([found]).data} == {"yes"}
    assert "fact" in render(found)
    tried = finding(part(p_for=1e-9, p_against=1.0))
    assert (tried.parts[0].fact, tried.parts[0].decided_by) == (False, "< 1e-4")


def test_a_wrong_convergence_or_an_unflagged_training_is_found(tmp_path: Path) -> None:
    said = {"CONVERGED": 3, "MAX_STEPS": 10, "DIVERGED": 2, "NONFINITE": 1, "silent": 0, "grown": 2}
    solving = rows([{"picard": said, "broyden": {**said, "silent": 1}, "root": False}], map="m") + rows([{"picard": said}], map="n")
    training = [{"status": "ok", "train_converged_fraction": share} for share in (0.5, 1.0)]
    diverged = [{"status": "diverged", "train_converged_fraction": None}]
    found = experiments(tmp_path, hostile=solving, hostile_training=rows(training, model="a") + rows(diverged, model="b"))
    made = judges_studies.nothing_passes_silently(found)
    assert [one.verdict for one in made] == ["does not hold", "holds", "does not hold", "holds"]
    assert made[0].value == "1 of 32 called converged wrongly"
    assert made[1].note == "2 called converged as their iterates grew"


# The published ledger


@pytest.fixture(scope="module")
def published() -> tuple[Finding, ...]:
    return judge_claims(CLAIMS, Evidence(RESULTS))


def test_the_published_page_is_that_of_the_published_records(published: tuple[Finding, ...]) -> None:
    text = (RESULTS / "CLAIMS.md").read_text(encoding="utf-8")
    assert text.partition("\n")[2] == tables.page(
        published, copying.table(Evidence(RESULTS)), list(audits(Evidence(RESULTS), SUITES))
    )
    lines = list(csv.DictReader(io.StringIO((RESULTS / "claims" / "claims.csv").read_text(encoding="utf-8"))))
    assert [line["value"] for line in lines] == [one.value for found in published for one in found.parts]


def test_every_number_of_the_published_ledger_is_traced(published: tuple[Finding, ...]) -> None:
    for one in (one for found in published for one in found.parts):
        assert one.sources, one.about
        for source in one.sources:
            assert (RESULTS / source.path).exists(), source.path
            for run in source.runs:
                assert (RESULTS / source.path / f"{run}.json").exists(), run


def test_losses_of_the_published_ledger_are_those_of_its_runs(published: tuple[Finding, ...]) -> None:
    """One cell, computed anew from the files."""
    (found,) = (one for one in published if one.claim.id == "perplexity")
    one = next(one for one in found.parts if "wikitext" in one.about)
    losses: dict[str, dict[int, float]] = {}
    for run in one.sources[0].runs:
        data = json.loads((RESULTS / one.sources[0].path / f"{run}.json").read_text())
        losses.setdefault(data["spec"]["label"], {})[data["spec"]["seed"]] = data["measures"]["test_loss"]["value"]
    deq, tied = losses["DEQ (Anderson)"], losses["tied 12"]
    ratio = math.exp(np.mean([deq[seed] - tied[seed] for seed in deq]))
    assert f"{ratio:.3f}" in one.value


def test_the_groups_that_the_ledger_compares_are_there() -> None:
    store = Store(RESULTS)
    labels = {
        row.label for suite in ("smoke", "text", "small") for group in groups(suite, store.read_all(suite)) for row in group.rows
    }
    assert {name for deq, explicit in judges_runs._KIN.items() for name in (deq, *explicit)} <= labels


# The command line


def test_the_command_writes_the_ledger(tmp_path: Path) -> None:
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


def test_an_own_suite_is_judged_where_it_is_asked_for(tmp_path: Path) -> None:
    for one in [record("DEQ", seed, 0.1) for seed in range(5)]:
        share = measure(1.0, "1", "m", "s")
        Store(tmp_path).write(
            one.model_copy(update={"suite": "mine", "measures": one.measures | {"eval_converged_fraction": share}})
        )
    asked = ["claims", "--results", str(tmp_path), "--only", "converges"]
    assert "g: DEQ" not in CliRunner().invoke(app, asked).output
    told = CliRunner().invoke(app, [*asked, "--suite", "mine"]).output
    assert told.startswith("converges: holds")
    assert "g: DEQ" in told


@pytest.mark.parametrize("name", ["nine", "copy"])
def test_an_own_suite_that_is_not_there_or_the_packages_is_one_line(name: str, tmp_path: Path) -> None:
    Store(tmp_path).write(record("DEQ", 0, 0.1).model_copy(update={"suite": "mine"}))
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path), "--suite", name])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"unknown own suite {name!r}")


def test_where_there_is_no_own_suite_it_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["claims", "--results", str(tmp_path), "--suite", "mine"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("only the package's: run mine first")


def test_an_unknown_claim_is_one_line() -> None:
    result = CliRunner().invoke(app, ["claims", "--only", "memory-99"])
    assert isinstance(result.exception, UserError)
    assert "memory-88" in str(result.exception)
