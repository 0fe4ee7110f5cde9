from __future__ import annotations

import queue
from pathlib import Path

import pytest

from ringlog.actors.archiver import Archiver, Unflushed
from ringlog.replication import Entry, Violation
from ringlog.settings import Settings
from ringlog.storage import Table

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
