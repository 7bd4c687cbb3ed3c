"""The engine `ray`: runs of a lost machine resume on another, and a machine that differs refuses a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import (
    DEQ,
    ENDLESS,
    MakeJob,
    cluster,
    failing,
    numbers,
    record_of,
    spec,
    wait_for_end,
    wait_for_file,
    wait_until,
)

from bench.execution.coordinator import Callbacks, Coordinator, RunOptions
from bench.execution.engines.engine import Progress, Refused
from bench.execution.engines.ray import Ray, Supervisor
from bench.execution.job import Job
from bench.execution.plan import Plan
from bench.records.errors import UserError
from bench.records.identity import project_digest
from bench.records.spec import ComponentConfig
from bench.records.store import Store
from bench.training.run import run

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.end_to_end
LONG = {"steps": 150, "evaluate_every": 50}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of one machine; a test that removes or adds machines leaves one."""
    with cluster(machines=1) as made:
        yield made


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": {"torch": "0.1"}}, "of the cluster differs: torch 0.1"),
        ({"data": "0"}, "differs: data"),
        ({"project": "0"}, "differs: code of the project"),
    ],
)
def test_a_machine_that_differs_refuses_the_run(job: MakeJob, changes: dict[str, Any], reason: str) -> None:
    copying = ComponentConfig(name="copy", settings={"T": 5})
    one = job(spec("l").model_copy(update={"task": copying}), project=changes.get("project", project_digest()))
    environment = one.identity.environment | changes.get("environment", {})
    identity = one.identity.model_copy(update={"environment": environment, "data": changes.get("data", one.identity.data)})
    (end,) = Supervisor([]).begin(one.model_copy(update={"identity": identity}).model_dump_json())
    assert isinstance(end, Refused)
    assert reason in end.reason


def test_a_supervisor_executes_a_job(job: MakeJob) -> None:
    supervisor = Supervisor([])
    assert supervisor.begin(job(spec("l"), project=project_digest()).model_dump_json()) == []
    events = wait_until(lambda: [event for event in supervisor.wait() if not isinstance(event, Progress)])
    assert record_of(events[0]).status == "ok"
    supervisor.close()


def test_an_address_without_a_cluster_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^engine ray: no cluster answers at '127\.0\.0\.1:9'"):
        Ray("127.0.0.1:9", cores=1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [1, 2])
def test_the_runs_of_lost_machines_resume_on_another(machines: Any, tmp_path: Path, number: int) -> None:
    """As many machines as runs; all are killed when a run has saved its state, and a new one joins."""
    specs = [spec(f"l{seed}", "deq", DEQ, train=LONG) for seed in range(number)]
    reasons: list[str] = []
    starts: list[str] = []
    killed: list[str] = []
    for _ in range(number - 1):
        machines.add_node(num_cpus=1, object_store_memory=2**27)
    engine = Ray(machines.address, cores=1)
    wait_until(lambda: engine.slots == number)
    assert engine.concurrent_runs == 1

    def on_progress(event: Progress) -> None:
        if not killed and event.job.checkpoint.is_file():
            killed.append(event.job.run_id)
            for machine in list(machines.worker_nodes):
                machines.remove_node(machine, allow_graceful=False)
            machines.add_node(num_cpus=1, object_store_memory=2**27)

    def on_start(job: Job) -> None:
        starts.append(job.run_id)

    callbacks = Callbacks(progress=on_progress, resumed=lambda job, reason: reasons.append(reason), started=on_start)
    options, store = RunOptions(checkpoint_s=0.0), Store(tmp_path)
    records = Coordinator(Plan(specs), suite="s", store=store, engine=engine, options=options, callbacks=callbacks).run()
    assert [record.status for record in records] == ["ok"] * number
    assert len(set(starts)) == len(starts) == number
    assert reasons
    assert all("machine was lost" in reason for reason in reasons)
    assert store.ids("s") == sorted(starts)
    lost = next(record for record in records if record.run_id == killed[0])
    assert [attempt["from_step"] > 0 for attempt in lost.provenance["attempts"]] == [False, True]
    assert numbers(lost)["curve"] == numbers(run(lost.spec, suite="s"))["curve"]
    assert not (tmp_path / "work").exists()


@pytest.mark.exhaustive
def test_an_edit_or_a_crash_changes_no_later_run(machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from user_models import Averages\n\nclass Mine(Averages):\n    def forward(self, x, memory=None):\n"
    source += "        return super().forward(FACTOR * x, memory)\n\nFACTOR = 1\n"
    path = tmp_path / "frozen_on_ray.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))

    def edit(*_: object) -> None:
        path.write_text(source.replace("FACTOR = 1", "FACTOR = 9"))

    specs = [spec(label, "frozen_on_ray:Mine", {"width": 4}) for label in "ab"]
    here = run(specs[0], suite="s")
    plan = Plan([specs[0], failing("raises", "raise"), specs[1]])
    engine, callbacks = Ray(machines.address, cores=1), Callbacks(recorded=edit)
    first, failed, second = Coordinator(plan, suite="s", store=Store(tmp_path / "r"), engine=engine, callbacks=callbacks).run()
    assert numbers(first) == numbers(here)
    assert (failed.status, failed.reason) == ("crashed", "RuntimeError: a user's mistake")
    assert numbers(second)["curve"] == numbers(first)["curve"]


@pytest.mark.exhaustive
def test_stop_saves_what_runs_and_never_begins_what_waits(machines: Any, job: MakeJob, tmp_path: Path) -> None:
    """One machine, two jobs."""
    engine = Ray(machines.address, cores=1, slots=2)
    jobs = [job(failing(label, "sleep", tmp_path, train=ENDLESS), project=project_digest()) for label in "ab"]
    for one in jobs:
        engine.submit(one)
    wait_for_file(tmp_path, "*.asleep", engine)
    engine.stop("enough")
    (tmp_path / "go").touch()
    ends: dict[str, Any] = {}
    while len(ends) < 2:
        event = wait_for_end(engine)
        ends[event.job.spec.label] = event
    engine.close()
    (ran,), (waited,) = ([one for one in jobs if one.attempts.exists() is begun] for begun in (True, False))
    assert ends[waited.spec.label].reason == "enough"
    assert record_of(ends[ran.spec.label]).status == "interrupted"
