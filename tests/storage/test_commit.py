from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from ringlog.errors import ConfigurationError, Conflict, CorruptionError, OutcomeUnknown, Unavailable
from ringlog.schema import TABLE_SCHEMA
from ringlog.storage.commit import ATTEMPTS, CHECKPOINT_VERSIONS, Flush, Snapshot, Table
from ringlog.storage.segment import write_segments
from storage.conftest import Place
from table_rows import DAY_NS, NOON, rows


def flush(table: Table, shard: str, start: int, count: int, **columns: Any) -> Flush:
    batch = rows(shard, start, count, **columns)
    return Flush(shard, start, start + count, write_segments(table.objects, shard, start, [batch]))


def positions(snapshot: Snapshot) -> dict[str, list[int]]:
    """The offsets that ``snapshot`` holds of each shard, doubles and all."""
    held = snapshot.delta.to_pyarrow_table(columns=["shard", "record_offset"])
    shards, offsets = held["shard"].to_pylist(), held["record_offset"].to_pylist()
    return {
        shard: sorted(offset for of, offset in zip(shards, offsets, strict=True) if of == shard)
        for shard in sorted(set(shards))
    }


def racing(count: int, work: Callable[[], Any]) -> list[Any]:
    """What ``count`` threads that start together return, or raise."""
    start = threading.Barrier(count)
    outcomes: list[Any] = []

    def run() -> None:
        start.wait()
        try:
            outcomes.append(work())
        except (Conflict, Unavailable) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_table_is_made_once_whoever_races_for_it(place: Place) -> None:
    assert Table(*place).find() is None
    with pytest.raises(ConfigurationError, match="there is no table"):
        Table(*place).snapshot()
    opened = racing(4, lambda: Table(*place).open_or_create())
    assert {snapshot.version for snapshot in opened} == {0}
    assert len({snapshot.delta.metadata().id for snapshot in opened}) == 1
    assert opened[0].stored("never seen") == 0
    assert pa.schema(opened[0].delta.schema()) == TABLE_SCHEMA
    # Records would be stored twice after a long pause if transactions could be forgotten.
    assert "delta.setTransactionRetentionDuration" not in opened[0].delta.metadata().configuration


def test_commits_follow_each_other_and_say_what_is_stored(place: Place) -> None:
    table = Table(*place)
    first = table.open_or_create()
    second = table.commit(first, [flush(table, "a", 0, 10)])
    third = table.commit(second, [flush(table, "a", 10, 5)])
    assert (first.stored("a"), second.stored("a"), third.stored("a")) == (0, 10, 15)
    assert positions(Table(*place).snapshot()) == {"a": list(range(15))}
    assert positions(second) == {"a": list(range(10))}, "a snapshot never changes"


def test_many_shards_and_late_dates_share_one_version(place: Place) -> None:
    table = Table(*place)
    late = [NOON - 40 * DAY_NS, NOON, NOON - DAY_NS]
    flushes = [flush(table, f"shard-{n}", 0, 3, times=late) for n in range(5)]
    after = table.commit(table.open_or_create(), flushes)
    assert after.version == 1
    assert {f"shard-{n}": after.stored(f"shard-{n}") for n in range(5)} == dict.fromkeys(positions(after), 3)
    assert positions(after) == {f"shard-{n}": [0, 1, 2] for n in range(5)}
    assert sorted(str(part["date"]) for part in after.delta.partitions()) == [
        "2025-08-30",
        "2025-10-08",
        "2025-10-09",
    ]


def test_an_archiver_with_a_stale_snapshot_adopts_what_was_stored(place: Place) -> None:
    table, zombie = Table(*place), Table(*place)
    stale = table.open_or_create()
    table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    for count in (4, 10, 12):
        adopted = zombie.commit(stale, [flush(zombie, "a", 0, count)])
        assert adopted.stored("a") == 10
    assert positions(table.snapshot()) == {"a": list(range(10))}


def test_a_refused_shard_does_not_hold_up_the_others_of_its_commit(place: Place) -> None:
    table, zombie = Table(*place), Table(*place)
    stale = table.open_or_create()
    table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    after = zombie.commit(stale, [flush(zombie, "a", 0, 7), flush(zombie, "b", 0, 5)])
    assert (after.stored("a"), after.stored("b")) == (10, 5)
    assert positions(after) == {"a": list(range(10)), "b": list(range(5))}


def test_racing_archivers_store_each_record_once(place: Place) -> None:
    """Threads that all archive the same three ranges, as a leader and its zombies would."""
    Table(*place).open_or_create()

    def archive() -> int:
        table = Table(*place)
        snapshot = table.snapshot()
        while (at := snapshot.stored("a")) < 30:
            try:
                snapshot = table.commit(snapshot, [flush(table, "a", at, 10)])
            except Conflict:
                snapshot = table.snapshot()
        return snapshot.stored("a")

    assert racing(4, archive) == [30] * 4
    assert positions(Table(*place).snapshot()) == {"a": list(range(30))}


