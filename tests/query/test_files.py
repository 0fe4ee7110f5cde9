from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from ringlog.query import Cut, Filter, Tail, read_table, run_search, run_sql
from ringlog.query.files import PARTS_MAX, files_of
from ringlog.query.snapshot import newest
from ringlog.storage import Flush, Snapshot, Table, write_segments
from ringlog.storage.index import BLOCK_ROWS
from table_rows import rows

NOW = datetime.datetime(2025, 10, 9, 12, 10, tzinfo=datetime.timezone.utc)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = Table(str(tmp_path / "it's a root" / "logs"), {})
    made.open_or_create()
    return made


def identified(number: int) -> str:
    return f"id-{number:08d}"


def flush(table: Table, start: int, count: int, **columns: Any) -> Snapshot:
    """Records of shard s with an id each."""
    texts = [f'{{"id":"{identified(number)}","n":{number}}}' for number in range(start, start + count)]
    batch = rows("s", start, count, **{"attributes": texts, **columns})
    snapshot = table.snapshot()
    return table.commit(
        snapshot, [Flush("s", start, start + count, write_segments(table.objects, "s", start, [batch]))]
    )


def found(cut: Cut, limit: int | None = 100, **attributes: Any) -> list[int]:
    result = run_search(cut, Filter(attributes=attributes), limit=limit, now=NOW)
    return result.arrow()["record_offset"].to_pylist()  # type: ignore[no-any-return]


def test_only_the_segment_that_holds_an_id_is_read(table: Table) -> None:
    """The records of the others are made unreadable: whoever read one would fail."""
    paths = []
    for start in range(0, 40, 10):
        before = {segment.path for segment in table.snapshot().segments()}
        paths += [segment.path for segment in flush(table, start, 10).segments() if segment.path not in before]
    for path in (paths[0], paths[1], paths[3]):
        with Path(table.url, path).open("r+b") as file:
            file.write(bytes(1000))  # its pages; footer and index stay
    cut = Cut(table.snapshot(), ())
    assert found(cut, id=identified(25)) == [25]
    assert found(cut, id=identified(99)) == []
    with pytest.raises(Exception, match="Invalid data"):
        found(cut, n=25)  # no word


def test_an_id_is_found_in_whatever_block_it_stands(table: Table) -> None:
    count = 2 * BLOCK_ROWS + 10
    snapshot = flush(table, 0, count, service=["b", "a"] * (count // 2))
    for number in (0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, count - 1):
        assert found(Cut(snapshot, ()), id=identified(number)) == [number]
        assert found(Cut(snapshot, ()), id=identified(number), n=number) == [number]
        assert found(Cut(snapshot, ()), id=identified(number), n=number + 1) == []


def test_a_trace_id_is_found_by_the_index_too(table: Table) -> None:
    snapshot = flush(table, 0, 3, trace_id=["a" * 32, "b" * 32, "a" * 32])
    result = run_search(Cut(snapshot, ()), Filter(trace_id="a" * 32), now=NOW)
    assert result.arrow()["record_offset"].to_pylist() == [0, 2]


def test_what_is_not_stored_yet_is_found_beside_it(table: Table) -> None:
    snapshot = flush(table, 0, 5)
    hot = rows("s", 5, 2, attributes=[f'{{"id":"{identified(3)}"}}', None])
    assert found(Cut(snapshot, (Tail("s", 5, 7, (hot,)),)), id=identified(3)) == [3, 5]
    assert found(Cut(snapshot, (Tail("s", 5, 7, (hot,)),)), id=identified(9)) == []


def test_a_word_that_stands_everywhere_is_found_everywhere(table: Table) -> None:
    for start in range(PARTS_MAX + 1):
        snapshot = flush(table, start, 1, attributes=['{"id":"the same everywhere"}'])
    assert found(Cut(snapshot, ()), id="the same everywhere") == list(range(PARTS_MAX + 1))


def test_segments_of_somebody_else_are_scanned(table: Table) -> None:
    flush(table, 0, 5)
    write_deltalake(
        table.url, pa.Table.from_batches([rows("x", 7, 1, attributes=['{"id":"id-00000003"}'])]), mode="append"
    )
    assert sorted(found(read_table(table.url, {}), id=identified(3))) == [3, 7]


def test_columns_that_came_later_are_null_before(table: Table) -> None:
    flush(table, 0, 2)
    DeltaTable(table.url).alter.add_columns([Field("region", PrimitiveType("string"))])
    query = "SELECT record_offset, region FROM logs ORDER BY 1"
    assert run_sql(query, read_table(table.url, {})).fetchall() == [(0, None), (1, None)], "no file has it yet"
    later = pa.Table.from_batches([rows("x", 2, 1)]).append_column("region", pa.array(["eu"]))
    write_deltalake(table.url, later, mode="append")
    cut = read_table(table.url, {})
    assert run_sql(query, cut).fetchall() == [(0, None), (1, None), (2, "eu")]
    hot = Cut(cut.snapshot, (Tail("s", 2, 3, (rows("s", 2, 1, severity_number=[1]),)),))
    assert run_sql("SELECT region FROM logs WHERE severity_number = 1", hot).fetchall() == [(None,)]


def test_both_ways_of_reading_give_the_same(table: Table) -> None:
    flush(table, 0, 50)
    snapshot = flush(table, 50, 50, trace_flags=[1] * 50)
    native = run_sql("SELECT * FROM logs ORDER BY record_offset", Cut(snapshot, ())).arrow()
    files = files_of(snapshot)
    assert files is not None
    scanned = Cut(snapshot, ()).cold().to_table().sort_by("record_offset")
    assert native.cast(scanned.schema).equals(scanned)


def test_an_unchanged_table_is_not_loaded_again_and_a_commit_is_never_missed(table: Table) -> None:
    first = newest(table)
    assert newest(table) is first
    for start in range(5):
        flush(table, start, 1)
        seen = newest(Table(table.url, {}))
        assert seen is not None
        assert seen.stored("s") == start + 1
        assert newest(table) is seen


def test_a_table_made_anew_in_the_same_place_is_seen(table: Table) -> None:
    flush(table, 0, 3)
    assert run_sql("SELECT count(*) FROM logs", read_table(table.url, {})).fetchall() == [(3,)]
    shutil.rmtree(table.url)
    assert newest(table) is None
    Table(table.url, {}).open_or_create()
    flush(table, 0, 2)
    assert run_sql("SELECT count(*) FROM logs", read_table(table.url, {})).fetchall() == [(2,)]


def test_a_folder_whose_name_looks_like_a_pattern_is_scanned_as_a_dataset(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "ro[o]t" / "logs"), {})
    table.open_or_create()
    snapshot = flush(table, 0, 5)
    assert files_of(snapshot) is None
    assert run_sql("SELECT count(*) FROM logs", Cut(snapshot, ())).fetchall() == [(5,)]
    assert found(Cut(snapshot, ()), id=identified(3)) == [3]
