from __future__ import annotations

import queue
import threading
import uuid
from pathlib import Path

import pytest

from ringlog.actors.archiver import SEGMENTS_MAX, Archiver, Unflushed
from ringlog.records import to_record_batch
from ringlog.replication import Entry, Violation
from ringlog.schema import Promoted, pack
from ringlog.settings import Settings
from ringlog.storage import Snapshot, Table
from ringlog.storage.evolution import promote
from s3proxy import S3Proxy, always
from seaweed import SeaweedFS
from storage.schedule import hasty

WITHIN_S = 20.0


@pytest.mark.parametrize("trouble", ["an invariant", "nobody expected"])
def test_what_archiving_must_never_meet_ends_the_process(tmp_path: Path, trouble: str) -> None:
    settings = Settings(root=str(tmp_path))
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def unflushed() -> list[Unflushed]:
        if trouble == "nobody expected":
            raise ValueError(trouble)
        entry = Entry.make(1, 10, 11, "p", 0, 0, b"x")
        return [Unflushed("s", 1, 10, 11, [entry], wanted=True)]  # trimmed, though the table is empty

    archiver = Archiver(Table(settings.table_url, {}), settings, unflushed, lambda *_: None, failures.put)
    archiver.demand()
    failure = failures.get(timeout=WITHIN_S)
    assert isinstance(failure, Violation if trouble == "an invariant" else ValueError)
    archiver.close()


class Leader:
    """One that has committed a record and waits for it to be stored."""

    def __init__(self, tmp_path: Path) -> None:
        batch = to_record_batch([{"body": "x", "http.status_code": 503, "loss": 0.5}], observed_ns=7)
        self.entry = Entry.make(1, 0, 1, "p", 0, 0, pack(batch))
        self.stored: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.failures: list[BaseException] = []
        self.settings = Settings(root=str(tmp_path))
        self.table = Table(self.settings.table_url, {})
        self.end = 0

    def unflushed(self) -> list[Unflushed]:
        return [] if self.end else [Unflushed("s", 1, 0, 1, [self.entry], wanted=True)]

    def on_stored(self, shard: str, end: int, fence: int) -> None:
        self.end = end
        self.stored.put(end)

    def archived(self) -> Snapshot:
        """What the table holds once it is stored."""
        archiver = Archiver(self.table, self.settings, self.unflushed, self.on_stored, self.failures.append)
        assert self.stored.get(timeout=WITHIN_S) == 1
        archiver.close()
        assert self.failures == []
        return self.table.snapshot()


def test_what_the_table_promotes_is_filled_whatever_the_settings_say(tmp_path: Path) -> None:
    leader = Leader(tmp_path)
    promote(leader.table, leader.table.open_or_create(), [Promoted("loss", "number")])
    (segment,) = leader.archived().segments()
    assert segment.bounds["loss"] == (0.5, 0.5)


@pytest.mark.parametrize("bound", ["flush_bytes", "half of shard_buffer_bytes_max"])
def test_what_has_gathered_goes_with_one_commit_in_segments_of_the_usual_size(tmp_path: Path, bound: str) -> None:
    payload = pack(to_record_batch([{"body": "x"}], observed_ns=7))
    entries = [Entry.make(1, start, start + 1, "p", 0, start, payload) for start in range(20)]
    size = 3 * len(payload)
    bounds = {"flush_bytes": size} if bound == "flush_bytes" else {"shard_buffer_bytes_max": 2 * size}
    settings = Settings(root=str(tmp_path), **bounds)
    table = Table(settings.table_url, {})
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    failures: list[BaseException] = []
    archiver = Archiver(
        table,
        settings,
        lambda: [Unflushed("s", 1, 0, len(entries), entries, wanted=False)],
        lambda _, end, __: ends.put(end),
        failures.append,
    )
    assert [ends.get(timeout=WITHIN_S) for _ in range(2)] == [3 * SEGMENTS_MAX, 20]
    archiver.close()
    assert failures == []
    first = table.at(1).segments()
    offsets = [(int(low), int(high)) for low, high in sorted(segment.bounds["record_offset"] for segment in first)]
    assert offsets == [(0, 2), (3, 5), (6, 8), (9, 11)]


@pytest.mark.s3
def test_a_store_that_is_away_is_said_and_tried_again_until_it_is_back(seaweed: SeaweedFS) -> None:
    batch = to_record_batch([{"body": "x"}], observed_ns=7)
    entry = Entry.make(1, 0, 1, "p", 0, 0, pack(batch))
    stored: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
    failures: list[BaseException] = []
    settings = Settings(root=seaweed.root(uuid.uuid4().hex), flush_age_s=0.1)
    with hasty(), S3Proxy(seaweed.url) as proxy:
        door = proxy.door(always("503 before"))
        table = Table(settings.table_url, {**seaweed.storage_options, "AWS_ENDPOINT_URL": door.url})
        archiver = Archiver(
            table,
            settings,
            lambda: [Unflushed("s", 1, 0, 1, [entry], wanted=False)],
            lambda *told: stored.put(told),
            failures.append,
        )
        time_passes = threading.Event()
        while archiver.trouble is None or door.requests < 20:
            assert not time_passes.wait(0.05)
        assert "Unavailable" in archiver.trouble
        assert stored.empty()
        door.plan = None
        assert stored.get(timeout=WITHIN_S) == ("s", 1, 0)
        archiver.close()
    assert archiver.trouble is None
    assert failures == []
