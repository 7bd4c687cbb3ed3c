"""Runs on the machines of a Ray cluster, each in a process of its own, held to its limits by a supervisor on its machine.

Ray places a run by the cores or GPUs that it asks for, and does nothing else for it: its own retries are off, so that a run out of
memory stays a result; a run whose machine is lost is taken up again by the coordinator. Every machine must see the same code, data
and results folder under the same paths (a shared file system), and is asked before each run whether it does; the user's modules
travel with the job.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.catalog import build_task
from bench.engines.engine import Died, Event, Refused, Stepped, Stopped
from bench.engines.local import Local
from bench.environment import environment
from bench.errors import UserError
from bench.identity import decisive, project_digest
from bench.job import Job

_LOOK_S = 0.5
_CLOSE_S = 10.0
_ANSWER_S = 300.0
_PLACINGS = 10


class Supervisor:
    """On a run's machine: does jobs with the local engine, one after another."""

    def __init__(self, paths: list[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]  # where the user's own models lie
        self._engine = Local(1)

    def begin(self, job_json: str) -> list[Event]:
        """Begin a job, if this machine would make the run that is wanted."""
        job = Job.model_validate_json(job_json)
        unfit = _unfit(job)
        if unfit is not None:
            return [Refused(job, unfit)]
        self._engine.submit(job)
        return []

    def wait(self) -> list[Event]:
        """What has happened; an empty list after a while."""
        return self._engine.wait(_LOOK_S)

    def stop(self, why: str) -> None:
        """Ask the run to save its state and end."""
        self._engine.stop(why)

    def close(self) -> None:
        """End the run at once."""
        self._engine.close()


def _unfit(job: Job) -> str | None:
    """Why this machine would make another run of the job; None where it would not.

    Looks at nothing that needs the user's code imported, which may hang: the run's own process compares that.
    """
    wanted, task = job.identity, job.spec.task
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        data = wanted.data if ":" in task.name else build_task(task, job.data).fingerprint()
        here = decisive(environment(job.spec.device, job.spec.threads))
    except (UserError, OSError) as error:
        return f"machine {os.uname().nodename} of the cluster: {error}"
    other = wanted.differs(wanted.model_copy(update={"data": data, "environment": here}))
    if project_digest() != job.project:
        other.append("code of the project")
    return f"machine {os.uname().nodename} of the cluster differs: {'; '.join(other)}" if other else None


class Ray:
    """`address`: a cluster's, `auto` for the one that this machine belongs to; `cores` and `gpus`: what a run takes.

    `slots`, unless given, are as many as the cluster has room for at the moment.
    """

    def __init__(self, address: str, *, cores: int, gpus: int = 0, slots: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("engine ray: Ray is not installed here (pip install 'deq-bench[ray]')") from error
        self._ray, self._cores, self._gpus, self._slots = ray, cores, gpus, slots
        self._begun: dict[str, tuple[Job, Any]] = {}  # by run id: supervisors
        self._asked: dict[Any, str] = {}  # what is asked of a supervisor now: the run's id
        self._stopped: list[Event] = []
        self._placings: dict[str, int] = {}  # by run id: how often it was given to a supervisor since one last answered
        self._answered: set[str] = set()  # runs whose supervisor has a machine
        self._free: list[Any] = []  # supervisors that have done a job: their machine has everything imported
        self._joined = not ray.is_initialized()
        if self._joined:
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            except Exception as error:
                raise UserError(f"engine ray: no cluster answers at {address!r} ({' '.join(str(error).split())[:200]})") from error

    @property
    def slots(self) -> int:
        """As given, else what the cluster has room for; at least one, which then waits for room."""
        return self._slots or max(1, sum(self._room(node) for node in self._nodes()))

    @property
    def beside(self) -> int:
        """Runs that one machine has room for."""
        return min(self.slots, max([1, *(self._room(node) for node in self._nodes())]))

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self, node: Mapping[str, Any]) -> int:
        room = int(node["Resources"].get("CPU", 0)) // self._cores
        return min(room, int(node["Resources"].get("GPU", 0)) // self._gpus) if self._gpus else room

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """That of the machines that runs may go to; UserError where they differ in what decides digits."""
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self._ray.remote(environment).options
        there = [node["NodeID"] for node in self._nodes() if self._room(node)]
        if not there:
            raise UserError(
                f"engine ray: no machine of the cluster has {self._cores} cores" + f" and {self._gpus} GPUs" * bool(self._gpus)
            )
        gpus = 0.01 if self._gpus else 0  # to see one is enough
        asked = [
            ask(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            for node in there
        ]
        try:
            for supervisor in self._free:  # they hold the GPUs that are asked for
                self._kill(supervisor)
            self._free.clear()
            found = self._ray.get([one.remote(device, threads) for one in asked], timeout=_ANSWER_S)
        except RayError as error:
            raise UserError(f"engine ray: a machine of the cluster does not answer ({_first(error)})") from error
        kinds = [decisive(one) for one in found]
        apart = sorted(name for name in kinds[0] for kind in kinds if kind.get(name) != kinds[0][name])
        if apart:
            values = sorted({str(kind.get(apart[0])) for kind in kinds})
            raise UserError(
                f"engine ray: the cluster's machines differ in {apart[0]}: {', '.join(values)}; records would not compare"
            )
        return dict(found[0])

    def submit(self, job: Job) -> None:
        """Give the job to a supervisor that is free, or to a new one, which Ray places as soon as there is room."""
        supervisor = self._free.pop() if self._free else self._supervisor()
        self._begun[job.run_id] = (job, supervisor)
        self._placings[job.run_id] = self._placings.get(job.run_id, 0) + 1
        self._asked[supervisor.begin.remote(job.model_dump_json())] = job.run_id

    def _supervisor(self) -> Any:
        place = {"num_cpus": self._cores, "num_gpus": self._gpus, "max_restarts": 0, "max_task_retries": 0}
        return self._ray.remote(Supervisor).options(**place).remote([path for path in sys.path if path and Path(path).is_dir()])

    def wait(self, seconds: float) -> list[Event]:
        """What the supervisors have said or become."""
        events, self._stopped = self._stopped, []
        if not self._asked:
            time.sleep(0 if events else seconds)
            return events
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=0 if events else seconds)
        more, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answer in {*ready, *more}:
            run_id = self._asked.pop(answer)
            said = self._said(run_id, answer)
            events += said
            if run_id not in self._answered and not said:
                job, supervisor = self._begun.pop(run_id)
                self._kill(supervisor)
                self.submit(job)
            elif all(isinstance(event, Stepped) for event in said):
                self._asked[self._begun[run_id][1].wait.remote()] = run_id
            else:
                _, supervisor = self._begun.pop(run_id)
                if run_id in self._answered and self._begun.keys() <= self._answered:
                    self._free.append(supervisor)
                else:  # it is gone, or another one waits for its room
                    self._kill(supervisor)
                self._answered.discard(run_id)
        return events

    def _said(self, run_id: str, answer: Any) -> list[Event]:
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        try:
            events: list[Event] = self._ray.get(answer)
        except OutOfMemoryError as error:
            self._answered.discard(run_id)
            return [Died(self._begun[run_id][0], f"out of memory: {_first(error)}", "oom")]
        except RayTaskError as error:  # the supervisor itself is at fault: the same everywhere
            return [Refused(self._begun[run_id][0], f"engine ray: {_last(error)}")]
        except RayError as error:  # the supervisor, its machine or its network is gone
            for supervisor in self._free:  # one of them may have been there
                self._kill(supervisor)
            self._free.clear()
            if run_id not in self._answered and self._placings.get(run_id, 0) < _PLACINGS:
                return []  # Ray had placed it on a machine that was lost already: it has not begun
            self._answered.discard(run_id)
            self._placings.pop(run_id, None)
            return [Died(self._begun[run_id][0], f"its machine was lost: {_first(error)}")]
        self._answered.add(run_id)
        self._placings.pop(run_id, None)
        return events

    def _kill(self, supervisor: Any) -> None:
        with suppress(Exception):
            self._ray.kill(supervisor)

    def stop(self, why: str) -> None:
        """Ask the runs to save their state and end; those that have no machine yet never begin."""
        for run_id, (job, supervisor) in list(self._begun.items()):
            if run_id in self._answered:
                supervisor.stop.remote(why)
            else:
                self._asked = {answer: other for answer, other in self._asked.items() if other != run_id}
                self._stopped.append(Stopped(job, why))
                self._kill(self._begun.pop(run_id)[1])

    def close(self) -> None:
        """End what still runs, and leave the cluster; nothing where that has been done."""
        if not self._ray.is_initialized():  # any call would make a cluster of its own
            return
        with suppress(Exception):
            self._ray.get([supervisor.close.remote() for _, supervisor in self._begun.values()], timeout=_CLOSE_S)
        for supervisor in [*self._free, *(supervisor for _, supervisor in self._begun.values())]:
            self._kill(supervisor)
        self._free.clear()
        self._begun.clear()
        self._asked.clear()
        if self._joined:
            self._ray.shutdown()


def _reach(address: str) -> None:
    """OSError where nobody listens at HOST:PORT: Ray itself would wait a minute, and then end the process."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5.0).close()


def _last(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[:200]


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
