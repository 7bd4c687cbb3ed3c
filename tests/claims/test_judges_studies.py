"""Verdicts on records of studies that are written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.claims import judges_studies, tables
from bench.claims.claim import Finding, Part, judge_claims
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.records.side_file import EXPERIMENTS
from bench.report.html.text import render


def studies(folder: Path, settings: dict[str, Any] | None = None, /, **rows: list[dict[str, Any]]) -> Evidence:
    (folder / "claims").mkdir(parents=True)
    found = {"experiments": {name.replace("_", " "): {"settings": settings, "rows": own} for name, own in rows.items()}}
    (folder / "claims" / "experiments.json").write_text(json.dumps(EXPERIMENTS.sealed(found)))
    return Evidence(folder)


def rows(values: Sequence[dict[str, Any] | None], **subject: Any) -> list[dict[str, Any]]:
    return [{"task": "t", "seed": seed, "values": one, **subject} for seed, one in enumerate(values)]


def judge(claim: str, evidence: Evidence) -> Finding:
    return judge_claims([one for one in CLAIMS if one.id == claim], evidence)[0]


def verdicts(claim: str, evidence: Evidence) -> list[str | None]:
    return [part.verdict for part in judge(claim, evidence).parts]


def test_steps_grow(tmp_path: Path) -> None:
    course = [{"course": [{"forward_nfe": 10.0}, {"forward_nfe": 99.0}, {"forward_nfe": end}]} for end in (20.0, 21.0, 22.0)]
    found = studies(tmp_path, training=rows([*course, None], model="DEQ") + rows(course[::-1], model="tied 12"))
    (part,) = judge("steps-grow", found).parts
    assert part.value.startswith(f"{(2.0 * 2.1 * 2.2) ** (1 / 3):.2f}")
    assert part.verdict == "holds"


@pytest.mark.parametrize(("backward", "verdict"), [(5.0, "holds"), (9.0, "does not hold")])
def test_backward_shorter(tmp_path: Path, backward: float, verdict: str) -> None:
    values = [{"train_forward_nfe_mean": 10.0 + seed, "train_backward_nfe_mean": backward + seed} for seed in range(5)]
    assert verdicts("backward-shorter", studies(tmp_path, training=rows(values, model="DEQ"))) == [verdict]


@pytest.mark.parametrize(("factor", "verdict"), [(1.7, "holds"), (3.0, "does not hold"), (1.0, "does not hold")])
def test_inference_time(tmp_path: Path, factor: float, verdict: str) -> None:
    values = [{"deq_ms": factor * (10 + seed), "tied_ms": 10.0 + seed + 0.01 * seed**2, "nfe": 8 + seed} for seed in range(5)]
    (part,) = judge("inference-time", studies(tmp_path, inference=rows([*values, None]))).parts
    assert part.verdict == verdict
    assert part.note == "t test, 5 seeds; evaluations of the solves: 8, 9, 10, 11, 12"
    assert part.samples == pytest.approx([one["deq_ms"] / one["tied_ms"] for one in values])


def test_inference_with_loose_solves_is_said_next_to_it(tmp_path: Path) -> None:
    values = [
        {"deq_ms": 20.0, "tied_ms": 10.0, "loose_ms": 5.0 * 2**seed, "nfe": 8, "loose_nfe": 3 + seed % 2} for seed in range(5)
    ]
    (part,) = judge("inference-time", studies(tmp_path, {"loose rtol": 0.1}, inference=rows(values))).parts
    # 2 e^(±t sd / sqrt(n)), t = 2.776, sd = log 2 sqrt(5/2)
    assert part.note.endswith("; to a tolerance of 0.1 2.0 [0.5, 7.8] times (evaluations: 3, 3, 3, 4, 4)")


@pytest.mark.parametrize(("lost", "verdict"), [(0.001, "holds"), (0.5, "does not hold")])
def test_tolerance_and_cap(tmp_path: Path, lost: float, verdict: str) -> None:
    tight = [{"rtol": 1e-6, "cap": 120, "loss": 2.0 + seed} for seed in range(5)]
    loose = [{"rtol": 0.1, "cap": 30, "loss": 2.0 + seed + lost * (1 + seed / 10)} for seed in range(5)]
    values = [{"points": list(points)} for points in zip(tight, loose, strict=True)]
    found = studies(tmp_path, tolerance=rows(values), cap=rows(values))
    assert verdicts("tolerance", found) == verdicts("cap", found) == [verdict]


def converged(share: float, spread: float = 1e-3) -> list[dict[str, Any] | None]:
    return [{"lengths": {"T=20": {"still": share + spread * seed}, "T=40": {"still": 0.0}}} for seed in range(3)]


def tied(folder: Path, *shares: Sequence[dict[str, Any] | None]) -> Part:
    layers = [row for task, own in zip("tu", shares, strict=False) for row in rows(own, model="tied 12", task=task)]
    (part,) = judge("tied-rest", studies(folder, layers=layers + rows(converged(0.0), model="DEQ"))).parts
    return part


def test_a_tied_network_is_judged_on_the_clearest_task(tmp_path: Path) -> None:
    part = tied(tmp_path, converged(0.99), converged(0.2))
    assert (part.about[:3], part.verdict) == ("u: ", "holds")


def test_the_clearest_of_several_tasks_is_corrected_for_the_choice(tmp_path: Path) -> None:
    unclear = converged(0.5, 0.17)  # alone below 0.99 with p = 4.1 %
    alone, among = tied(tmp_path / "one", unclear), tied(tmp_path / "two", unclear, converged(0.995))
    assert alone.p_for is not None
    assert among.p_for == pytest.approx(2 * alone.p_for)
    assert (alone.verdict, among.verdict) == ("holds", "inconclusive")


def test_a_tied_network_that_converges_on_every_task_is_against_the_claim(tmp_path: Path) -> None:
    assert tied(tmp_path, converged(0.995), converged(0.996)).verdict == "does not hold"


def test_a_small_loss_has_its_margin_as_a_factor(tmp_path: Path) -> None:
    values = [
        {"points": [{"rtol": 1e-6, "cap": 120, "loss": 1e-3}, {"rtol": 0.1, "cap": 30, "loss": 2e-3 + seed / 1e5}]}
        for seed in range(5)
    ]
    assert verdicts("tolerance", studies(tmp_path, tolerance=rows(values))) == ["does not hold"]


@pytest.mark.parametrize(
    ("same", "solved", "verdict"),
    [
        (1.0, 60, ["holds", "holds"]),
        (0.5, 60, ["holds", "does not hold"]),
        (1.0, 4, ["holds", "inconclusive"]),
        (None, 0, ["holds"]),
    ],
)
def test_root(tmp_path: Path, same: float | None, solved: int, verdict: list[str]) -> None:
    """Only sequences that both solvers solve say whether the root is the same; 299 of one root are 5 %."""
    pairs = {"a, b": {"same": 1.0, "samples": 60}, "a, c": {"same": same, "samples": solved}}
    found = studies(tmp_path, independence=rows([{"pairs": pairs}] * 5))
    assert verdicts("root", found) == verdict
    first = next(iter(judges_studies.one_root(found)))
    assert (first.value, first.p_for) == ("300 of 300", pytest.approx(0.99**300))


def test_gradients_batches_and_checkpointing(tmp_path: Path) -> None:
    def gradient(distance: float, cosine: float) -> dict[str, Any]:
        backward = [{"rtol": 1e-2, "distance": 0.1}, {"rtol": 1e-8, "distance": distance}, {"rtol": 1e-7, "distance": None}]
        return {"start": {"reason": "no roots"}, "end": {"backward": backward, "as trained": {"one_less_cosine": cosine}}}

    batch = [{"float64": [{"logits": 1e-9}, {"logits": worst}], "float32": [{"logits": 1e-4}]} for worst in (1e-8, 1e-5)]
    core = {"none": {"ratio": 1.0}, "sqrt": {"ratio": 1.33}, "every": {"ratio": 1.5}}
    found = studies(
        tmp_path,
        gradient=rows([gradient(1e-9, 1e-3), gradient(1e-8, 0.02)]),
        batch=rows(batch),
        recompute=rows([{"core": core}], depth=12),
    )
    assert verdicts("gradient", found) == ["holds", "does not hold"]
    assert verdicts("batch", found) == ["does not hold", "holds"]
    assert [part.note for part in judges_studies.gradient_is_exact(found)] == [
        "0 of 2 seeds fail: at most 78 % do, at 95 %",
        "1 of 2 seeds fail: 1 to 99 % do, at 95 %",
    ]
    finding = judge("checkpointing-cost", found)
    assert [(part.verdict, part.fact, part.adjusted, part.decided_by) for part in finding.parts] == [
        ("holds", True, None, "fact"),
        ("does not hold", True, None, "fact"),
    ]
    assert {row[4].text for row in tables.parts(finding).rows} == {"fact"}
    assert {line["fact"] for line in tables.summary([finding], "identities").data} == {"yes"}
    assert "fact" in render(finding)


def test_no_fixed_point(tmp_path: Path) -> None:
    counts = {"CONVERGED": 3, "MAX_STEPS": 10, "DIVERGED": 2, "NONFINITE": 1, "silent": 0, "grown": 2}
    solves = rows([{"picard": counts, "broyden": {**counts, "silent": 1}, "root": False}], map="m")
    training = [{"status": "ok", "train_converged_fraction": share} for share in (0.5, 1.0)]
    diverged = [{"status": "diverged", "train_converged_fraction": None}]
    found = studies(
        tmp_path,
        hostile=solves + rows([{"picard": counts}], map="n"),
        hostile_training=rows(training, model="a") + rows(diverged, model="b"),
    )
    parts = judge("no-fixed-point", found).parts
    assert [part.verdict for part in parts] == ["does not hold", "holds", "does not hold", "holds"]
    assert parts[0].value == "1 of 32 called converged wrongly"
    assert parts[1].note == "2 called converged as their iterates grew"
