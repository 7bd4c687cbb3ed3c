"""Verdicts on the claims made since 2019, on records that are written by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from running import finished_record

from bench.claims import entries_since
from bench.claims.claim import Finding, Part, judge_claims
from bench.claims.entries import CLAIMS
from bench.claims.entries_since import SINCE
from bench.claims.evidence import Evidence
from bench.execution.suite_loading import load_suite
from bench.records.side_file import EXPERIMENTS
from bench.records.spec import Comparison, Recipe
from bench.records.store import Store


def judge(claim: str, evidence: Evidence) -> Finding:
    return judge_claims([one for one in SINCE if one.id == claim], evidence)[0]


def runs(folder: Path, suite: str, rows: Mapping[str, Mapping[str, list[float]]], group: str = "g") -> Evidence:
    """Evidence of rows by label, each with its measures by seed."""
    for label, measures in rows.items():
        for seed, values in enumerate(zip(*measures.values(), strict=True)):
            Store(folder).write(finished_record(suite, group, label, seed, **dict(zip(measures, values, strict=True))))
    return Evidence(folder)


def studies(folder: Path, name: str, rows: list[dict[str, Any]]) -> Evidence:
    (folder / "claims").mkdir(parents=True)
    (folder / "claims" / "experiments.json").write_text(json.dumps(EXPERIMENTS.sealed({"experiments": {name: {"rows": rows}}})))
    return Evidence(folder)


@pytest.mark.parametrize(
    ("plain", "cheap", "about", "found", "verdict"),
    [
        ([2.0, 2.1, 2.2], [2.01, 2.12, 2.2], "less", "0.010 [", "holds"),
        ([2.0, 2.1, 2.2], [2.4, 2.6, 2.7], "less", "0.47 [", "does not hold"),
        ([0.1, 0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2], "over", "2.00", "does not hold"),
    ],
)
def test_a_cheap_gradient_loses_nats_or_a_factor_of_a_small_loss(
    tmp_path: Path, plain: list[float], cheap: list[float], about: str, found: str, verdict: str
) -> None:
    rows = {"DEQ": {"test_loss": plain}, "DEQ, SHINE": {"test_loss": cheap}}
    (part,) = judge("shared-inverse", runs(tmp_path, "speed", rows)).parts
    assert (part.about, part.verdict) == (f"g: DEQ, SHINE {about} DEQ", verdict)
    assert part.value.startswith(found)
    assert len(part.sources[0].runs) == 2 * len(plain)


@pytest.mark.parametrize(
    ("other", "steps", "pairs"),
    [
        (("implicit",), 0, 1),
        (("implicit", "phantom 1, rate 0.002"), 0, 1),  # that comparison has a pair of its own
        (("implicit",), 1, 0),  # trained longer
    ],
)
def test_a_row_is_compared_with_one_of_another_comparison_on_the_same_terms(
    tmp_path: Path, other: tuple[str, ...], steps: int, pairs: int
) -> None:
    records = [finished_record("iterate", "by rate", "phantom 1, rate 0.002", seed, test_loss=0.2) for seed in range(3)]
    for one in (finished_record("iterate", "g", label, seed, test_loss=0.1) for label in other for seed in range(3)):
        train = one.spec.train.model_copy(update={"steps": one.spec.train.steps + steps, "learning_rate": 0.5})
        spec = one.spec.model_copy(update={"train": train})
        records.append(one.model_copy(update={"spec": spec, "run_id": one.identity.run_id(spec.key)}))
    for record in records:
        Store(tmp_path).write(record)
    found = [part.about for part in judge("one-step", Evidence(tmp_path)).parts]
    group = "g" if len(other) > 1 else "by rate"
    assert found == [f"{group}: phantom 1, rate 0.002 over implicit"] * pairs


@pytest.mark.parametrize(
    ("settings", "recipe", "verdict"),
    [
        ({"adjoint": "shine", "backward_steps": 8}, None, "holds"),
        ({"solver": "broyden"}, None, "cannot tell"),
        ({}, {"hold": 0.8, "steps": 4}, "cannot tell"),
    ],
)
def test_rows_that_differ_in_more_than_the_gradient_cannot_tell(
    tmp_path: Path, settings: dict[str, Any], recipe: dict[str, Any] | None, verdict: str
) -> None:
    records = [
        finished_record("speed", "g", label, seed, test_loss=2.0 + seed / len(label))
        for label in ("DEQ", "DEQ, SHINE")
        for seed in range(5)
    ]
    for one in records:
        if one.spec.label == "DEQ, SHINE":
            model = one.spec.model.model_copy(update={"settings": {**one.spec.model.settings, **settings}})
            spec = one.spec.model_copy(update={"model": model, "recipe": recipe and Recipe(**recipe)})
            one = one.model_copy(update={"spec": spec, "run_id": one.identity.run_id(spec.key)})
        Store(tmp_path).write(one)
    finding = judge("shared-inverse", Evidence(tmp_path))
    assert finding.verdict == verdict
    assert finding.parts[0].note.startswith("the rows differ in") == (verdict == "cannot tell")


def test_a_jacobian_penalty_is_judged_by_loss_and_by_convergence(tmp_path: Path) -> None:
    plain = {"test_loss": [5.0, 5.1, 5.2], "eval_converged_fraction": [0.2, 0.3, 0.1]}
    penalised = {"test_loss": [5.01, 5.1, 5.22], "eval_converged_fraction": [0.998, 0.999, 0.995]}
    found = judge("jacobian", runs(tmp_path, "ptb", {"DEQ-Transformer": plain, "DEQ-Transformer, Jacobian": penalised}))
    assert found.verdict == "holds"
    loss, share = found.parts
    assert loss.samples == pytest.approx([0.01, 0.0, 0.02])
    assert share.samples == pytest.approx([0.798, 0.699, 0.895])


def test_length_is_judged_at_the_longest_test_sequences(tmp_path: Path) -> None:
    short, long = "test_accuracy_last_T16", "test_accuracy_last_T128"
    rows = {
        "DEQ-TrellisNet, Picard": {short: [1.0] * 5, long: [1.0] * 5},
        "DEQ-TrellisNet, Anderson": {short: [1.0] * 5, long: [0.5, 0.52, 0.49, 0.5, 0.51]},
        "Transformer-XL 4": {short: [1.0] * 5, long: [0.5, 0.52, 0.49, 0.5, 0.51]},
    }
    found = runs(tmp_path, "track", rows, "state tracking parity")
    assert [part.verdict for part in judge("tracks-state", found).parts] == ["holds"]
    assert [part.verdict for part in judge("fixed-depth", found).parts] == ["holds"]
    (part,) = judge("solver-and-length", found).parts
    assert (part.verdict, part.about.startswith("state tracking parity, 128 tokens")) == ("does not hold", True)
    assert judge("negative-decay", found).verdict == "not tested"


def test_what_did_not_learn_the_length_of_the_training_says_nothing_of_longer_ones(tmp_path: Path) -> None:
    short, long = "test_accuracy_last_T16", "test_accuracy_last_T128"
    rows = {
        "DEQ-TrellisNet, Picard": {short: [1.0] * 4, long: [1.0] * 4},
        "DEQ-TrellisNet, Anderson": {short: [1.0, 0.5, 0.99, 0.95], long: [0.5, 0.5, 0.52, 0.49]},
        "DEQ-TrellisNet, Broyden": {short: [0.5] * 4, long: [0.5] * 4},
        "Transformer-XL 4": {short: [0.5] * 4, long: [0.5] * 4},
        "state-space": {short: [0.5, 1.0, 0.98, 0.97], long: [0.9, 0.5, 0.48, 0.51]},
    }
    found = runs(tmp_path, "track", rows, "state tracking parity")
    attention, scan = judge("fixed-depth", found).parts
    assert (attention.verdict, attention.note) == ("cannot tell", "no seed learned 16 tokens, the training's length")
    assert (scan.verdict, scan.samples) == ("holds", (0.5, 0.48, 0.51))
    anderson, broyden = judge("solver-and-length", found).parts
    assert (anderson.verdict, anderson.samples) == ("does not hold", pytest.approx((-0.5, -0.48, -0.51)))
    assert broyden.verdict == "cannot tell"


@pytest.mark.parametrize(("gain", "verdict"), [(0.9, "holds"), (1.1, "does not hold")])
def test_more_steps_are_compared_with_the_stops_of_the_training(tmp_path: Path, gain: float, verdict: str) -> None:
    trained = [2.0, 2.1, 2.2, 2.3, 2.4]
    rows = {
        "DEQ-Transformer": {"test_loss": [gain * loss for loss in trained], "test_loss_as_trained": trained},
        "DEQ-Transformer, SHINE": {"test_loss": trained, "test_loss_as_trained": trained},
    }
    (part,) = judge("more-steps", runs(tmp_path, "ptb", rows)).parts
    assert (part.verdict, part.samples) == (verdict, pytest.approx([gain] * 5))


def test_an_inadmissible_score_of_a_cheap_gradient_does_not_hold(tmp_path: Path) -> None:
    rows = {
        "DEQ": {"test_loss": [2.0, 2.1, 2.2], "eval_converged_fraction": [1.0, 1.0, 1.0]},
        "DEQ, SHINE": {"test_loss": [2.0, 2.11, 2.2], "eval_converged_fraction": [0.9, 1.0, 1.0]},
    }
    (part,) = judge("shared-inverse", runs(tmp_path, "speed", rows)).parts
    assert (part.verdict, part.note.endswith("else it would hold")) == ("inconclusive", True)


@pytest.mark.parametrize(("solved", "verdicts"), [(1.0, ("holds", "holds")), (0.9, ("inconclusive", "inconclusive"))])
def test_nor_does_one_of_more_steps_or_of_another_solver(tmp_path: Path, solved: float, verdicts: tuple[str, str]) -> None:
    trained, share = [2.0, 2.1, 2.2, 2.3, 2.4], {"eval_converged_fraction": [solved] * 5}
    losses = {"test_loss": [0.9 * loss for loss in trained], "test_loss_as_trained": trained}
    (more,) = judge("more-steps", runs(tmp_path / "a", "ptb", {"DEQ-Transformer": {**losses, **share}})).parts
    right = {"test_accuracy_last_T16": [1.0] * 5, "test_accuracy_last_T128": [1.0, 0.99, 0.98, 1.0, 1.0]}
    rows = {"DEQ-TrellisNet, Picard": right, "DEQ-TrellisNet, Anderson": {**right, **share}}
    (solver,) = judge("solver-and-length", runs(tmp_path / "b", "track", rows, "state tracking parity")).parts
    assert (more.verdict, solver.verdict) == verdicts


@pytest.mark.parametrize(("solved", "verdict"), [(1.0, "holds"), (0.5, "inconclusive")])
def test_nor_does_one_at_the_longest_test_sequences(tmp_path: Path, solved: float, verdict: str) -> None:
    right = {"test_accuracy_last_T16": [1.0] * 5, "test_accuracy_last_T128": [1.0] * 5, "eval_converged_fraction": [solved] * 5}
    (part,) = judge("tracks-state", runs(tmp_path, "track", {"DEQ-TrellisNet, Picard": right}, "state tracking parity")).parts
    assert (part.verdict, part.note.endswith("else it would hold")) == (verdict, solved < 1)


def test_a_part_names_rows_with_inadmissible_scores(tmp_path: Path) -> None:
    """One run that reads the future is enough."""
    rows = {
        "DEQ": {"test_loss": [2.0, 2.1, 2.2], "future_leak_nats": [1e-3, 1e-3, 3.0]},
        "DEQ, SHINE": {"test_loss": [2.0, 2.1, 2.2], "future_leak_nats": [1e-3, 1e-3, 1e-3]},
    }
    (part,) = judge("shared-inverse", runs(tmp_path, "speed", rows)).parts
    assert part.note.endswith("; inadmissible: DEQ")


@pytest.mark.parametrize(("solved", "verdict"), [(1.0, "holds"), (0.5, "inconclusive")])
def test_an_inadmissible_score_makes_no_claim_hold(tmp_path: Path, solved: float, verdict: str) -> None:
    """But it can be one that speaks against it."""
    explicit = {"test_perplexity": [9.0, 9.1, 9.2]}

    def found(folder: str, factor: float) -> Part:
        scores = {"test_perplexity": [factor * value for value in explicit["test_perplexity"]]}
        deq = {**scores, "eval_converged_fraction": [solved] * 3}
        deq["test_perplexity"][0] *= 1.001
        records = runs(tmp_path / folder, "small", {"DEQ-Transformer": deq, "Transformer-XL 4": explicit})
        (part,) = judge_claims([one for one in CLAIMS if one.id == "perplexity"], records)[0].parts
        return part

    better, worse = found("better", 0.9), found("worse", 1.3)
    assert (better.verdict, worse.verdict) == (verdict, "does not hold")
    assert ("else it would hold" in better.note) == (verdict == "inconclusive") == ("inadmissible" in worse.note)


def test_the_looped_network_is_not_judged_by_its_start(tmp_path: Path) -> None:
    def row(model: str, same: float, seed: int) -> dict[str, Any]:
        return {"task": "t", "model": model, "seed": seed, "values": {start: {"same": same} for start in ("normal", "warm")}}

    found = [row("DEQ", 1.0, seed) for seed in range(5)] + [row("looped", 0.0, seed) for seed in range(5)]
    parts = judge("same-state", studies(tmp_path, "path independence", found)).parts
    assert [(part.value, part.verdict) for part in parts] == [("1.00", "holds")] * 2


def test_steps_at_test_time_are_judged_at_the_longest_sequences(tmp_path: Path) -> None:
    def row(model: str, gain: float, seed: int) -> dict[str, Any]:
        scores = {
            32: {"accuracy_last_T16": 0.1, "accuracy_last_T128": 0.5 + seed / 100},
            64: {},
            256: {"accuracy_last_T128": 0.5 + gain},
        }
        points = [{"cap": cap, "scores": found} for cap, found in scores.items()]
        return {"task": "t", "model": model, "seed": seed, "values": {"points": points}}

    rows = [row("loop", 0.4, seed) for seed in range(5)] + [row("DEQ", 0.0, seed) for seed in range(5)]
    parts = judge("steps-and-length", studies(tmp_path, "test-time steps", [*rows, {"seed": 9, "values": None}])).parts
    assert {part.about: part.verdict for part in parts} == {
        "t, 128 tokens: loop, 256 evaluations less 32": "holds",
        "t, 128 tokens: DEQ, 256 evaluations less 32": "does not hold",
    }
    assert parts[0].samples == pytest.approx([0.4, 0.39, 0.38, 0.37, 0.36])


def test_a_warm_start_is_judged_by_cell(tmp_path: Path) -> None:
    def row(cell: str, saved: float, seed: int) -> dict[str, Any]:
        points = [{"rtol": 1e-2, "start": "shifted", "saved": saved}, {"rtol": 1e-2, "start": "initial", "saved": 0.0}]
        windows = [*points, {**points[0], "rtol": 0.1, "saved": 9}]
        return {"task": "t", "cell": cell, "seed": seed, "values": {"segments": [], "windows": windows}}

    rows = [row("trellis", 0.4 + seed / 100, seed) for seed in range(3)]
    rows += [row("transformer-xl", seed / 1000, seed) for seed in range(3)] + [{"cell": "x", "seed": 0, "values": None}]
    found = {part.about: part.verdict for part in judge("warm-start", studies(tmp_path, "warm start", rows)).parts}
    assert found == {"t: trellis": "holds", "t: transformer-xl": "does not hold"}


def test_every_row_that_a_claim_names_is_in_a_suite() -> None:
    """A claim whose rows were renamed would silently be untested."""
    suites = ("small", "speed", "ptb", "iterate")
    entries = [entry for suite in suites for entry in load_suite(suite, {})[1]]
    rows = {label for entry in entries for label in (entry.rows if isinstance(entry, Comparison) else [entry.label])}
    named = (entries_since._ONE, entries_since._FEW, entries_since._SHINE, entries_since._REVERSIBLE, entries_since._JACOBIAN)
    assert {label for pairs in named for pair in pairs for label in pair} <= rows
