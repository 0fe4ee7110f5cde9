"""Verification: every kind of damage is planted in a real table or journal, and named for what it is and where."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from ringlog.replication import Discard, Replace, Write
from ringlog.storage import Flush, Snapshot, Table, find_journals, write_segments
from ringlog.storage.commit import _added, _removed
from ringlog.storage.compaction import compact
from ringlog.storage.contents import StoredSegment
from ringlog.storage.examination import Problem
from ringlog.storage.retention import Expiry, expire
from ringlog.storage.verification import JournalsReport, verify_journals, verify_table
from storage.conftest import Place
from storage.test_commit import flush
from storage.test_journal import SHARD, entry, entry_files, killed, opened, written
from table_rows import DAY_NS, NOON, rows

TODAY = datetime.date(2025, 10, 9)


def filled(table: Table) -> Snapshot:
    """Two shards of 30 records in three segments each; some records of ``a`` are late."""
    snapshot = table.open_or_create()
    for start in (0, 10, 20):
        late = [NOON - DAY_NS if at % 3 == 1 else NOON + at for at in range(10)]
        snapshot = table.commit(
            snapshot, [flush(table, "a", start, 10, times=late), flush(table, "b", start, 10, service=["x", "y"] * 5)]
        )
    return snapshot


@pytest.fixture
def held(table: Table) -> Snapshot:
    snapshot = filled(table)
    assert verify_table(table).problems == ()
    return snapshot


def problem(table: Table) -> Problem:
    """The one thing that is wrong."""
    problems = verify_table(table).problems
    assert len(problems) == 1, problems
    return problems[0]


def one_of(snapshot: Snapshot, shard: str, start: int = 10) -> StoredSegment:
    return next(
        segment
        for segment in snapshot.segments()
        if segment.only("shard") == shard and segment.bounds["record_offset"][0] == start
    )


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def act(table: Table, actions: list[object], *marks: Transaction) -> None:
    """Change the table as no archiver would."""
    delta = table.snapshot().delta
    delta.create_write_transaction(
        actions, "append", delta.schema(), ["date"], commit_properties=CommitProperties(app_transactions=list(marks))
    )


def test_a_table_that_is_well(place: Place) -> None:
    table = Table(*place)
    snapshot = filled(table)
    table.fence("b", 3)
    report = verify_table(table)
    assert report.problems == ()
    assert (report.records, report.segments, report.version) == (60, 9, snapshot.version + 1)
    assert report.stored == {"a": 30, "b": 30}
    assert report.bytes == sum(segment.size_bytes for segment in snapshot.segments())


def test_one_that_was_compacted_expired_and_checkpointed(place: Place) -> None:
    table = Table(*place)
    filled(table)
    compact(table, 2 * NOON / 1e9)
    expire(table, Expiry(service="x"))
    expire(table, Expiry(before=TODAY))
    table.snapshot().delta.create_checkpoint()
    table.commit(table.snapshot(), [flush(table, "c", 0, 5)])
    report = verify_table(table)
    assert report.problems == ()
    assert report.stored == {"a": 30, "b": 30, "c": 5}
    assert report.records == 60 - 9 - 15 + 5


def test_one_that_delta_rs_compacted(table: Table, held: Snapshot) -> None:
    """Its files have no checksums, and their names no digest; they are read all the same."""
    held.delta.optimize.compact()
    assert len(table.snapshot().segments()) == 2
    assert verify_table(table).problems == ()


def test_a_flipped_bit_in_a_page(table: Table, held: Snapshot) -> None:
    segment = one_of(held, "b")
    path = Path(table.url) / segment.path
    body = pq.ParquetFile(path).metadata.row_group(0).column(5)
    flip(path, body.data_page_offset + body.total_compressed_size - 10)
    found = problem(table)
    assert found.what.startswith("body does not read back: ")
    assert (found.file, found.row_group, found.column) == (segment.path, 0, "body")
    assert (found.shard, found.start, found.end) == ("b", 10, 20)


def test_a_flipped_bit_in_the_second_row_group(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlog.storage.segment.ROW_GROUP_ROWS", 10)
    snapshot = table.commit(table.snapshot(), [flush(table, "a", 0, 25)])
    (segment,) = snapshot.segments()
    path = Path(table.url) / segment.path
    shard = pq.ParquetFile(path).metadata.row_group(1).column(25)
    assert shard.path_in_schema == "shard"
    flip(path, shard.dictionary_page_offset + shard.total_compressed_size - 1)
    found = problem(table)
    assert (found.file, found.row_group, found.column) == (segment.path, 1, "shard")


def test_a_flipped_bit_where_there_is_no_checksum(table: Table, held: Snapshot) -> None:
    segment = one_of(held, "b")
    path = Path(table.url) / segment.path
    flip(path, path.read_bytes().index(b"parquet-cpp"))
    found = problem(table)
    assert (found.file, found.row_group) == (segment.path, None)
    assert found.what.startswith("the digest in its name is not that of the file")


def test_a_segment_that_was_cut_short(table: Table, held: Snapshot) -> None:
    segment = one_of(held, "b")
    path = Path(table.url) / segment.path
    path.write_bytes(path.read_bytes()[:-100])
    short, footer = verify_table(table).problems
    assert short.what == f"the segment has {segment.size_bytes - 100} bytes instead of {segment.size_bytes}"
    assert footer.what.startswith("the footer does not read back")
    assert short.file == footer.file == segment.path


def test_a_segment_that_is_gone(place: Place) -> None:
    table = Table(*place)
    segment = one_of(filled(table), "b")
    table.objects.remove(segment.path)
    assert problem(table) == Problem("the segment is gone", segment.path, shard="b", start=10, end=20)


def test_a_merged_segment_that_is_gone(table: Table, held: Snapshot) -> None:
    compact(table, 2 * NOON / 1e9)
    segment = max(table.snapshot().segments(), key=lambda segment: segment.rows)
    table.objects.remove(segment.path)
    assert problem(table) == Problem("the segment is gone", segment.path), (
        "and its records are not said to be lost twice"
    )


def test_a_segment_that_is_there_twice(table: Table, held: Snapshot) -> None:
    again = write_segments(table.objects, "b", 10, [rows("b", 10, 10)])
    act(table, [_added(again[0])])
    found = problem(table)
    assert (found.shard, found.start, found.end) == ("b", 10, 20)
    other = found.what.removeprefix("these records are in ").removesuffix(" as well")
    assert {found.file, other} == {again[0].path, one_of(held, "b").path}


def test_records_that_are_twice_in_one_segment(table: Table) -> None:
    twice = pa.Table.from_batches([rows("a", 0, 6), rows("a", 2, 3)]).combine_chunks().to_batches()
    table.commit(table.snapshot(), [Flush("a", 0, 9, write_segments(table.objects, "a", 0, twice))])
    double, missing = verify_table(table).problems
    assert (double.what, double.start, double.end) == ("these records are twice in it", 2, 5)
    assert (missing.what, missing.start, missing.end) == ("these records are in no segment", 6, 9)


def test_a_hole(table: Table, held: Snapshot) -> None:
    act(table, [_removed(one_of(held, "b"), 0, True)])
    assert problem(table) == Problem("these records are in no segment", shard="b", start=10, end=20)


def test_a_hole_beside_what_expired(table: Table, held: Snapshot) -> None:
    expire(table, Expiry(service="x"))
    act(table, [_removed(max(table.snapshot().segments(), key=lambda one: one.bounds["record_offset"][0]), 0, True)])
    found = problem(table)
    assert found.what.startswith("5 records are in no segment and did not expire")
    assert found.shard == "b"
    assert (found.start, found.end) == (0, 30)


def test_expired_records_that_are_there(table: Table, held: Snapshot) -> None:
    act(table, [], Transaction("b/expired", 4))
    assert problem(table) == Problem("4 records expired by the log, and only 0 are not there", shard="b")


@pytest.mark.parametrize(("says", "start", "end"), [(25, 25, 30), (40, 30, 40)])
def test_a_transaction_that_does_not_fit(table: Table, held: Snapshot, says: int, start: int, end: int) -> None:
    act(table, [], Transaction("b", says))
    found = problem(table)
    assert (found.shard, found.start, found.end) == ("b", start, end)
    if says < 30:
        assert found.what == "there are records up to 30, and the transaction of b says 25"
        assert found.file == one_of(held, "b", 20).path
    else:
        assert found.what == "these records are in no segment"


def test_a_shard_that_has_a_transaction_and_nothing_else(table: Table, held: Snapshot) -> None:
    act(table, [], Transaction("c", 7))
    assert problem(table) == Problem("these records are in no segment", shard="c", start=0, end=7)


def test_statistics_that_hide_records_from_readers(table: Table, held: Snapshot) -> None:
    batch = rows("c", 0, 5)
    (segment,) = write_segments(table.objects, "c", 0, [batch])
    stats = json.loads(segment.stats_json)
    stats["maxValues"]["severity_number"] = 5
    wrong = type(segment)(**{**segment.__dict__, "stats_json": json.dumps(stats)})
    table.commit(table.snapshot(), [Flush("c", 0, 5, [wrong])])
    found = problem(table)
    assert (found.file, found.column) == (segment.path, "severity_number")
    assert found.what.startswith("severity_number goes from 9 to 9, and readers skip by the log's 9 to 5")


def test_a_segment_with_another_number_of_records(table: Table) -> None:
    (segment,) = write_segments(table.objects, "c", 0, [rows("c", 0, 5)])
    stats = {**json.loads(segment.stats_json), "numRecords": 6}
    wrong = type(segment)(**{**segment.__dict__, "stats_json": json.dumps(stats), "rows": 6})
    table.commit(table.snapshot(), [Flush("c", 0, 6, [wrong])])
    assert [found.what for found in verify_table(table).problems] == [
        "the segment has 5 records, and the log says 6",
        "these records are in no segment",
    ]


def test_a_segment_of_another_day(table: Table) -> None:
    (segment,) = write_segments(table.objects, "c", 0, [rows("c", 0, 5)])
    wrong = type(segment)(**{**segment.__dict__, "date": TODAY.replace(day=1)})
    table.commit(table.snapshot(), [Flush("c", 0, 5, [wrong])])
    assert problem(table).what == "5 of its records are not of 2025-10-01, by whose day readers find them"


def test_a_checkpoint_that_lost_a_transaction(table: Table, held: Snapshot) -> None:
    held.delta.create_checkpoint()
    (path,) = Path(table.url).glob("_delta_log/*.checkpoint.parquet")
    actions = pq.read_table(path)
    kept = [row["txn"] is None or row["txn"]["appId"] != "b" for row in actions.select(["txn"]).to_pylist()]
    pq.write_table(actions.filter(pa.array(kept)), path)
    for commit in Path(table.url).glob("_delta_log/0*.json"):
        commit.unlink()
    assert DeltaTable(table.url).transaction_version("b") is None
    found = problem(table)
    assert (found.shard, found.start, found.end) == ("b", 0, 30)
    assert found.what == "there are records up to 30, and the transaction of b says 0"


def journals(folder: Path, table: Table | None = None) -> JournalsReport:
    return verify_journals(find_journals(folder), table)


def test_journals_that_are_well(tmp_path: Path, table: Table) -> None:
    written(tmp_path / "pipeline" / "actor" / SHARD, 5, file_bytes_max=2000)
    report = journals(tmp_path)
    assert ([one.end for one in report.journals], report.problems) == ([50], ())
    assert journals(tmp_path, table).problems == ()
    assert journals(tmp_path, Table(str(tmp_path / "no table"), {})).problems == ()
    assert journals(tmp_path / "nowhere").journals == ()


def test_a_journal_that_is_torn_in_the_middle(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "actor" / SHARD
    written(folder, 3)
    written(tmp_path / "pipeline" / "other" / SHARD, 3)
    (file,) = entry_files(folder)
    flip(file, file.stat().st_size // 2)
    (found,) = journals(tmp_path).problems
    assert (found.file, found.shard) == (str(folder), SHARD)
    assert f"{file}: byte " in found.what
    assert len(journals(tmp_path).journals) == 1, "the others are read"


def test_what_a_crash_tore_off_a_journal_is_no_damage(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "actor" / SHARD
    written(folder, 3)
    (file,) = entry_files(folder)
    file.write_bytes(file.read_bytes()[:-100])
    report = journals(tmp_path)
    assert ([one.end for one in report.journals], report.problems) == ([20], ())


def test_a_journal_that_was_trimmed_beyond_the_table(tmp_path: Path, table: Table) -> None:
    folder = tmp_path / "pipeline" / "actor" / SHARD
    journal = opened(folder)
    journal.apply([Replace(1, 1, 0, ((1, 0),), {}, ()), Write((entry(0), entry(1)))])
    journal.apply([Discard(20, ((1, 0),), {})])
    killed(journal)
    assert journals(tmp_path).problems == (), "whose table it is, is not known"
    table.commit(table.snapshot(), [flush(table, SHARD, 0, 15)])
    (found,) = journals(tmp_path, table).problems
    assert found.what == "the journal begins at 20, and the table ends at 15: what is between is gone"
    assert (found.file, found.shard, found.start, found.end) == (str(folder), SHARD, 15, 20)
    table.commit(table.snapshot(), [flush(table, SHARD, 15, 5)])
    assert journals(tmp_path, table).problems == ()
