"""The results folder: leases, fast listings, damaged records, malicious names, memory."""

import gc
import json
import shutil
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import IDENTITY

from bench.analysis.aggregate import groups, newest
from bench.analysis.tables import group_tables
from bench.records.errors import LeftOut, UserError
from bench.records.file_lock import acquire, release
from bench.records.record import CurvePoint, Record, measured, order, read_head, record_text, write_record
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store

ROOT = Path(__file__).resolve().parents[2]


def record(seed: int = 0, **changes: Any) -> Record:
    train = TrainConfig(steps=4, batch=2, learning_rate=0.1)
    spec = RunSpec(
        group="g", label="l", model=ComponentConfig(name="gru"), task=ComponentConfig(name="copy"), train=train, seed=seed
    )
    fields: dict[str, Any] = {"run_id": IDENTITY.run_id(spec.key), "suite": "s", "spec": spec, "identity": IDENTITY, "status": "ok"}
    return Record(**(fields | changes))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


class TestListing:
    def test_what_is_written_is_found(self, store: Store) -> None:
        for seed in (0, 1):
            store.write(record(seed))
        store.write(record(2, suite="t", status="crashed", reason='a\nb " \\ é'))
        assert store.suites() == ["s", "t"]
        assert store.ids("s") == sorted(record(seed).run_id for seed in (0, 1))
        assert store.by_key("s") == {record(seed).spec.key: [record(seed).run_id] for seed in (0, 1)}
        assert store.read("s", record(1).run_id).model_copy(update={"provenance": {}}) == record(1)
        (head,) = store.heads("t")
        assert (head.status, head.reason) == ("crashed", 'a\nb " \\ é')
        assert store.exists("s", record(0).run_id)
        assert not store.exists("s", record(5).run_id)

    def test_nothing_is_an_empty_list(self, store: Store) -> None:
        assert [store.suites(), store.ids("s"), list(store.heads("s")), store.unfinished("s"), store.leased("s")] == [[]] * 5
        assert not store.results.exists()

    def test_the_head_is_the_opening_of_the_record(self, store: Store) -> None:
        text = record_text(record(status="oom", reason="w" * 900, elapsed_s=1.25))
        assert list(json.loads(text))[:6] == ["schema_version", "run_id", "suite", "status", "reason", "elapsed_s"]
        head = read_head(store.write(record(status="oom", reason="w" * 900, elapsed_s=1.25)))
        assert head is not None
        assert (head.status, head.reason, head.elapsed_s) == ("oom", "w" * 900, 1.25)

    @pytest.mark.parametrize("content", ["", "{}", "[]", "\0", "{\n" * 9, '{\n "schema_version": 2,\n'])
    def test_what_does_not_begin_as_a_record_has_no_head(self, store: Store, content: str) -> None:
        path = store.write(record())
        path.write_text(content)
        assert read_head(path) is None
        with pytest.warns(LeftOut, match=path.name):
            assert list(store.heads("s")) == []
        with pytest.raises(UserError, match=path.name):
            store.check("s")

    def test_records_are_listed_by_their_first_lines(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """A record is not read whole, which made a listing of 100,000 take minutes."""
        write_record(store.path("s", record().run_id), record(elapsed_s=2.5))
        monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("read whole"))
        assert [head.elapsed_s for head in store.heads("s")] == [2.5]


