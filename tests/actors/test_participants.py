"""The thread that lets nothing out before it is on disk, with a real journal."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ringlog.actors.participants import HostedParticipant
from ringlog.replication import NO_PRODUCERS, Append, Appended, Entry, Join
from ringlog.settings import Settings
from ringlog.storage import Journal

WITHIN_S = 20.0


def hosted(folder: Path, **settings: Any) -> HostedParticipant:
    chosen = Settings(root=str(folder / "root"), **settings)
    one = HostedParticipant("x", folder / "journal", "s", chosen, lambda _: None)
    one.request(Join("s", one.id, 1, 0, 0, ((1, 0),), (), NO_PRODUCERS), lambda _: None)
    return one


def append(one: HostedParticipant, start: int) -> Append:
    entry = Entry.make(1, start, start + 1, "p", 0, start, b"x")
    return Append("s", one.id, 1, start, (entry,), 0, 0)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the journal was synced."""
    noted: list[float] = []
    sync = Journal.sync

    def note(journal: Journal) -> None:
        sync(journal)
        noted.append(time.monotonic())

    monkeypatch.setattr(Journal, "sync", note)
    return noted


def test_an_answer_waits_for_the_sync(tmp_path: Path, syncs: list[float]) -> None:
    one = hosted(tmp_path)
    before = len(syncs)
    answers: queue.SimpleQueue[tuple[Any, int]] = queue.SimpleQueue()
    one.request(append(one, 0), lambda message: answers.put((message, len(syncs))))
    message, synced = answers.get(timeout=WITHIN_S)
    assert message == Appended("s", one.id, 1, 1)
    assert synced > before
    one.close()


def test_an_interval_is_kept_also_under_load(tmp_path: Path, syncs: list[float]) -> None:
    one = hosted(tmp_path, fsync="interval", fsync_interval_ms=50)
    heard = threading.Semaphore(0)
    began = time.monotonic()
    start = 0
    while not 5 <= len(syncs) < start / 2 and time.monotonic() - began < WITHIN_S:
        one.request(append(one, start), lambda _: heard.release())
        assert heard.acquire(timeout=WITHIN_S), "one at a time, so that there is never a moment of rest"
        start += 1
    said = f"{start} appends were synced {len(syncs)} times"
    assert len(syncs) >= 5, said
    assert len(syncs) < start / 2, said
    one.close()
