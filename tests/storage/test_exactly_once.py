"""Exactly once on real S3 servers, through the fault proxy: scripted faults one by one, and some seeds of `schedule`.

All of it runs on every S3 server that is installed here; the tests' names say which.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringlog.errors import Overloaded, Unavailable
from ringlog.schema import Promoted
from ringlog.storage import Flush, Snapshot, Table, write_segments
from ringlog.storage.evolution import _add
from ringlog.storage.promotion import since
from s3proxy import FAULTS, Door, Request, Script, always
from storage.outage import outage
from storage.schedule import SERVERS, Load, Scene, Server, run, stage
from table_rows import rows

pytestmark = pytest.mark.s3

SEEDS = range(2)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "SeaweedFS":
        yield request.getfixturevalue("seaweed")
    else:
        with SERVERS[request.param](tmp_path_factory.mktemp("s3")) as started:
            yield started


@dataclass(frozen=True)
class Archiving:
    """A table behind a door, with the first 10 records of shard a, and what comes next."""

    table: Table
    door: Door
    before: Snapshot

    def flush(self, shard: str, start: int, count: int) -> Flush:
        segments = write_segments(self.table.objects, shard, start, [rows(shard, start, count)])
        return Flush(shard, start, start + count, segments)


@pytest.fixture(scope="module")
def doors(server: Server) -> Iterator[dict[str, Door]]:
    with stage(server) as doors:
        yield doors


@pytest.fixture
def archiving(server: Server, doors: dict[str, Door]) -> Archiving:
    door = doors["shard-0"]
    door.plan = None
    door.met.clear()
    door.proxy.slow_s, door.proxy.lag_s = 0.2, 1.0
    table = Table(server.root(f"{uuid.uuid4()}/logs"), {**server.storage_options, "AWS_ENDPOINT_URL": door.url})
    made = Archiving(table, door, table.open_or_create())
    return Archiving(table, door, table.commit(made.before, [made.flush("a", 0, 10)]))


def offsets(snapshot: Snapshot, shard: str = "a") -> list[int]:
    """The offsets of ``shard`` that ``snapshot`` holds, doubles and all."""
    held = snapshot.delta.to_pyarrow_table(columns=["shard", "record_offset"], filters=[("shard", "=", shard)])
    return sorted(held["record_offset"].to_pylist())


@pytest.mark.parametrize("kind", FAULTS)
def test_a_commit_that_meets_a_fault_is_stored_once(archiving: Archiving, kind: str) -> None:
    flush = archiving.flush("a", 10, 5)
    archiving.door.plan = Script((kind, "listing" if kind == "stale listing" else "PUT"))
    after = archiving.table.commit(archiving.before, [flush])
    assert archiving.door.met[kind] == 1
    assert (after.version, after.stored("a"), offsets(after)) == (archiving.before.version + 1, 15, list(range(15)))


@pytest.mark.parametrize("kind", FAULTS)
def test_a_column_whose_commit_meets_a_fault_is_added_once(archiving: Archiving, kind: str) -> None:
    """Without its statistics: delta-rs sets a property under Python's lock, which the proxy needs to answer it."""
    wanted = (Promoted("loss", "number"),)
    archiving.door.plan = Script((kind, "listing" if kind == "stale listing" else "PUT"))
    after = archiving.table.alter(lambda delta: _add(delta, wanted), lambda found: found.promoted == wanted)
    assert archiving.door.met[kind] == 1
    added = since(after.delta)["loss"]
    assert archiving.table.at(added).promoted == wanted
    assert archiving.table.at(added - 1).promoted == ()
    assert offsets(archiving.table.commit(after, [archiving.flush("a", 10, 5)])) == list(range(15))


@pytest.mark.parametrize("kind", ["500 after", "503 after", "truncated read", "asked twice"])
def test_delta_rs_takes_its_own_commit_for_another_s_and_the_transaction_keeps_it_from_committing_twice(
    archiving: Archiving, kind: str
) -> None:
    """It tries the PUT again and gets 412. It then reads the winner and would go on above it, as it does for a stranger."""
    flush = archiving.flush("a", 10, 5)
    archiving.door.plan = Script((kind, "PUT"))
    refusal = archiving.table._try(archiving.before, [flush])
    assert "Concurrent transaction failed" in str(refusal)
    found = archiving.table.snapshot()
    assert (found.version, offsets(found)) == (archiving.before.version + 1, list(range(15)))