ARCHIVER = """
import sys
from table_rows import rows
from ringlog.errors import Conflict
from ringlog.storage import Flush, Table, write_segments

table = Table(sys.argv[1], {})
snapshot = table.snapshot()
print("ready", flush=True)
sys.stdin.readline()
segments = write_segments(table.objects, "a", 0, [rows("a", 0, 50)])
print(table.commit(snapshot, [Flush("a", 0, 50, segments)]).stored("a"))
"""


def test_racing_processes_store_each_record_once(table: Table) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    archivers = [
        subprocess.Popen(
            [sys.executable, "-c", ARCHIVER, table.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(3)
    ]
    for archiver in archivers:
        assert archiver.stdout is not None
        assert archiver.stdout.readline() == "ready\n"
    for archiver in archivers:
        assert archiver.stdin is not None
        archiver.stdin.write("go\n")
        archiver.stdin.flush()
    assert [archiver.communicate(timeout=60)[0] for archiver in archivers] == ["50\n"] * 3
    assert positions(table.snapshot()) == {"a": list(range(50))}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to the commits that follow: "lost" after it was stored, "refused" before it; then all is well."""
    plan: list[str] = []
    real = DeltaTable.create_write_transaction

    def faulty(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        fault = plan.pop(0) if plan else "none"
        if fault == "refused":
            raise OSError("503 Slow Down")
        real(self, *args, **kwargs)
        if fault == "lost":
            raise OSError("the connection was closed before an answer came")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", faulty)
    return plan


def test_a_lost_answer_is_found_again(place: Place, answers: list[str]) -> None:
    table = Table(*place)
    snapshot = table.open_or_create()
    answers.append("lost")
    snapshot = table.commit(snapshot, [flush(table, "a", 0, 10), flush(table, "b", 0, 4)])
    assert answers == []
    assert (snapshot.version, snapshot.stored("a"), snapshot.stored("b")) == (1, 10, 4)
    assert positions(snapshot) == {"a": list(range(10)), "b": list(range(4))}


def test_a_refused_commit_is_tried_again_with_the_same_segments(table: Table, answers: list[str]) -> None:
    answers.extend(["refused", "refused", "lost"])
    snapshot = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    assert answers == []
    assert positions(snapshot) == {"a": list(range(10))}
    assert len(snapshot.delta.file_uris()) == 1


def test_a_table_that_never_takes_it_is_a_conflict(table: Table, answers: list[str]) -> None:
    answers.extend(["refused"] * ATTEMPTS)
    before = table.snapshot()
    once = flush(table, "a", 0, 10)
    with pytest.raises(Conflict, match="did not take a in 5 attempts: 503 Slow Down"):
        table.commit(before, [once])
    assert positions(table.snapshot()) == {}
    assert positions(table.commit(before, [once])) == {"a": list(range(10))}


def test_a_table_that_cannot_be_read_back_leaves_the_outcome_open(
    table: Table, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.append("lost")
    before = table.snapshot()

    def away() -> Snapshot:
        raise Unavailable("the bucket is away")

    with monkeypatch.context() as outage:
        outage.setattr(table, "snapshot", away)
        with pytest.raises(OutcomeUnknown, match="go on from what it says"):
            table.commit(before, [flush(table, "a", 0, 10)])
    assert table.snapshot().stored("a") == 10


def test_a_flush_must_start_where_its_snapshot_ends(table: Table) -> None:
    snapshot = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    for start in (0, 9, 11):
        with pytest.raises(Conflict, match=f"up to 10, so a flush cannot start at {start}"):
            table.commit(snapshot, [flush(table, "a", start, 5)])
    assert positions(table.snapshot()) == {"a": list(range(10))}


def test_a_flush_must_hold_what_it_claims(table: Table) -> None:
    short = flush(table, "a", 0, 10)
    with pytest.raises(CorruptionError, match=r"exactly \[0, 11\)"):
        table.commit(table.snapshot(), [Flush("a", 0, 11, short.segments)])
    for wrong in ([], [short, short]):
        with pytest.raises(ValueError, match="one flush of each"):
            table.commit(table.snapshot(), wrong)
    assert table.snapshot().version == 0


def test_a_table_that_went_back_stops_everything(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    old = table.snapshot()
    monkeypatch.setattr(table, "snapshot", lambda: old)
    with pytest.raises(CorruptionError, match="SL-6"):
        table.commit(old, [flush(table, "a", 0, 10)])


def test_a_fence_is_read_back_and_moves_nothing_else(place: Place) -> None:
    table = Table(*place)
    before = table.commit(table.open_or_create(), [flush(table, "a", 0, 10), flush(table, "b", 0, 5)])
    fenced = table.fence("a", 7)
    for seen in (fenced, Table(*place).snapshot()):
        assert (seen.fence("a"), seen.stored("a")) == (7, 10)
        assert (seen.fence("b"), seen.stored("b")) == (0, 5)
    assert (before.fence("a"), positions(fenced)) == (0, positions(before))


def test_a_fence_stands_where_there_was_nothing_and_never_falls(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "logs"), {})
    fenced = table.fence("a", 7)
    assert (fenced.fence("a"), fenced.stored("a")) == (7, 0)
    for epoch in (7, 3):
        again = table.fence("a", epoch)
        assert (again.version, again.fence("a")) == (fenced.version, 7)
    assert table.fence("a", 9).fence("a") == 9


def test_a_lost_answer_to_a_fence_is_found_again(table: Table, answers: list[str]) -> None:
    answers.extend(["refused", "lost"])
    assert table.fence("a", 7).fence("a") == 7
    assert (answers, table.snapshot().version) == ([], 1)


def test_a_table_that_never_takes_the_fence_is_a_conflict(table: Table, answers: list[str]) -> None:
    answers.extend(["refused"] * ATTEMPTS)
    with pytest.raises(Conflict, match="did not take the fence of a"):
        table.fence("a", 7)
    assert table.snapshot().fence("a") == 0


def test_what_is_built_on_a_snapshot_from_before_the_fence_is_not_stored(table: Table) -> None:
    stale = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    fenced = table.fence("a", 7)
    found = table.commit(stale, [flush(table, "a", 10, 5)])
    assert (found.version, found.stored("a"), found.fence("a")) == (fenced.version, 10, 7), "refused, and given up"
    assert positions(table.commit(stale, [flush(table, "b", 0, 3)])) == {"a": list(range(10)), "b": [0, 1, 2]}
    leader = table.snapshot()
    assert positions(table.commit(leader, [flush(table, "a", 10, 5)]))["a"] == list(range(15)), "the new leader goes on"


def test_of_a_commit_over_the_fence_of_one_shard_the_others_are_stored(table: Table) -> None:
    stale = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    table.fence("a", 7)
    found = table.commit(stale, [flush(table, "a", 10, 5), flush(table, "b", 0, 3)])
    assert (found.stored("a"), found.stored("b")) == (10, 3)
    assert positions(found) == {"a": list(range(10)), "b": [0, 1, 2]}


def test_a_commit_that_arrived_before_the_fence_is_found_although_its_answer_was_lost(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    attempt = table._try

    def overtaken(*arguments: Any) -> Exception | None:
        attempt(*arguments)
        table.fence("a", 7)
        return TimeoutError("no answer")

    monkeypatch.setattr(table, "_try", overtaken)
    found = table.commit(stale, [flush(table, "a", 10, 5)])
    assert (found.stored("a"), found.fence("a")) == (15, 7)


def test_checkpoints_and_log_cleanup_keep_what_is_stored(table: Table) -> None:
    snapshot = table.snapshot()
    for n in range(3):
        snapshot = table.commit(snapshot, [flush(table, f"shard-{n}", 0, n + 1)])
    snapshot.delta.create_checkpoint()
    log = Path(table.url) / "_delta_log"
    for commit in sorted(log.glob("0*.json"))[:-1]:
        commit.unlink()
    read = Table(table.url, {}).open_or_create()
    assert [read.stored(f"shard-{n}") for n in range(3)] == [1, 2, 3]
    assert positions(table.commit(read, [flush(table, "shard-0", 1, 1)]))["shard-0"] == [0, 1]


def test_a_new_table_has_a_checkpoint_for_so_many_versions_and_is_read_from_it(table: Table) -> None:
    snapshot = table.snapshot()
    for n in range(CHECKPOINT_VERSIONS + 1):
        snapshot = table.commit(snapshot, [flush(table, "a", n, 1)])
    log = Path(table.url) / "_delta_log"
    [checkpoint] = log.glob("*.checkpoint.parquet")
    assert int(checkpoint.name[:20]) == CHECKPOINT_VERSIONS - 1, "versions count from 0"
    for commit in log.glob("0*.json"):
        if commit.name < checkpoint.name:
            commit.unlink()
    assert Table(table.url, {}).snapshot().stored("a") == CHECKPOINT_VERSIONS + 1


def test_the_maintenance_of_delta_rs_keeps_what_is_stored(table: Table) -> None:
    """Were a transaction forgotten by an optimize, a checkpoint or a cleanup, its shard would be stored again from 0."""
    for start in range(0, 30, 10):
        table.commit(table.snapshot(), [flush(table, shard, start, 10) for shard in "ab"])
    table.fence("b", 4)
    table.snapshot().delta.optimize.compact()
    table.snapshot().delta.optimize.z_order(["service"])
    table.snapshot().delta.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    table.snapshot().delta.create_checkpoint()
    log = Path(table.url) / "_delta_log"
    for path in log.iterdir():
        os.utime(path, (0, 0))
    after = table.commit(table.snapshot(), [flush(table, "c", 0, 10)])
    after.delta.create_checkpoint()
    after.delta.cleanup_metadata()
    assert len(list(log.glob("*.json"))) < after.version, "delta-rs did clean up"
    read = Table(table.url, {}).open_or_create()
    assert [(read.stored(shard), read.fence(shard)) for shard in "abc"] == [(30, 0), (30, 4), (10, 0)]
    assert positions(table.commit(read, [flush(table, "a", 30, 1)]))["a"] == list(range(31))


def test_a_commit_emptied_by_a_power_cut_is_done_again(table: Table) -> None:
    """delta-rs does not fsync; before `settle` a power cut may leave a commit's name without its bytes."""
    snapshot = table.commit(table.snapshot(), [flush(table, "a", 0, 10)])
    (Path(table.url) / "_delta_log" / f"{snapshot.version:020d}.json").write_bytes(b"")
    again = Table(table.url, {})
    found = again.open_or_create()
    assert found.stored("a") == 0
    assert positions(again.commit(found, [flush(again, "a", 0, 10)])) == {"a": list(range(10))}


def test_what_commit_returns_was_synced(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    real = os.fsync

    def recording(handle: int) -> None:
        real(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", recording)
    log = Path(table.url) / "_delta_log"
    other = Table(table.url, {})
    other_snapshot = other.commit(other.open_or_create(), [flush(other, "b", 0, 1)])
    synced.clear()
    # Also what another archiver committed: its process may have died before it synced.
    snapshot = table.commit(other_snapshot, [flush(table, "a", 0, 10)])
    for version in (1, 2):
        assert (log / f"{version:020d}.json").stat().st_ino in synced
    assert log.stat().st_ino in synced
    snapshot.delta.create_checkpoint()
    synced.clear()
    Table(table.url, {}).open_or_create()
    checkpoint = [log / f"{2:020d}.checkpoint.parquet", log / "_last_checkpoint", log / f"{2:020d}.json"]
    assert {path.stat().st_ino for path in checkpoint} <= synced
    assert (log / f"{1:020d}.json").stat().st_ino not in synced


def test_a_foreign_table_is_left_alone(tmp_path: Path) -> None:
    url = str(tmp_path / "sales")
    write_deltalake(url, pa.table({"amount": [1]}))
    with pytest.raises(ConfigurationError, match=r"not one of ringlog: .*body \(missing"):
        Table(url, {}).open_or_create()
    assert DeltaTable(url).version() == 0


def test_a_table_with_more_columns_is_taken(table: Table) -> None:
    table.snapshot().delta.alter.add_columns([Field("http_status", PrimitiveType("long"))])
    snapshot = table.commit(table.open_or_create(), [flush(table, "a", 0, 2)])
    held = snapshot.delta.to_pyarrow_table(columns=["http_status", "record_offset"])
    assert held.to_pydict() == {"http_status": [None, None], "record_offset": [0, 1]}


def test_an_unreachable_store_is_unavailable() -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "max_retries": "0",
    }
    with pytest.raises(Unavailable, match="cannot read the table s3://bucket/logs now"):
        Table("s3://bucket/logs", options).open_or_create()


def test_the_table_is_open_to_everybody(table: Table) -> None:
    """DuckDB, Polars, pandas and pyarrow read it, with nothing of ringlog."""
    times = np.array([NOON, NOON + DAY_NS, NOON + 1])
    table.commit(table.snapshot(), [flush(table, "a", 0, 3, times=times, service=["x", "y", None])])
    delta = DeltaTable(table.url)
    expected = [(0, "x"), (1, "y"), (2, None)]
    order = "SELECT record_offset, service FROM {} ORDER BY 1"
    with duckdb.connect() as connection:
        connection.register("logs", delta.to_pyarrow_dataset())
        assert connection.execute(order.format("logs")).fetchall() == expected
        files = f"read_parquet('{table.url}/date=*/*.parquet', hive_partitioning = true)"
        assert connection.execute(order.format(files)).fetchall() == expected
    polars = pl.read_delta(table.url).sort("record_offset")
    assert polars.select("record_offset", "service").rows() == expected
    assert polars["timestamp"].dtype == pl.Datetime("us", "UTC")
    pandas = delta.to_pandas().sort_values("record_offset")
    assert pandas["body"].tolist() == ["a says 0", "a says 1", "a says 2"]
    assert pandas["timestamp"].iloc[0] == pd.Timestamp(NOON, tz="UTC")
