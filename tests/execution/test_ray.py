"""A matrix on a Ray cluster of several machines: what is lost with a machine is taken up again, and each run is made once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE_S, cluster
from test_engine import misfit, numbers, spec

from bench.execution.coordinator import Callbacks, Coordinator, RunOptions
from bench.execution.engines.engine import Progress
from bench.execution.engines.ray import Ray
from bench.execution.job import Job
from bench.execution.plan import Plan
from bench.records.errors import UserError
from bench.records.identity import Identity
from bench.records.store import Store
from bench.training.run import run

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.end_to_end
LONG = {"steps": 400, "evaluate_every": 100}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of one machine; who takes it away, or adds to it, leaves one."""
    with cluster(machines=1) as made:
        yield made


def until(there: Callable[[], bool]) -> None:
    """Wait for something; it fails the test that does not come."""
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_machine_that_would_make_another_run_refuses_it(machines: Any, tmp_path: Path) -> None:
    engine = Ray(machines.address, cores=1)
    plan = Plan([spec("l")])
    coordinator = Coordinator(plan, suite="s", store=Store(tmp_path), engine=engine)
    identity = coordinator.identity(plan.finals({})[0])
    other = Identity(**identity.model_dump() | {"environment": identity.environment | {"torch": "0.1"}})
    coordinator.identity = lambda spec: other  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"machine .+ of the cluster differs: torch 0.1"):
        coordinator.run()
    assert Store(tmp_path).ids("s") == []


def test_neither_an_edit_nor_a_crash_during_a_matrix_changes_a_later_run(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from user_models import Averages\n\nclass Mine(Averages):\n    def forward(self, x, memory=None):\n"
    source += "        return super().forward(FACTOR * x, memory)\n\nFACTOR = 1\n"
    path = tmp_path / "frozen_on_ray.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))

    def edit(*_: object) -> None:
        path.write_text(source.replace("FACTOR = 1", "FACTOR = 9"))

    specs = [spec(label, "frozen_on_ray:Mine", {"width": 4}) for label in "ab"]
    here = run(specs[0], suite="s")
    plan = Plan([specs[0], misfit("raises", "raise"), specs[1]])
    engine, callbacks = Ray(machines.address, cores=1), Callbacks(recorded=edit)
    first, failed, second = Coordinator(plan, suite="s", store=Store(tmp_path / "r"), engine=engine, callbacks=callbacks).run()
    assert numbers(first) == numbers(here)
    assert (failed.status, failed.reason) == ("crashed", "RuntimeError: a user's mistake")
    assert numbers(second)["curve"] == numbers(first)["curve"]


def test_stopping_saves_what_runs_and_never_begins_what_waits(machines: Any, tmp_path: Path) -> None:
    """One machine, two jobs: the second has no room."""
    engine = Ray(machines.address, cores=1, slots=2)
    coordinator = Coordinator(Plan([spec("x")]), suite="s", store=Store(tmp_path), engine=engine)
    jobs = []
    for label in "ab":
        one = misfit(label, "sleep", tmp_path, wait_s=PATIENCE_S, train={"steps": 1_000_000})
        jobs.append(coordinator.job(one, coordinator.identity(one), 1))
        engine.submit(jobs[-1])
    end = time.monotonic() + PATIENCE_S
    while not list(tmp_path.glob("*.asleep")):
        engine.wait(0.1)
        assert time.monotonic() < end
    engine.stop("enough")
    ends: dict[str, Any] = {}
    (tmp_path / "go").touch()
    while len(ends) < 2:
        assert time.monotonic() < end
        ends |= {event.job.spec.label: event for event in engine.wait(0.5) if not isinstance(event, Progress)}
    engine.close()
    (ran,), (waited,) = ([job for job in jobs if job.attempts.exists() is begun] for begun in (True, False))
    assert ends[waited.spec.label].reason == "enough"
    assert ends[ran.spec.label].record.status == "interrupted"


def test_where_no_cluster_answers_it_is_said_in_a_line() -> None:
    with pytest.raises(UserError, match=r"^engine ray: no cluster answers at '127\.0\.0\.1:9'"):
        Ray("127.0.0.1:9", cores=1)


def test_the_runs_of_a_machine_that_is_killed_are_taken_up_again_on_another(machines: Any, tmp_path: Path) -> None:
    """Two machines, three runs; once a run has saved its state, its machine is killed and a new one joins."""
    specs = [spec(f"l{number}", "deq", {"cell": "mlp", "width": 4, "steps": 5}, train=LONG) for number in range(3)]
    again: list[str] = []
    places: dict[str, int] = {}
    killed: list[str] = []
    machines.add_node(num_cpus=1, object_store_memory=2**27)
    engine = Ray(machines.address, cores=1)
    until(lambda: engine.slots == 2)
    assert (engine.slots, engine.concurrent_runs) == (2, 1)

    def stepped(event: Progress) -> None:
        """Kill both machines at the first sight of a saved state: whichever it lies on, its run is lost."""
        if not killed and event.job.checkpoint.is_file():
            killed.append(event.job.run_id)
            for machine in list(machines.worker_nodes):
                machines.remove_node(machine, allow_graceful=False)
            machines.add_node(num_cpus=1, object_store_memory=2**27)

    def begun(job: Job) -> None:
        places[job.run_id] = places.get(job.run_id, 0) + 1

    callbacks = Callbacks(progress=stepped, resumed=lambda job, reason: again.append(reason), started=begun)
    coordinator = Coordinator(
        Plan(specs), suite="s", store=Store(tmp_path), engine=engine, options=RunOptions(checkpoint_s=0.0), callbacks=callbacks
    )
    records = coordinator.run()
    assert [record.status for record in records] == ["ok"] * 3
    assert killed
    assert again
    assert all("machine was lost" in reason for reason in again)
    assert set(places.values()) == {1}
    assert Store(tmp_path).ids("s") == sorted(record.run_id for record in records)
    lost = next(record for record in records if record.run_id == killed[0])
    assert len(lost.provenance["attempts"]) == 2
    assert lost.provenance["attempts"][1]["from_step"] > 0
    assert numbers(lost)["curve"] == numbers(run(lost.spec, suite="s"))["curve"]
    assert not (tmp_path / "work").exists()
