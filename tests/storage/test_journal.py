from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ringlog.errors import ConfigurationError
from ringlog.replication import NO_PRODUCERS, Discard, Entry, Promise, Replace, ReplicaState, Write
from ringlog.schema import RECORD_SCHEMA, pack, unpack
from ringlog.settings import Fsync
from ringlog.storage import Journal, journal

SHARD = "shard-0"


def entry(number: int, epoch: int = 1) -> Entry:
    payload = pack(pa.RecordBatch.from_pylist([{"body": f"record {number}"}] * 10, schema=RECORD_SCHEMA))
    return Entry.make(epoch, 10 * number, 10 * number + 10, "p", 0, number, payload)


def opened(folder: Path, fsync: Fsync = "group", file_bytes_max: int = 10**6) -> Journal:
    return Journal(folder, SHARD, fsync, file_bytes_max)


def written(folder: Path, count: int, fsync: Fsync = "group", file_bytes_max: int = 10**6) -> ReplicaState:
    """A journal with a log of ``count`` entries, left as a process that was killed leaves it."""
    made = opened(folder, fsync, file_bytes_max)
    made.apply([Replace(1, 1, 0, ((1, 0),), {}, ())])
    for number in range(count):
        made.apply([Write((entry(number),))])
        made.sync()
    killed(made)
    return opened_state(folder, fsync)


def killed(one: Journal) -> None:
    """Let go of the files without saying so."""
    os.close(one._lock)


def opened_state(folder: Path, fsync: Fsync = "group") -> ReplicaState:
    again = opened(folder, fsync)
    killed(again)
    return again.state


def entry_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrows"))


def test_a_new_journal_is_empty_and_keeps_its_id(tmp_path: Path) -> None:
    first = opened_state(tmp_path / "j")
    assert (first.promised, first.entries) == (0, ())
    assert opened_state(tmp_path / "j").id == first.id


def test_everything_applied_is_there_after_a_kill(tmp_path: Path) -> None:
    one = opened(tmp_path)
    one.apply([Replace(2, 2, 10, ((1, 0), (2, 10)), {"p": [0, [[0, 0, 10]]]}, ())])
    one.apply([Write((entry(1, epoch=2), entry(2, epoch=2))), Promise(4), Write((entry(3, epoch=2),))])
    one.sync()
    killed(one)
    state = opened_state(tmp_path)
    assert state.entries == tuple(entry(number, epoch=2) for number in (1, 2, 3))
    assert (state.promised, state.log_epoch, state.trimmed, state.boundaries) == (4, 2, 10, ((1, 0), (2, 10)))
    assert state.producers == {"p": [0, [[0, 0, 10]]]}


def test_files_rotate_and_trimming_deletes_whole_ones(tmp_path: Path) -> None:
    written(tmp_path, 20, file_bytes_max=4000)
    assert len(entry_files(tmp_path)) > 3
    one = opened(tmp_path, file_bytes_max=4000)
    one.apply([Discard(150, ((1, 0),), {})])
    killed(one)
    state = opened_state(tmp_path)
    assert (state.trimmed, [kept.start for kept in state.entries]) == (150, [150, 160, 170, 180, 190])
    assert len(entry_files(tmp_path)) < 4


def test_replacing_a_log_is_all_or_nothing(tmp_path: Path) -> None:
    before = written(tmp_path, 3)
    one = opened(tmp_path)
    one.apply([Replace(3, 3, 0, ((1, 0), (3, 20)), {}, (entry(0), entry(1), entry(2, epoch=3)))])
    killed(one)
    after = opened_state(tmp_path)
    assert after.entries == (entry(0), entry(1), entry(2, epoch=3))
    assert after.id == before.id


def test_a_new_generation_that_was_not_named_yet_does_not_count(tmp_path: Path) -> None:
    before = written(tmp_path, 3)
    (current,) = entry_files(tmp_path)
    current.with_name("00000009-00000000000000000000.arrows").write_bytes(current.read_bytes())
    assert opened_state(tmp_path) == before
    assert len(entry_files(tmp_path)) == 1


@pytest.mark.parametrize("lost", [1, 100, 1000])
def test_a_torn_tail_is_cut(tmp_path: Path, lost: int) -> None:
    written(tmp_path, 3)
    (path,) = entry_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-lost])
    assert [kept.start for kept in opened_state(tmp_path).entries] == [0, 10]
    assert [kept.start for kept in opened_state(tmp_path).entries] == [0, 10], "the cut itself is kept"