def test_without_transactions_delta_rs_would_have_stored_it_twice(archiving: Archiving) -> None:
    """What the test above rests on: the same commit, but for its transactions."""
    from deltalake import CommitProperties

    from ringlog.storage.commit import _added

    segments = [_added(segment) for segment in archiving.flush("a", 10, 5).segments]
    archiving.door.plan = Script(("500 after", "PUT"))
    assert archiving.table._write(archiving.before, segments, CommitProperties()) is None
    assert archiving.table.snapshot().version == archiving.before.version + 2


@pytest.mark.parametrize("kind", ["reset after", "500 after", "silence after"])
def test_a_lost_answer_and_another_shard_s_commit_right_after_it(
    archiving: Archiving, server: Server, kind: str
) -> None:
    flush = archiving.flush("a", 10, 5)
    other = Table(archiving.table.url, server.storage_options)
    segments = write_segments(other.objects, "b", 0, [rows("b", 0, 3)])
    ready, done = threading.Event(), threading.Event()

    def commit_b() -> None:
        ready.wait()
        other.commit(other.snapshot(), [Flush("b", 0, 3, segments)])
        done.set()

    committing = threading.Thread(target=commit_b)
    committing.start()

    def plan(request: Request) -> str | None:
        if request.method == "PUT":
            archiving.door.plan = lambda _: _before(ready, done, archiving.door)
            return kind
        return None

    archiving.door.plan = plan
    after = archiving.table.commit(archiving.before, [flush])
    committing.join()
    assert (after.stored("a"), after.stored("b")) == (15, 3)
    assert (offsets(after), offsets(after, "b")) == (list(range(15)), [0, 1, 2])


def _before(ready: threading.Event, done: threading.Event, door: Door) -> str | None:
    door.plan = None
    ready.set()
    done.wait()
    return None


@pytest.mark.parametrize("kind", ["reset after", "500 after", "asked twice"])
def test_a_commit_whose_answer_was_lost_and_that_no_listing_shows_yet(archiving: Archiving, kind: str) -> None:
    flush = archiving.flush("a", 10, 5)

    def plan(request: Request) -> str | None:
        if request.method == "PUT" and not archiving.door.met[kind]:
            return kind
        return "stale listing" if request.lists is not None else None

    archiving.door.plan = plan
    after = archiving.table.commit(archiving.before, [flush])
    assert archiving.door.met["stale listing"] > 1
    assert (after.version, offsets(after)) == (archiving.before.version + 1, list(range(15)))


def test_a_commit_that_arrives_after_it_was_tried_again_is_refused(archiving: Archiving) -> None:
    flush = archiving.flush("a", 10, 5)
    archiving.door.plan, archiving.door.proxy.late_s = Script(("late", "PUT")), 1.0
    after = archiving.table.commit(archiving.before, [flush])
    time_passes = threading.Event()
    while archiving.door.proxy.underway:
        assert not time_passes.wait(0.05)
    assert archiving.table.snapshot().version == after.version == archiving.before.version + 1
    assert offsets(after) == list(range(15))


def test_stale_listings_show_no_earlier_table(archiving: Archiving, monkeypatch: pytest.MonkeyPatch) -> None:
    archiving.door.plan = always("stale listing")
    snapshot = archiving.before
    for start in (10, 15, 20):
        snapshot = archiving.table.commit(snapshot, [archiving.flush("a", start, 5)])
        assert snapshot.stored("a") == start + 5
    archiving.door.proxy.lag_s = 3600.0
    monkeypatch.setattr("ringlog.storage.commit.LAG_S", 0.5)
    with pytest.raises(Unavailable, match="have not shown"):
        archiving.table.snapshot()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_schedule_of_faults_stores_each_record_once(
    server: Server, doors: dict[str, Door], tmp_path: Path, seed: int
) -> None:
    report = run(seed, server, doors, tmp_path)
    assert report.counts["acknowledged"] > 0
    assert sum(report.faults.values()) > 0


def test_a_store_that_is_away_fills_the_journals_and_is_made_up_for_without_a_word(
    server: Server, doors: dict[str, Door], tmp_path: Path
) -> None:
    root = server.root(str(uuid.uuid4()))
    scene = Scene(server, root, tmp_path, doors, shard_buffer_bytes_max=400_000, flush_bytes=200_000, flush_age_s=0.4)
    try:
        seen = outage(server, root, scene, Load(patience_s=0.5), lambda told: told.refused[Overloaded] >= 5)
    finally:
        scene.close()
    assert seen.meanwhile > 1000, "the journals took them"
    assert seen.afterwards > 0, "and clients went on by themselves"