class TestHostile:
    @pytest.mark.parametrize(
        "run_id", ["", "..", "../x", "a/b", "/etc/passwd", "x", "a-s0-000000000000", "A-s0-" + "0" * 12 + "-" + "0" * 12]
    )
    def test_an_id_that_is_none_is_refused(self, store: Store, run_id: str) -> None:
        for attempt in (store.path, store.work, store.lease, store.exists, store.read):
            with pytest.raises(UserError, match="not a run id"):
                attempt("s", run_id)
        assert not store.results.exists()

    @pytest.mark.parametrize("suite", ["", "..", "a/b", "/tmp", ".hidden", "a\nb"])
    def test_a_suite_that_is_none_is_refused(self, store: Store, suite: str) -> None:
        for attempt in (store.ids, store.unfinished, store.leased):
            with pytest.raises(UserError, match="not a suite name"):
                attempt(suite)

    @pytest.mark.parametrize("kind", ["runs", "work"])
    def test_a_folder_that_is_a_link_is_refused(self, store: Store, tmp_path: Path, kind: str) -> None:
        (tmp_path / "outside").mkdir()
        (store.results / kind).mkdir(parents=True)
        (store.results / kind / "s").symlink_to(tmp_path / "outside")
        with pytest.raises(UserError, match="is a link"):
            store.write(record()) if kind == "runs" else store.lease("s", record().run_id)
        assert list((tmp_path / "outside").iterdir()) == []

    def test_a_lease_that_is_a_link_is_not_opened(self, store: Store, tmp_path: Path) -> None:
        path = store.work("s", record().run_id).with_suffix(".lease")
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "victim")
        with pytest.raises(UserError, match="cannot lock"):
            store.lease("s", record().run_id)
        assert not (tmp_path / "victim").exists()

    def test_a_file_that_is_not_named_by_an_id_is_named_and_left_out(self, store: Store) -> None:
        store.write(record())
        (store.folder("runs", "s") / "notes.json").write_text("{}")
        assert store.ids("s") == [record().run_id]
        for read in (store.read_all, lambda suite: list(store.heads(suite))):
            with pytest.warns(LeftOut, match=r"notes\.json"):
                assert len(read("s")) == 1  # type: ignore[operator]

    def test_a_lease_whose_file_is_removed_meanwhile_is_not_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the opening of the file and its lock, its holder ends, and another takes the next file's lock."""
        fcntl = pytest.importorskip("fcntl")
        path, flock, others = tmp_path / "a.lease", fcntl.flock, list[int | None]()

        def late(handle: int, how: int) -> None:
            monkeypatch.undo()
            flock(handle, how)
            path.unlink()
            others.append(acquire(path))

        monkeypatch.setattr(fcntl, "flock", late)
        assert acquire(path, wait=False) is None
        (other,) = others
        assert other is not None
        release(other)
        free = acquire(path, wait=False)
        assert free is not None
        release(free)

    def test_a_lease_is_removed_before_it_is_released(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        lease, seen = store.lease("s", record().run_id), list[bool]()
        assert lease is not None
        (path,) = store.folder("work", "s").glob("*.lease")

        def watched(handle: int) -> None:
            seen.append(path.exists())
            release(handle)

        monkeypatch.setattr("bench.records.store.release", watched)
        lease.close()
        assert seen == [False]

    @pytest.mark.parametrize("name", [".ipynb_checkpoints", "old runs", "été", "a.json"])
    def test_a_stray_folder_among_the_suites_or_the_runs_is_no_suite(self, store: Store, name: str) -> None:
        store.write(record())
        for folder in (store.results / "runs", store.folder("runs", "s"), store.results / "work", store.results / "work" / "s"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(store.results / "runs" / "a.json", ignore_errors=True)  # this one could be a suite's
        assert store.suites() == ["s"]
        assert store.ids("s") == [record().run_id]
        assert (store.unfinished("s"), store.leased("s")) == ([], [])
        if name == "a.json":
            with pytest.warns(LeftOut, match=name):
                assert len(store.read_all("s")) == 1
        else:
            assert len(store.read_all("s")) == 1

    def test_damaged_records_are_left_out_in_one_warning_with_their_number_and_names(self, store: Store) -> None:
        paths = [store.write(record(seed)) for seed in range(6)]
        for path in paths[1:]:
            path.write_text(path.read_text().replace("copy", "cozy"))
        for read in (store.read_all, lambda suite: store.read_valid(suite, store.ids(suite))):
            with pytest.warns(LeftOut) as caught:
                assert [one.spec.seed for one in read("s")] == [0]  # type: ignore[operator]
            (text,) = [str(warning.message) for warning in caught]
            assert text.startswith("5 files of suite s are left out: ")
            assert "and 2 more" in text
            assert sum(path.name in text for path in paths[1:]) == 3
            assert "digest does not fit" in text
        with pytest.raises(UserError, match="digest does not fit"):
            store.read("s", paths[1].stem)
        with pytest.raises(UserError, match="digest does not fit"):
            store.check("s")

    def test_a_path_too_long_for_the_system_is_refused_before_a_run(self, tmp_path: Path) -> None:
        long = Store(tmp_path / "/".join(["x" * 200] * 19))
        with pytest.raises(UserError, match="too long"):
            long.check("s")
        assert list(tmp_path.iterdir()) == []


class TestOrder:
    """Which of a RunSpec's records is the newest."""

    def records(self, *times: str | None) -> list[Record]:
        """One RunSpec's records by other code each."""
        identities = [IDENTITY.model_copy(update={"data": str(number) * 64}) for number in range(len(times))]
        key = record().spec.key
        return [
            record(run_id=identity.run_id(key), identity=identity, provenance={"finished": time} if time is not None else {})
            for identity, time in zip(identities, times, strict=True)
        ]

    def test_a_clock_that_was_ahead_hides_no_later_record(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for one, now in zip(self.records("2040-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"), (2.2e9, 1.8e9), strict=True):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            store.write(one)
            monkeypatch.undo()
            assert [found.run_id for found in newest(store.read_all("s"))] == [one.run_id]

    def test_an_old_record_with_a_time_ahead_hides_no_later_one(self, store: Store) -> None:
        old, new = self.records("2090-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
        write_record(store.path("s", old.run_id), old)
        store.write(new)
        assert [found.run_id for found in newest(store.read_all("s"))] == [new.run_id]

    def test_a_record_that_is_made_again_is_the_newest(self, store: Store) -> None:
        first, second = self.records(None, None)
        for one in (first, second, first):
            store.write(one)
        assert [found.run_id for found in newest(store.read_all("s"))] == [first.run_id]

    def test_old_records_go_by_their_time_and_one_without_any_is_the_oldest(self) -> None:
        lost, early, late = self.records("never", "2026-01-01T23:30:00-01:00", "2026-01-02T01:00:00+00:00")
        assert sorted([late, lost, early], key=order) == [lost, early, late]


class TestMemory:
    def test_a_record_among_many_takes_little(self, store: Store) -> None:
        """Of 80 kB each on disk, 200 kB as pydantic keeps them."""
        ids = write_many(store, 50)
        store.read_valid("s", ids[:2])  # what is loaded once
        tracemalloc.start()
        try:
            kept = store.read_valid("s", ids)
            gc.collect()
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(kept) == 50
        assert now / 50 < 20_000
        assert peak / 50 < 30_000

    def test_what_is_held_in_little_memory_says_the_same(self, store: Store) -> None:
        write_many(store, 2)
        for small in store.read_all("s"):
            whole = store.read("s", small.run_id)
            assert type(small.curve) is not list
            for name in Record.model_fields:
                assert getattr(small, name) == getattr(whole, name), name
            assert [list(point.model_dump().items()) for point in small.curve] == [
                list(point.model_dump().items()) for point in whole.curve
            ]
            assert (small.curve[-1], small.curve[1:3], bool(small.curve)) == (whole.curve[-1], whole.curve[1:3], True)
            assert small.value("m1") == whole.value("m1")
            assert small.measures.get("no such") is None
            assert small.spec.key == whole.spec.key

    def test_a_step_that_no_float_holds_is_kept(self, store: Store) -> None:
        one = record(curve=[CurvePoint(step=10**400 + 1, seconds=0.0)])
        store.write(one)
        assert store.read_all("s")[0].curve == one.curve


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON text's content, with each of its names or numbers."""
    for name, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, name
        if isinstance(value, dict | list):
            yield from places(value)


@given(data=st.data(), value=st.sampled_from([None, 0, -1, 1e308, True, "", "\ud800", [], {}, [1], {"a": 1}, 10**400]))
def test_an_old_record_with_any_value_in_the_place_of_another_is_shown_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: Any
) -> None:
    """Without a digest, so that only what the content says can be judged."""
    store = Store(tmp_path_factory.getbasetemp() / "swapped")
    (run_id,) = write_many(store, 1)
    content = json.loads(store.path("s", run_id).read_text())
    content["curve"], content["probes"] = content["curve"][:3], {"depth": [], "residual_by_nfe": {"anderson": [[1, 0.5, 0.6]]}}
    content = {name: part for name, part in content.items() if "digest" not in name}
    holder, name = data.draw(st.sampled_from(list(places(content))))
    holder[name] = value
    store.path("s", run_id).write_text(json.dumps(content))
    with warnings.catch_warnings(), suppress(UserError):
        warnings.simplefilter("ignore", LeftOut)
        list(store.heads("s"))
        for group in groups("s", store.read_all("s")):
            group_tables(group)


def write_many(store: Store, number: int) -> list[str]:
    """Records as large as real ones; their ids."""
    where = {"git": {"revision": "0" * 40}, "packages": {f"package {i}": "1.2.3" for i in range(20)}}
    ids = []
    for seed in range(number):
        points = [
            CurvePoint(
                step=i + 1, seconds=i / 7 + seed, train_loss=1 / (i + 1), valid={} if i % 9 else {"loss": i / 3, "bits": i / 5}
            )
            for i in range(100)
        ]
        measures = {
            f"m{i}": measured(
                i / 3 + seed if i else None, "s", f"how number {i} was measured, in some words", "over what", "reason"
            )
            for i in range(50)
        }
        probes = {"residual_by_nfe": {"anderson": [[i, 1 / (i + 1), seed + i / 9] for i in range(100)]}, "n": {"x": [2**60, None]}}
        one = record(seed, curve=points, measures=measures, probes=probes, environment=where)
        write_record(store.path("s", one.run_id), one)
        ids.append(one.run_id)
    return ids
