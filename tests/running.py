"""What several tests need to make records and to run suites."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.execution.coordinator import Callbacks, Coordinator, RunOptions
from bench.execution.engines.local import Local
from bench.execution.plan import Plan
from bench.records.identity import Identity
from bench.records.record import Record
from bench.records.store import Store

IDENTITY = Identity(data="0" * 64, numerics={"DEQ": 1}, code={}, environment={"torch": "2.13.0"})
PATIENCE_S = 300.0  # on a machine that is busy; what is waited for comes within seconds on one that is not


@contextmanager
def cluster(machines: int) -> Iterator[Any]:
    """A Ray cluster on the loopback interface: a head without room, and machines with a core each. Skipped without Ray."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", "/tmp")  # its sockets need short paths
        patch.setenv("RAY_worker_niceness", "0")  # 15 without: a busy machine would starve it
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 2**27, "include_dashboard": False}
        soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # to be told of a machine's loss
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": soon, **small})
        try:
            for _ in range(machines):
                made.add_node(num_cpus=1, object_store_memory=2**27)
            yield made
        finally:
            made.shutdown()


def run_suite(plan: Plan, results: Path, *, suite: str = "s", jobs: int = 2, engine: Any = None, **more: Any) -> list[Record]:
    """A plan's final records, brought about on this machine."""
    callbacks, data = more.pop("callbacks", Callbacks()), more.pop("data", {})
    store, options = Store(results), RunOptions(**more)
    engine = engine or Local(jobs)
    return Coordinator(plan, suite=suite, store=store, engine=engine, data=data, options=options, callbacks=callbacks).run()
