"""What several tests need to make records and to run suites."""

from pathlib import Path
from typing import Any

from bench.coordinator import Coordinator, Orders, Watch
from bench.engines.local import Local
from bench.identity import Identity
from bench.plan import Plan
from bench.record import Record
from bench.store import Store

IDENTITY = Identity(data="0" * 64, code={"deq.solve": "0" * 12}, environment={"torch": "2.13.0"})


def run_suite(plan: Plan, results: Path, *, suite: str = "s", jobs: int = 2, engine: Any = None, **more: Any) -> list[Record]:
    """A plan's final records, brought about on this machine."""
    watch, data = more.pop("watch", Watch()), more.pop("data", {})
    coordinator = Coordinator(
        plan, suite=suite, store=Store(results), engine=engine or Local(jobs), data=data, orders=Orders(**more), watch=watch
    )
    return coordinator.run()
