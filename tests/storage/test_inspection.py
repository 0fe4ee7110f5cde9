"""Journals that are only looked at: what stands there, what does not read back, and nothing is changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlog.errors import CorruptionError
from ringlog.replication import Discard, Replace, Write
from ringlog.storage import Journal, find_journals, inspect, inspection
from ringlog.storage.journal import FAILED
from storage.test_journal import SHARD, entry, entry_files, killed, opened, written


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_journal_is_read_as_it_stands_and_nothing_is_changed(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "actor" / SHARD
    id = written(folder, 5, file_bytes_max=2000).id
    before = files(folder)
    (found,) = find_journals(tmp_path)
    report = inspect(found)
    assert report is not None
    assert (report.shard, report.id, report.trimmed, report.end, report.set_aside) == (SHARD, id, 0, 50, ())
    assert files(folder) == before


def test_while_its_process_holds_it(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.apply([Replace(1, 1, 0, ((1, 0),), {}, ()), Write((entry(0), entry(1)))])
    report = inspect(tmp_path / "j")
    assert report is not None
    assert report.end == 20
    journal.close()


def test_what_a_crash_tore_off_is_passed_over_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    written(folder, 3)
    last = entry_files(folder)[-1]
    torn = last.read_bytes()[:-100]
    last.write_bytes(torn)
    report = inspect(folder)
    assert report is not None
    assert report.end == 20
    assert last.read_bytes() == torn


@pytest.mark.parametrize("what", ["entry", "state", "gone"])
def test_what_does_not_read_back_is_told(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "j"
    written(folder, 3)
    path = entry_files(folder)[0] if what == "entry" else folder / "state.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if what == "gone":
        path.unlink()
    with pytest.raises(CorruptionError, match=str(folder)):
        inspect(folder)


@pytest.mark.parametrize("what", ["a failed sync", "a torn end"])
def test_a_closed_journal_and_one_that_failed_are_held_to_more(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "j"
    written(folder, 3)
    opened(folder).close()
    assert inspect(folder) is not None
    if what == "a failed sync":
        (folder / FAILED).touch()
    else:
        last = entry_files(folder)[-1]
        last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match=str(folder)):
        inspect(folder)


def test_what_was_set_aside_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    written(folder, 3)
    (folder / "state.json").write_bytes(b"{}")
    killed(opened(folder))
    report = inspect(folder)
    assert report is not None
    assert (report.end, [path.name[:5] for path in report.set_aside]) == (0, ["lost-"])


def test_a_folder_that_is_no_journal(tmp_path: Path) -> None:
    assert inspect(tmp_path) is None
    assert list(find_journals(tmp_path / "nowhere")) == []


def test_one_that_is_trimmed_meanwhile_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process removes the first files between this one's look at the state and at the entries."""
    folder = tmp_path / "j"
    journal = opened(folder, file_bytes_max=1)
    journal.apply([Replace(1, 1, 0, ((1, 0),), {}, ())])
    for number in range(4):
        journal.apply([Write((entry(number),))])
    real = inspection.read_log
    trims = iter([Discard(20, ((1, 0),), {})])

    def racing(paths: list[Path], trimmed: int, *, skip: bool) -> Iterator[object]:
        for op in trims:
            journal.apply([op])
        return real(paths, trimmed, skip=skip)

    monkeypatch.setattr(inspection, "read_log", racing)
    report = inspect(folder)
    assert report is not None
    assert (report.trimmed, report.end) == (20, 40)
    journal.close()


def test_a_writer_at_full_speed_never_looks_broken(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    journal = opened(folder, fsync="never", file_bytes_max=4000)
    journal.apply([Replace(1, 1, 0, ((1, 0),), {}, ())])
    done = threading.Event()

    def write(journal: Journal) -> None:
        for number in range(400):
            journal.apply([Write((entry(number),))])
            if number % 20 == 19:
                journal.apply([Discard(10 * number - 50, ((1, 0),), {})])
        done.set()

    writer = threading.Thread(target=write, args=(journal,))
    writer.start()
    ends = []
    while not done.is_set():
        report = inspect(folder)
        assert report is not None
        ends.append(report.end)
    writer.join()
    assert ends == sorted(ends)
    os.close(journal._lock)