def test_a_tail_of_zeros_is_cut(tmp_path: Path) -> None:
    before = written(tmp_path, 2)
    (path,) = entry_files(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert opened_state(tmp_path).entries == before.entries


def set_aside(folder: Path, before: ReplicaState) -> None:
    """It begins as somebody new and empty; what was there is kept for whoever wants to look."""
    after = opened_state(folder)
    assert after.id != before.id
    assert (after.promised, after.log_epoch, after.entries) == (0, 0, ())
    assert list(folder.glob("lost-*/*.arrows"))
    assert opened_state(folder).id == after.id


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6])
def test_a_changed_byte_before_the_tail_makes_it_somebody_new(
    tmp_path: Path, place: float, caplog: pytest.LogCaptureFixture
) -> None:
    before = written(tmp_path, 10)
    (path,) = entry_files(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)
    kept = opened_state(tmp_path)
    if kept.id == before.id:  # padding between buffers holds nothing: then nothing may be missing either
        assert len(kept.entries) == 10
    else:
        assert str(path) in caplog.text
        assert "takes its log from its siblings" in caplog.text
        assert list(tmp_path.glob("lost-*/*.arrows"))


def test_a_changed_payload_is_found_by_its_checksum(tmp_path: Path) -> None:
    before = written(tmp_path, 3)
    (path,) = entry_files(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"record 1", b"record X", 1))
    set_aside(tmp_path, before)


def test_a_bad_file_before_the_last_is_found_wherever_it_ends(tmp_path: Path) -> None:
    before = written(tmp_path, 20, file_bytes_max=4000)
    first = entry_files(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-10])
    set_aside(tmp_path, before)


def test_a_changed_state_makes_it_somebody_new(tmp_path: Path) -> None:
    before = written(tmp_path, 1)
    path = tmp_path / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"promised":1', b'"promised":0'))
    set_aside(tmp_path, before)


def test_entries_without_a_state_belong_to_nobody(tmp_path: Path) -> None:
    before = written(tmp_path, 1)
    (tmp_path / "state.json").unlink()
    set_aside(tmp_path, before)


def test_a_state_that_is_removed_while_it_is_looked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an actor that begins anew, while another process looks who has a journal."""
    written(tmp_path / "j", 1)
    state = tmp_path / "j" / journal.STATE
    assert journal.read_state(state) is not None
    read = Path.read_bytes

    def too_late(path: Path) -> bytes:
        path.unlink()
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", too_late)
        assert journal.read_state(state) is None
    assert journal.read_state(state) is None
    (tmp_path / "file").touch()
    assert journal.read_state(tmp_path / "file" / journal.STATE) is None


def test_a_journal_of_another_shard_is_refused(tmp_path: Path) -> None:
    opened_state(tmp_path)
    with pytest.raises(ConfigurationError, match="shard-9"):
        Journal(tmp_path, "shard-9", "group", 10**6)


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LOCK_WAIT_S", 0.1)
    one = opened(tmp_path)
    with pytest.raises(ConfigurationError, match="in use"):
        opened(tmp_path)
    one.close()
    killed(opened(tmp_path))


def test_an_open_that_fails_lets_go_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that could not open it can, once what was wrong is put right."""
    monkeypatch.setattr(journal, "LOCK_WAIT_S", 0.1)
    before = written(tmp_path, 2)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Journal, "_write_state", fail)
        with pytest.raises(OSError, match="No space left"):
            opened(tmp_path)
    with pytest.raises(ConfigurationError, match="shard-9"):
        Journal(tmp_path, "shard-9", "group", 10**6)
    assert opened_state(tmp_path) == before


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_without_group_fsync_a_reboot_makes_it_somebody_new(
    tmp_path: Path, fsync: Fsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path, 2, fsync)
    assert opened_state(tmp_path, fsync).id == before.id, "a killed process loses nothing that was written"
    monkeypatch.setattr(journal, "_boot_id", lambda: "another boot")
    after = opened_state(tmp_path, fsync)
    assert after.id != before.id
    assert (after.promised, after.entries) == (0, ())
    assert list(tmp_path.glob("lost-*/*.arrows")), "what was there is set aside, not deleted"


def test_with_group_fsync_or_a_clean_end_a_reboot_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = written(tmp_path / "group", 2)
    clean = opened(tmp_path / "clean", "never")
    clean.close()
    monkeypatch.setattr(journal, "_boot_id", lambda: "another boot")
    assert opened_state(tmp_path / "group") == group
    assert opened_state(tmp_path / "clean", "never").id == clean.state.id


