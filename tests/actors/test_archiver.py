from __future__ import annotations

import queue
import threading
import uuid
from pathlib import Path

import pytest

from ringlog.actors.archiver import Archiver, Unflushed
from ringlog.records import to_record_batch
from ringlog.replication import Entry, Violation
from ringlog.schema import pack
from ringlog.settings import Settings
from ringlog.storage import Table
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
