"""Compaction: fewer segments, the same records, under readers, beside archivers, and one compaction beside another."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import Field
from deltalake.schema import PrimitiveType

from ringlog.errors import Conflict, CorruptionError
from ringlog.storage import Flush, Snapshot, Table, compaction, write_segments
from ringlog.storage.compaction import CALM_S, FAN_IN, TARGET_BYTES, Compacted, compact, plan
from ringlog.storage.contents import StoredSegment
from ringlog.storage.index import open_index
from storage.conftest import Place
from storage.test_commit import flush, positions, racing
from table_rows import DAY_NS, NOON, rows

NOON_S = NOON / 1e9
LATER_S = NOON_S + 86_400
"""When the day of the records is over; that they were written in this century makes them calm only later."""
TODAY = datetime.date(2025, 10, 9)
KIB, MIB = 1024, 1024 * 1024


def segment(
    size: int,
    *,
    number: int = 0,
    shard: str = "a",
    date: datetime.date = TODAY,
    added_s: float = NOON_S,
    name: str = "a",
) -> StoredSegment:
    at = NOON + number
    bounds = {"shard": (shard, shard), "time_unix_nano": (at, at)}
    return StoredSegment(f"date={date}/{name}-{number}.parquet", size, 100, date, added_s, {"shard": 0}, bounds)


def small(count: int, size: int = 10 * KIB, **given: object) -> list[StoredSegment]:
    return [segment(size, number=number, **given) for number in range(count)]  # type: ignore[arg-type]


def paths(merges: Sequence[compaction.Merge]) -> list[list[str]]:
    return [[one.path for one in merge.segments] for merge in merges]


def filled(table: Table, flushes: int, count: int = 10) -> Snapshot:
    """Three shards, each with ``flushes`` segments."""
    snapshot = table.open_or_create()
    for number in range(flushes):
        snapshot = table.commit(snapshot, [flush(table, f"shard-{n}", number * count, count) for n in range(3)])
    return snapshot


def test_a_day_that_goes_on_is_merged_once_enough_of_one_size_are_there() -> None:
    assert plan(small(FAN_IN - 1), NOON_S) == []
    (merge,) = plan(small(FAN_IN), NOON_S)
    assert len(merge.segments) == FAN_IN
    assert plan([*small(FAN_IN - 1), segment(200 * KIB, name="larger")], NOON_S) == []
    assert plan([], NOON_S) == []


def test_a_day_that_is_over_and_calm_is_merged_into_as_few_as_possible() -> None:
    late = small(2, added_s=LATER_S)
    assert plan(late, LATER_S + CALM_S - 1) == []
    assert paths(plan(late, LATER_S + CALM_S)) == [[one.path for one in late]]
    assert plan(late[:1], LATER_S + CALM_S) == []


def test_a_day_that_is_over_but_not_calm_is_merged_like_one_that_goes_on() -> None:
    (merge,) = plan(small(FAN_IN, added_s=LATER_S), LATER_S)
    assert len(merge.segments) == FAN_IN


def test_large_and_full_segments_are_left_alone() -> None:
    assert plan(small(FAN_IN, TARGET_BYTES // 2), LATER_S) == []
    assert plan(small(FAN_IN, name="full"), LATER_S) == []


def test_small_ones_of_all_shards_are_merged_and_larger_ones_by_shard() -> None:
    mixed = [segment(10 * KIB, number=n, shard=f"shard-{n}") for n in range(FAN_IN)]
    assert len(plan(mixed, NOON_S)) == 1
    apart = [segment(2 * MIB, number=n, shard=f"shard-{n % 2}") for n in range(2 * FAN_IN)]
    merges = plan(apart, NOON_S)
    assert [{one.only("shard") for one in merge.segments} for merge in merges] == [{"shard-0"}, {"shard-1"}]


def test_no_merge_is_much_larger_than_what_is_aimed_at() -> None:
    merges = plan(small(10, 7 * MIB), NOON_S)
    assert [len(merge.segments) for merge in merges] == [4, 4], "two are left until more come"
    assert all(merge.size_bytes <= TARGET_BYTES for merge in merges)


def test_what_saves_most_files_for_its_bytes_comes_first() -> None:
    yesterday = TODAY - datetime.timedelta(days=1)
    merges = plan([*small(2, 5 * MIB, date=yesterday, added_s=0.0), *small(FAN_IN)], NOON_S)
    assert [len(merge.segments) for merge in merges] == [FAN_IN, 2]


def test_a_month_of_a_trickle_stays_in_few_segments() -> None:
    """One record a second over three shards, flushed every 30 s, compacted every 5 minutes; sizes as measured."""
    header, record = 6 * KIB, 45
    held: list[StoredSegment] = []
    most = rewritten = written = 0
    for now in range(0, 30 * 86_400, 300):
        day, at = TODAY + datetime.timedelta(days=now // 86_400), NOON_S - 43_200 + now
        for number in range(30):
            one = segment(header + 10 * record, number=number, shard=f"shard-{number % 3}", date=day, added_s=at)
            held.append(one)
            written += one.size_bytes
        most = max(most, sum(one.date == day for one in held))
        while merges := plan(held, at):
            for merge in merges:
                size = header + merge.size_bytes - header * len(merge.segments)
                gone = {id(one) for one in merge.segments}
                held = [one for one in held if id(one) not in gone]
                held.append(segment(size, shard="", date=merge.segments[0].date, added_s=at, name="merged"))
                rewritten += merge.size_bytes
    assert most <= 30 + 4 * FAN_IN, "a day that goes on never has many"
    assert sum(one.date != day for one in held) == 29, "a day that is over is one segment"
    assert rewritten < 2 * written, "no record is rewritten again and again"


def test_many_small_segments_become_one_with_the_same_records(place: Place) -> None:
    table = Table(*place)
    before = filled(table, 4)
    fenced = table.fence("shard-0", 7)
    done = compact(table, LATER_S * 2)
    after = Table(*place).snapshot()
    assert (done.merged, done.written, done.broken) == (12, 1, ())
    assert done.read_bytes == sum(one.size_bytes for one in before.segments())
    assert [one.size_bytes for one in after.segments()] == [done.written_bytes]
    assert positions(after) == positions(before) == {f"shard-{n}": list(range(40)) for n in range(3)}
    assert [after.stored(f"shard-{n}") for n in range(3)] == [40] * 3
    assert (after.fence("shard-0"), after.expired("shard-0"), fenced.version) == (7, 0, after.version - 1)
    again = compact(table, LATER_S * 2)
    assert (again, table.snapshot().version) == (Compacted(), after.version), "and nothing is left to do"


def test_nothing_of_a_record_changes(table: Table) -> None:
    before = filled(table, 3).delta.to_pyarrow_table().sort_by([("shard", "ascending"), ("record_offset", "ascending")])
    compact(table, LATER_S * 2)
    after = table.snapshot().delta.to_pyarrow_table()
    assert after.sort_by([("shard", "ascending"), ("record_offset", "ascending")]).equals(before)
    (path,) = table.objects.list("date=2025-10-09")[-1:]
    merged = pq.ParquetFile(Path(table.url) / table.snapshot().segments()[0].path)
    times = merged.read(["time_unix_nano"])["time_unix_nano"].to_pylist()
    assert times == sorted(times), path


def test_a_reader_on_an_earlier_version_goes_on(place: Place) -> None:
    table = Table(*place)
    reader = filled(table, 3)
    batches = reader.delta.to_pyarrow_dataset().to_batches()
    first = next(batches)
    compact(table, LATER_S * 2)
    assert first.num_rows + sum(batch.num_rows for batch in batches) == 90
    assert positions(reader) == positions(table.snapshot())


def test_archivers_step_over_a_compaction_and_it_over_them(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    archiver = filled(table, 3)
    ready = flush(table, "shard-1", 30, 5)
    attempts = []
    real = table._try
    monkeypatch.setattr(table, "_try", lambda *given: attempts.append(given) or real(*given))
    read = compaction.read_segment

    def meanwhile(objects: object, one: StoredSegment) -> pa.Table:
        if table.snapshot().stored("shard-0") == 30:
            table.commit(table.snapshot(), [flush(table, "shard-0", 30, 5)])
        return read(objects, one)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "read_segment", meanwhile)
    assert compact(table, LATER_S * 2).merged >= 9
    table.commit(archiver, [ready])
    assert len(attempts) == 2, "neither archiver had to try again"
    assert positions(table.snapshot()) == {
        "shard-0": list(range(35)),
        "shard-1": list(range(35)),
        "shard-2": list(range(30)),
    }


def test_racing_compactions_double_nothing(place: Place) -> None:
    before = filled(Table(*place), 4)
    done = racing(3, lambda: compact(Table(*place), LATER_S * 2))
    after = Table(*place).snapshot()
    assert positions(after) == positions(before)
    assert len(after.segments()) == 1
    assert sum(one.merged for one in done) >= 12


def test_what_is_not_there_any_more_is_not_replaced(table: Table) -> None:
    """delta-rs would take it: it looks for conflicts only behind the snapshot that it is given."""
    stale = filled(table, 3).segments()
    compact(table, LATER_S * 2)
    now = table.snapshot()
    merged = [flush(table, f"shard-{n}", 0, 30).segments[0] for n in range(3)]
    with pytest.raises(Conflict, match="has no more what was to be replaced"):
        table.replace(now, stale, merged)
    assert positions(table.snapshot()) == positions(now)


def test_a_replacement_that_loses_records_is_refused(table: Table) -> None:
    snapshot = filled(table, 2)
    with pytest.raises(CorruptionError, match="10 records would go"):
        table.replace(snapshot, snapshot.segments(), [flush(table, "shard-0", 0, 50).segments[0]])
    assert table.snapshot().version == snapshot.version


def test_a_segment_that_does_not_read_back_is_left_and_said(table: Table) -> None:
    table.commit(table.snapshot(), [flush(table, "b", 0, 20, times=[NOON - DAY_NS + n for n in range(20)])])
    table.commit(table.snapshot(), [flush(table, "b", 20, 20, times=[NOON - DAY_NS + n for n in range(20)])])
    before = filled(table, 3)
    broken = next(one for one in before.segments() if one.only("shard") == "shard-1")
    file = Path(table.url) / broken.path
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    done = compact(table, LATER_S * 2)
    assert (done.merged, len(done.broken)) == (2 + 8, 1), "its neighbours are merged without it"
    assert broken.path in done.broken[0]
    held = {one.path for one in table.snapshot().segments()}
    assert broken.path in held, "its records are not given up"
    file.unlink()
    assert "does not exist" in compact(table, LATER_S * 2).broken[0]


def test_a_run_is_bounded_by_bytes(table: Table) -> None:
    for day in range(3):
        for start in (0, 10):
            times = [NOON + day * DAY_NS + n for n in range(10)]
            table.commit(table.snapshot(), [flush(table, f"day-{day}", start, 10, times=times)])
    one = max(merge.size_bytes for merge in plan(table.snapshot().segments(), LATER_S * 2))
    assert compact(table, LATER_S * 2, bytes_max=one).merged == 2
    assert compact(table, LATER_S * 2, bytes_max=one - 100) == Compacted()
    assert compact(table, LATER_S * 2).merged == 4


def test_a_merge_is_bounded_by_memory_and_comes_to_an_end(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(table, 4)
    biggest = max(compaction.read_segment(table.objects, one).nbytes for one in before.segments())
    monkeypatch.setattr(compaction, "MEMORY_BYTES", 3 * biggest)
    done = compact(table, LATER_S * 2)
    after = table.snapshot()
    assert positions(after) == positions(before)
    assert done.merged == 12
    assert sorted(one.rows for one in after.segments()) == [30, 30, 30, 30]
    assert compact(table, LATER_S * 2) == Compacted()


def test_a_table_with_more_columns_keeps_them(table: Table) -> None:
    filled(table, 2).delta.alter.add_columns([Field("http_status", PrimitiveType("long"))])
    more = rows("shard-0", 20, 10).append_column("http_status", pa.array([200] * 10))
    segments = write_segments(table.objects, "shard-0", 20, [more])
    table.commit(table.snapshot(), [Flush("shard-0", 20, 30, segments)])
    assert compact(table, LATER_S * 2).merged == 7
    held = table.snapshot().delta.to_pyarrow_table(columns=["http_status"])["http_status"].to_pylist()
    assert sorted(held, key=str) == [200] * 10 + [None] * 60


def test_a_merged_segment_has_an_index_of_its_own(table: Table) -> None:
    words = [f"{number:016x}" for number in range(40)]
    for start in (0, 20):
        attributes = [f'{{"request_id":"{word}"}}' for word in words[start : start + 20]]
        table.commit(table.snapshot(), [flush(table, "a", start, 20, attributes=attributes)])
    assert compact(table, LATER_S * 2).written == 1
    data = table.objects.read(table.snapshot().segments()[0].path)

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    index = open_index(pq.ParquetFile(pa.BufferReader(data)).metadata.metadata, read)
    assert index is not None
    assert [index.blocks([word], read) for word in words] == [[0]] * 40
    assert index.blocks(["f" * 16], read) == []
