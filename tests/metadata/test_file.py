from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metadata.contract import MetadataContract, Open
from ringlog.errors import Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import FileStore, Versioned, file, open_store


class TestFileStore(MetadataContract):
    rounds = 500

    @pytest.fixture
    def open_again(self, tmp_path: Path) -> Open:
        return lambda: open_store(str(tmp_path), {})


def test_between_processes_one_wins_each_version(tmp_path: Path) -> None:
    code = f"""
from ringlog.errors import Conflict, OutcomeUnknown
from ringlog.metadata import FileStore
store = FileStore({str(tmp_path)!r})
won = unknown = 0
for version in range(50):
    try:
        store.compare_and_set("a", b"x", version)
        won += 1
    except Conflict:
        pass
    except OutcomeUnknown:
        unknown += 1
print(won, unknown)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [[int(count) for count in writer.communicate()[0].split()] for writer in writers]
    won, unknown = (sum(column) for column in zip(*counts, strict=True))
    found = FileStore(str(tmp_path)).get("a")
    assert found is not None
    assert won <= found.version <= won + unknown, "each version was won once"


def test_old_versions_go_but_the_one_before_stays(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    for version in range(6):
        store.compare_and_set("a", b"x", version)
    assert sorted(int(path.name) for path in (tmp_path / "a").iterdir()) == [5, 6]


@pytest.mark.parametrize("others", [1, 2, 3, 6])
def test_a_writer_that_was_stopped_between_look_and_write_never_believes_it_won(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    stopped, running = FileStore(str(tmp_path)), FileStore(str(tmp_path))
    running.compare_and_set("a", b"first", 0)
    link = os.link

    def late(written: Path, target: Path) -> None:
        monkeypatch.undo()
        for version in range(1, 1 + others):
            running.compare_and_set("a", b"other %d" % version, version)
        link(written, target)

    monkeypatch.setattr(file.os, "link", late)
    with pytest.raises((Conflict, OutcomeUnknown)):
        stopped.compare_and_set("a", b"zombie", 1)
    assert running.get("a") == Versioned(b"other %d" % others, 1 + others)
    assert sorted(int(path.name) for path in (tmp_path / "a").iterdir()) == [others, 1 + others]


def fail(_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_failure_before_others_can_see_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(str(tmp_path))
    store.compare_and_set("a", b"one", 0)
    monkeypatch.setattr(file.os, "fsync", fail)
    with pytest.raises(Unavailable):
        store.compare_and_set("a", b"two", 1)
    monkeypatch.undo()
    assert store.get("a") == Versioned(b"one", 1)
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_failure_after_others_can_see_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(str(tmp_path))
    store.compare_and_set("a", b"one", 0)
    monkeypatch.setattr(file, "_sync", fail)
    with pytest.raises(OutcomeUnknown, match="power cut"):
        store.compare_and_set("a", b"two", 1)
    assert store.get("a") == Versioned(b"two", 2)


def test_a_root_that_is_a_file_is_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot"):
        FileStore(str(tmp_path / "root")).compare_and_set("a", b"x", 0)