def test_a_full_disk_raises_and_answers_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for the disk's: the same error from the same call."""
    code = f"""
import resource, signal
from pathlib import Path
from ringlog.replication import Entry, Replace, Write
from ringlog.storage import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one = Journal(Path({str(tmp_path)!r}), "shard-0", "group", 10**9)
one.apply([Replace(1, 1, 0, ((1, 0),), {{}}, ())])
one.apply([Write((Entry.make(1, 0, 1, "p", 0, 0, b"x" * 1000),))])
one.sync()
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    one.apply([Write((Entry.make(1, 1, 2, "p", 0, 1, b"x" * 20000),))])
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused 27")
    assert [kept.start for kept in opened_state(tmp_path).entries] == [0], "the half-written entry is cut"


def test_anybody_can_read_a_journal_with_pyarrow(tmp_path: Path) -> None:
    written(tmp_path, 3)
    (path,) = entry_files(tmp_path)
    table = pa.ipc.open_stream(path).read_all()
    assert table["start"].to_pylist() == [0, 10, 20]
    records = pa.ipc.open_stream(table["payload"][1].as_py()).read_all()
    assert records["body"].to_pylist() == ["record 1"] * 10
    assert unpack(table["payload"][1].as_py())["body"][0].as_py() == "record 1"


def test_what_an_open_reads_back_is_synced_before_anybody_answers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process may have written what no disk has yet; the next one answers for it without writing anything."""
    one = opened(tmp_path)
    one.apply([Replace(1, 1, 0, ((1, 0),), NO_PRODUCERS, ()), Write((entry(0),))])
    killed(one)  # before it synced
    synced: list[str] = []
    fdatasync = os.fdatasync

    def noted(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fdatasync(handle)

    monkeypatch.setattr("ringlog.storage.journal.os.fdatasync", noted)
    again = opened(tmp_path)
    assert [kept.start for kept in again.state.entries] == [0]
    assert synced == [str(path) for path in entry_files(tmp_path)]
    killed(again)


def test_a_closed_journal_is_never_cut(tmp_path: Path) -> None:
    """Its end was synced and answered for, so whatever is wrong with it was not made by a crash."""
    damages: dict[str, Callable[[bytes], bytes]] = {
        "a flipped bit in the last message": lambda data: data[:-60] + bytes([data[-60] ^ 1]) + data[-59:],
        "a torn end": lambda data: data[:-100],
        "zeros at the end": lambda data: data[:-4096] + bytes(4096),
        "nothing": lambda data: data[:0],
    }
    for name, damage in damages.items():
        folder = tmp_path / name
        one = opened(folder)
        one.apply([Replace(1, 1, 0, ((1, 0),), NO_PRODUCERS, ())])
        for number in range(20):
            one.apply([Write((entry(number),))])
            one.sync()
        one.close()
        (path,) = entry_files(folder)
        path.write_bytes(damage(path.read_bytes()))
        set_aside(folder, one.state)


def test_a_last_file_that_is_gone_from_a_closed_journal_is_noticed(tmp_path: Path) -> None:
    one = opened(tmp_path)
    one.apply([Replace(1, 1, 0, ((1, 0),), NO_PRODUCERS, ()), Write((entry(0),))])
    one.close()
    (path,) = entry_files(tmp_path)
    path.unlink()
    after = opened_state(tmp_path)
    assert after.id != one.state.id


def test_zeros_that_are_more_than_one_unfinished_write_are_no_torn_tail(tmp_path: Path) -> None:
    before = written(tmp_path, 20)
    (path,) = entry_files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-4000] + bytes(4000))
    set_aside(tmp_path, before)


def test_a_journal_whose_sync_failed_is_not_believed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened(tmp_path)
    one.apply([Replace(1, 1, 0, ((1, 0),), NO_PRODUCERS, ()), Write((entry(0),))])

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ringlog.storage.journal.os.fdatasync", fail)
    with pytest.raises(OSError, match="Input/output"):
        one.sync()
    monkeypatch.undo()
    killed(one)
    set_aside(tmp_path, one.state)


def inodes(folder: Path) -> dict[int, int]:
    """By the offset with which it begins: which file it is."""
    return {int(path.stem.split("-")[1]): path.stat().st_ino for path in entry_files(folder)}


