"""Running a suite: only what has no record yet, trials before finals, every record written the moment it is there."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.engines.local import Watch, execute
from bench.environment import usable_cores
from bench.errors import UserError
from bench.plan import Plan
from bench.record import Record, read_record, write_record
from bench.spec import Spec

Announce = Callable[[Record, int, int], None]


def record_path(results: Path, suite: str, run_id: str) -> Path:
    """Where a run's record lies."""
    return results / "runs" / suite / f"{run_id}.json"


def slots(specs: Sequence[Spec], jobs: int | None) -> int:
    """How many runs go side by side: as asked, else one for each of the machine's cores that a run's threads fill; one on a GPU."""
    if jobs is not None:
        return jobs
    if any(spec.device != "cpu" for spec in specs):
        return 1
    return max(1, (usable_cores() or 1) // max(spec.threads for spec in specs)) if specs else 1


def ready(results: Path) -> None:
    """UserError where what is recorded is damaged or nothing can be written: before a run is paid for, not after."""
    for path in sorted((results / "runs").glob("*/*.json")):
        read_record(path)
    try:
        (results / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results / "runs"):
            pass
    except OSError as error:
        raise UserError(f"cannot write {results}: {error.strerror or error}") from error


def run_suite(
    plan: Plan,
    *,
    suite: str,
    results: Path,
    data: Mapping[str, Path],
    jobs: int | None = None,
    announce: Announce = lambda *_: None,
    start: Callable[[str, int, int], None] = lambda *_: None,
    watch: Watch = lambda *_: None,
) -> list[Record]:
    """Bring every run of the plan into being and return the records of its final runs.

    `start(stage, missing, wanted)` opens a stage, `announce(record, done, missing)` follows each new record.
    """
    known: dict[str, Record] = {}
    ready(results)
    for stage in ("trials", "finals"):
        specs = plan.trials() if stage == "trials" else plan.finals(known)
        fingerprints = plan.fingerprints(specs)
        missing = []
        for spec in specs:
            path = record_path(results, suite, spec.run_id)
            if not path.exists():
                missing.append(spec)
                continue
            known[spec.run_id] = read_record(path)
            _same_data(path, known[spec.run_id], fingerprints[spec.run_id])
        start(stage, len(missing), len(specs))
        runs = execute(missing, suite=suite, data=data, jobs=slots(missing, jobs), watch=watch)
        try:
            for done, record in enumerate(runs, start=1):
                write_record(record_path(results, suite, record.run_id), record)
                known[record.run_id] = record
                announce(record, done, len(missing))
        finally:
            runs.close()
    return [known[spec.run_id] for spec in specs]


def _same_data(path: Path, record: Record, fingerprint: str) -> None:
    recorded = record.provenance.get("data_sha256", fingerprint)  # a run that died early names none
    if recorded != fingerprint:
        raise UserError(f"{path}: made with other data of that name; choose another name, or --results with another folder")
