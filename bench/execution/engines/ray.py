"""Execute runs on the machines of a Ray cluster, each in its own process, monitored by a supervisor on the same machine.

Ray only places a run by its cores and GPUs. Ray's retries are off, so that a run out of memory stays a result; the coordinator
resumes a run whose machine is lost. Every machine must see the same code, data and results folder under the same paths (a shared
file system), which is checked before each run; the user's modules are sent with the job.
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

from bench.execution.engines.engine import Event, Lost, Progress, Refused
from bench.execution.engines.local import Local
from bench.execution.job import Job
from bench.instruments.environment import environment
from bench.records.errors import UserError
from bench.records.identity import numeric_environment, project_digest
from bench.training.registry import build_task

_POLL_S = 0.5
_CLOSE_S = 10.0
_ANSWER_S = 300.0
_PLACEMENTS = 10


class Supervisor:
    """Execute jobs on a run's machine with the local engine, one after another."""

    def __init__(self, paths: list[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]  # of the user's models
        self._engine = Local(1)

    def begin(self, job_json: str) -> list[Event]:
        """Start a job; Refused where this machine would compute another run id."""
        job = Job.model_validate_json(job_json)
        mismatch = _mismatch(job)
        if mismatch is not None:
            return [Refused(job, mismatch)]
        self._engine.submit(job)
        return []

    def wait(self) -> list[Event]:
        """The events of the next half second."""
        return self._engine.wait(_POLL_S)

    def stop(self, reason: str) -> None:
        """Ask the run to save its state and end."""
        self._engine.stop(reason)

    def close(self) -> None:
        """Kill the run."""
        self._engine.close()


def _mismatch(job: Job) -> str | None:
    """Why this machine would compute another run id, or None.

    The user's code, which may hang, is compared by the run's own process.
    """
    expected, task = job.identity, job.spec.task
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        data = expected.data if ":" in task.name else build_task(task, job.data).fingerprint()
        here = numeric_environment(environment(job.spec.device, job.spec.threads))
    except (UserError, OSError) as error:
        return f"machine {os.uname().nodename} of the cluster: {error}"
    differences = expected.differs(expected.model_copy(update={"data": data, "environment": here}))
    if project_digest() != job.project:
        differences.append("code of the project")
    return f"machine {os.uname().nodename} of the cluster differs: {'; '.join(differences)}" if differences else None


class Ray:
    """The engine `ray`. `address`: of the cluster, or `auto` for this machine's; `cores` and `gpus`: of each run."""

    def __init__(self, address: str, *, cores: int, gpus: int = 0, slots: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("engine ray: Ray is not installed here (pip install 'deq-bench[ray]')") from error
        self._ray, self._cores, self._gpus, self._slots = ray, cores, gpus, slots
        self._running: dict[str, tuple[Job, Any]] = {}  # by run id: the job and its supervisor
        self._calls: dict[Any, str] = {}  # pending calls of supervisors: the run's id
        self._stopped: list[Event] = []
        self._placements: dict[str, int] = {}  # by run id: submissions that no supervisor has answered
        self._answered: set[str] = set()  # runs whose supervisor was placed
        self._idle: list[Any] = []  # supervisors whose job has ended; they have everything imported
        self._connected = _connect(ray, address)

    @property
    def slots(self) -> int:
        """As given, else as many as the cluster has room for now; at least one, which then waits for room."""
        return self._slots or max(1, sum(self._room(node) for node in self._nodes()))

    @property
    def concurrent_runs(self) -> int:
        """The most runs that one machine has room for."""
        return min(self.slots, max([1, *(self._room(node) for node in self._nodes())]))

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self, node: Mapping[str, Any]) -> int:
        room = int(node["Resources"].get("CPU", 0)) // self._cores
        return min(room, int(node["Resources"].get("GPU", 0)) // self._gpus) if self._gpus else room

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """The environment of all machines with room for a run; UserError where they differ in a part of the run id."""
        nodes = [node["NodeID"] for node in self._nodes() if self._room(node)]
        if not nodes:
            gpus = f" and {self._gpus} GPUs" if self._gpus else ""
            raise UserError(f"engine ray: no machine of the cluster has {self._cores} cores{gpus}")
        self._kill_idle()  # they hold GPUs
        found = _environments(self._ray, nodes, 0.01 if self._gpus else 0, (device, threads))
        kinds = [numeric_environment(one) for one in found]
        different = sorted(name for name in kinds[0] for kind in kinds if kind.get(name) != kinds[0][name])
        if different:
            values = ", ".join(sorted({str(kind.get(different[0])) for kind in kinds}))
            raise UserError(f"engine ray: the cluster's machines differ in {different[0]}: {values}; records would not compare")
        return dict(found[0])

    def submit(self, job: Job) -> None:
        """Submit the job to an idle supervisor, or to a new one, which Ray places as soon as there is room."""
        supervisor = self._idle.pop() if self._idle else self._new_supervisor()
        self._running[job.run_id] = (job, supervisor)
        self._placements[job.run_id] = self._placements.get(job.run_id, 0) + 1
        self._calls[supervisor.begin.remote(job.model_dump_json())] = job.run_id

    def _new_supervisor(self) -> Any:
        options = {"num_cpus": self._cores, "num_gpus": self._gpus, "max_restarts": 0, "max_task_retries": 0}
        paths = [path for path in sys.path if path and Path(path).is_dir()]
        return self._ray.remote(Supervisor).options(**options).remote(paths)

    def wait(self, seconds: float) -> list[Event]:
        """Collect the answers of the supervisors."""
        events, self._stopped = self._stopped, []
        if not self._calls:
            time.sleep(0 if events else seconds)
            return events
        first, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=0 if events else seconds)
        ready, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        for call in {*first, *ready}:
            run_id = self._calls.pop(call)
            found = self._result(run_id, call)
            events += found
            self._continue(run_id, found)
        return events

    def _continue(self, run_id: str, events: list[Event]) -> None:
        """After a supervisor's answer: submit a job that never began again, wait for more events, or release the supervisor."""
        job, supervisor = self._running[run_id]
        if run_id not in self._answered and not events:
            del self._running[run_id]
            self._kill(supervisor)
            self.submit(job)
        elif all(isinstance(event, Progress) for event in events):
            self._calls[supervisor.wait.remote()] = run_id
        else:
            del self._running[run_id]
            if run_id in self._answered and self._running.keys() <= self._answered:
                self._idle.append(supervisor)
            else:  # it is lost, or another run waits for its room
                self._kill(supervisor)
            self._answered.discard(run_id)

    def _result(self, run_id: str, call: Any) -> list[Event]:
        """The events that a supervisor's call returned; empty also where the run is to be submitted again."""
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        job = self._running[run_id][0]
        try:
            events: list[Event] = self._ray.get(call)
        except OutOfMemoryError as error:
            self._answered.discard(run_id)
            return [Lost(job, f"out of memory: {_lines(error)[0]}", "oom")]
        except RayTaskError as error:  # the supervisor itself fails
            return [Refused(job, f"engine ray: {_lines(error)[-1]}")]
        except RayError as error:  # the supervisor, its machine or its network is lost
            self._kill_idle()  # one of them may have been there
            if run_id not in self._answered and self._placements.get(run_id, 0) < _PLACEMENTS:
                return []  # Ray had placed it on a machine that was already lost
            self._answered.discard(run_id)
            self._placements.pop(run_id, None)
            return [Lost(job, f"its machine was lost: {_lines(error)[0]}")]
        self._answered.add(run_id)
        self._placements.pop(run_id, None)
        return events

    def _kill(self, supervisor: Any) -> None:
        with suppress(Exception):
            self._ray.kill(supervisor)

    def _kill_idle(self) -> None:
        for supervisor in self._idle:
            self._kill(supervisor)
        self._idle.clear()

    def stop(self, reason: str) -> None:
        """Ask the runs to save their state and end; those without a machine never begin."""
        for run_id, (job, supervisor) in list(self._running.items()):
            if run_id in self._answered:
                supervisor.stop.remote(reason)
            else:
                self._calls = {call: other for call, other in self._calls.items() if other != run_id}
                self._stopped.append(Lost(job, reason, "interrupted"))
                self._kill(self._running.pop(run_id)[1])

    def close(self) -> None:
        """Kill the runs and leave the cluster."""
        if not self._ray.is_initialized():  # any call would start a local cluster
            return
        with suppress(Exception):
            self._ray.get([supervisor.close.remote() for _, supervisor in self._running.values()], timeout=_CLOSE_S)
        self._idle += [supervisor for _, supervisor in self._running.values()]
        self._kill_idle()
        self._running.clear()
        self._calls.clear()
        if self._connected:
            self._ray.shutdown()


def _environments(ray: Any, nodes: list[str], gpus: float, place: tuple[str, int]) -> list[Mapping[str, Any]]:
    """Each node's environment for a device and a number of threads; `gpus`: a fraction is enough to see the GPU."""
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(environment).options
    try:
        calls = [
            ask(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            for node in nodes
        ]
        found: list[Mapping[str, Any]] = ray.get([call.remote(*place) for call in calls], timeout=_ANSWER_S)
    except RayError as error:
        raise UserError(f"engine ray: a machine of the cluster does not answer ({_lines(error)[0]})") from error
    return found


def _connect(ray: Any, address: str) -> bool:
    """Connect to the cluster; False where this process was connected already."""
    if ray.is_initialized():
        return False
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # where no server listens, Ray would end this process after a minute
            socket.create_connection((host, int(port)), timeout=5.0).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:
        raise UserError(f"engine ray: no cluster answers at {address!r} ({' '.join(str(error).split())[:200]})") from error
    return True


def _lines(error: Exception) -> list[str]:
    """The lines of an exception's text, shortened; its type's name without any."""
    return [line.strip()[:200] for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
