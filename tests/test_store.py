"""The results folder: a lease has one holder and dies with it, a listing is quick, a hostile name leads nowhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import IDENTITY

from bench.errors import UserError
from bench.lock import acquire, taken
from bench.record import Record, read_head, record_text
from bench.spec import Named, Spec, Train
from bench.store import Store

ROOT = Path(__file__).resolve().parents[1]


def record(seed: int = 0, **changes: Any) -> Record:
    train = Train(steps=4, batch=2, learning_rate=0.1)
    spec = Spec(group="g", label="l", model=Named(name="gru"), task=Named(name="copy"), train=train, seed=seed)
    fields: dict[str, Any] = {"run_id": IDENTITY.run_id(spec.key), "suite": "s", "spec": spec, "identity": IDENTITY, "status": "ok"}
    return Record(**(fields | changes))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


class TestListing:
    def test_what_is_written_is_found(self, store: Store) -> None:
        for seed in (0, 1):
            store.write(record(seed))
        store.write(record(2, suite="t", status="crashed", why='a\nb " \\ é'))
        assert store.suites() == ["s", "t"]
        assert store.ids("s") == sorted(record(seed).run_id for seed in (0, 1))
        assert store.by_key("s") == {record(seed).spec.key: [record(seed).run_id] for seed in (0, 1)}
        assert store.read("s", record(1).run_id) == record(1)
        (head,) = store.heads("t")
        assert (head.status, head.why) == ("crashed", 'a\nb " \\ é')
        assert store.exists("s", record(0).run_id)
        assert not store.exists("s", record(5).run_id)

    def test_nothing_is_an_empty_list(self, store: Store) -> None:
        assert (store.suites(), store.ids("s"), list(store.heads("s")), store.unfinished("s"), store.leased("s")) == (
            [],
            [],
            [],
            [],
            [],
        )
        assert not store.results.exists()

    def test_the_head_is_the_opening_of_the_record(self, store: Store) -> None:
        text = record_text(record(status="oom", why="w" * 900, elapsed_s=1.25))
        assert list(json.loads(text))[:6] == ["schema_version", "run_id", "suite", "status", "why", "elapsed_s"]
        head = read_head(store.write(record(status="oom", why="w" * 900, elapsed_s=1.25)))
        assert head is not None
        assert (head.status, head.why, head.elapsed_s) == ("oom", "w" * 900, 1.25)

    @pytest.mark.parametrize("content", ["", "{}", "[]", "\0", "{\n" * 9, '{\n "schema_version": 2,\n'])
    def test_what_does_not_begin_as_a_record_has_no_head(self, store: Store, content: str) -> None:
        path = store.write(record())
        path.write_text(content)
        assert read_head(path) is None
        assert list(store.heads("s")) == []
        with pytest.raises(UserError, match=path.name):
            store.check(["s"])

    def test_a_hundred_thousand_records_are_listed_faster_than_one_in_a_hundred_is_read(self, store: Store) -> None:
        """A ratio, because seconds are the machine's: opening lines only, so 100 times as many files cost less than whole ones."""
        text = record_text(record(elapsed_s=2.5)).replace("\n}\n", f',\n "x": "{"x" * 20_000}"\n}}\n')
        folder = store.folder("runs", "s")
        folder.mkdir(parents=True)
        first = folder / f"{record().run_id}.json"
        first.write_text(text)
        for number in range(1, 2_000):
            os.link(first, folder / f"g-l-s0-{number:012x}-{number:012x}.json")
        begun = time.perf_counter()
        assert sum(head.elapsed_s for head in store.heads("s")) == 2.5 * 2_000
        listed = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(200):
            json.loads(first.read_text())
        assert listed < 20 * (time.perf_counter() - begun)


class TestHostile:
    @pytest.mark.parametrize(
        "run_id", ["", "..", "../x", "a/b", "/etc/passwd", "x", "a-s0-000000000000", "A-s0-" + "0" * 12 + "-" + "0" * 12]
    )
    def test_an_id_that_is_none_is_refused(self, store: Store, run_id: str) -> None:
        for attempt in (store.path, store.work, store.lease, store.exists, store.read):
            with pytest.raises(UserError, match="no run id"):
                attempt("s", run_id)
        assert not store.results.exists()

    @pytest.mark.parametrize("suite", ["", "..", "a/b", "/tmp", ".hidden", "a\nb"])
    def test_a_suite_that_is_none_is_refused(self, store: Store, suite: str) -> None:
        for attempt in (store.ids, store.unfinished, store.leased):
            with pytest.raises(UserError, match="no name for a suite"):
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

    def test_a_file_that_is_not_named_by_an_id_is_named(self, store: Store) -> None:
        store.write(record())
        (store.folder("runs", "s") / "notes.json").write_text("{}")
        with pytest.raises(UserError, match=r"notes\.json"):
            store.ids("s")


class TestLease:
    def test_has_one_holder(self, store: Store) -> None:
        lease = store.lease("s", record().run_id)
        assert lease is not None
        assert store.lease("s", record().run_id) is None
        assert store.lease("s", record(1).run_id) is not None
        assert record().run_id in store.leased("s")
        lease.close()
        lease.close()
        assert record().run_id not in store.leased("s")
        assert store.lease("s", record().run_id) is not None

    @pytest.mark.parametrize("how", ["kill", "exit"])
    def test_dies_with_its_holder(self, store: Store, how: str) -> None:
        code = f"""
import sys, time
from pathlib import Path
from bench.store import Store
lease = Store(Path({str(store.results)!r})).lease("s", {record().run_id!r})
print("held", flush=True)
sys.stdin.read()
"""
        holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        assert store.lease("s", record().run_id) is None
        assert store.leased("s") == [record().run_id]
        if how == "kill":
            holder.kill()
        else:
            holder.stdin.close()
        holder.wait()
        lease = store.lease("s", record().run_id)
        assert lease is not None
        lease.close()

    def test_of_many_who_want_it_one_at_a_time_has_it(self, store: Store, tmp_path: Path) -> None:
        """The lock file is removed each time: whoever waited for the old one must not think it has the new one."""
        code = f"""
import os, sys
from pathlib import Path
from bench.store import Store
store, room = Store(Path({str(store.results)!r})), Path({str(tmp_path / "room")!r})
for _ in range(300):
    while (lease := store.lease("s", {record().run_id!r})) is None:
        pass
    os.close(os.open(room, os.O_CREAT | os.O_EXCL))
    room.unlink()
    lease.close()
"""
        crowd = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
        assert [one.wait(timeout=120) for one in crowd] == [0] * 4


class TestLock:
    def test_shared_and_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        assert not taken(path)
        first, second = acquire(path, shared=True), acquire(path, shared=True)
        assert first is not None
        assert second is not None
        assert acquire(path, wait=False) is None
        os.close(first)
        assert acquire(path, wait=False) is None
        os.close(second)
        alone = acquire(path, wait=False)
        assert alone is not None
        assert taken(path)
        os.close(alone)
        assert not taken(path)