def test_a_log_that_is_replaced_keeps_the_files_that_it_has_in_common_with_the_old_one(tmp_path: Path) -> None:
    written(tmp_path, 20, file_bytes_max=4000)
    before = inodes(tmp_path)
    one = opened(tmp_path, file_bytes_max=4000)
    kept, theirs = one.state.entries[:13], tuple(entry(number, epoch=2) for number in range(13, 16))
    one.apply([Replace(2, 2, 0, ((1, 0), (2, 130)), NO_PRODUCERS, (*kept, *theirs)), Write((entry(16, epoch=2),))])
    one.sync()
    after = inodes(tmp_path)
    common = [start for start, inode in after.items() if before.get(start) == inode]
    assert len(common) > 2
    assert max(common) < 130, "a file that also holds something else is written anew"
    killed(one)
    state = opened_state(tmp_path)
    assert state.entries == (*kept, *theirs, entry(16, epoch=2))
    assert (state.log_epoch, state.boundaries) == (2, ((1, 0), (2, 130)))


def test_a_log_may_be_replaced_from_where_the_table_ends(tmp_path: Path) -> None:
    """The common files may begin below it, and one that lies wholly below it is not kept."""
    written(tmp_path, 20, file_bytes_max=4000)
    before = inodes(tmp_path)
    second, third = sorted(before)[1:3]
    trimmed = second + 10
    assert trimmed < third
    one = opened(tmp_path, file_bytes_max=4000)
    kept = one.state.entries[trimmed // 10 :]
    one.apply([Replace(2, 2, trimmed, ((1, 0), (2, 200)), NO_PRODUCERS, kept)])
    assert {start: before[start] for start in sorted(before)[1:]} == inodes(tmp_path)
    killed(one)
    state = opened_state(tmp_path)
    assert (state.trimmed, state.entries) == (trimmed, kept)


def test_only_entries_that_are_equal_in_everything_are_in_common(tmp_path: Path) -> None:
    """A log that came over the network is compared with the one that is here, byte by byte."""
    before = written(tmp_path, 3)
    old = inodes(tmp_path)
    same = tuple(entry(number) for number in range(3))
    for log, kept in [(same, True), ((*same[:2], entry(2, epoch=2)), False)]:
        one = opened(tmp_path)
        one.apply([Replace(2, 2, 0, ((1, 0),), NO_PRODUCERS, log)])
        assert (inodes(tmp_path) == old) is kept
        killed(one)
        assert opened_state(tmp_path).entries == log
    assert before.entries == same


def test_a_crash_before_the_new_log_counts_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path, 20, file_bytes_max=4000)
    files = inodes(tmp_path)
    one = opened(tmp_path, file_bytes_max=4000)
    state = one.state

    def crash(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_write_state", crash)
    with pytest.raises(KeyboardInterrupt):
        one.apply([Replace(2, 2, 0, ((1, 0), (2, 130)), NO_PRODUCERS, (*state.entries[:13], entry(13, epoch=2)))])
    killed(one)
    assert len(entry_files(tmp_path)) > len(files), "both are there"
    assert opened_state(tmp_path) == before
    assert inodes(tmp_path) == files


def test_where_the_file_system_knows_no_hard_links_the_whole_log_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 20, file_bytes_max=4000)
    before = inodes(tmp_path)
    one = opened(tmp_path, file_bytes_max=4000)
    entries = one.state.entries

    def refuse(_: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    one.apply([Replace(2, 2, 0, ((1, 0), (2, 200)), NO_PRODUCERS, entries)])
    assert not set(before.values()) & set(inodes(tmp_path).values())
    killed(one)
    assert opened_state(tmp_path).entries == entries


def test_a_long_log_is_taken_over_in_files_and_writes_of_the_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringlog.storage.entries.WRITE_BYTES", 2000)
    one = opened(tmp_path, file_bytes_max=4000)
    log = tuple(entry(number) for number in range(50))
    one.apply([Replace(1, 1, 0, ((1, 0),), NO_PRODUCERS, log)])
    assert len(entry_files(tmp_path)) > 3
    assert max(path.stat().st_size for path in entry_files(tmp_path)) < 8000
    killed(one)
    assert opened_state(tmp_path).entries == log


def test_what_is_trimmed_is_not_held_in_memory(tmp_path: Path) -> None:
    written(tmp_path, 20)
    one = opened(tmp_path)
    one.apply([Write((entry(20),)), Discard(150, ((1, 0),), NO_PRODUCERS)])
    assert [kept.start for kept in one.state.entries] == [150, 160, 170, 180, 190, 200]
    killed(one)
