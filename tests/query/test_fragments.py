"""Ids in a table that DuckDB does not read by itself: on S3, or where a folder's name looks like a pattern."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringlog.errors import Unavailable
from ringlog.query import Cut, Filter, Tail, run_search
from ringlog.query.files import files_of
from ringlog.query.fragments import datasets
from ringlog.schema import Promoted
from ringlog.storage import Flush, Snapshot, Table, segment, write_segments
from ringlog.storage.evolution import promote
from ringlog.storage.index import BLOCK_ROWS
from seaweed import SeaweedFS
from table_rows import DAY_NS, NOON, rows

NOW = datetime.datetime(2025, 10, 11, 12, 0, tzinfo=datetime.timezone.utc)


@pytest.fixture(params=["pattern", pytest.param("s3", marks=pytest.mark.s3)])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    if request.param == "pattern":
        made = Table(str(tmp_path / "ro[o]t" / "logs"), {})
    else:
        seaweed: SeaweedFS = request.getfixturevalue("seaweed")
        made = Table(f"{seaweed.root(tmp_path.name)}/logs", seaweed.storage_options)
    assert files_of(made.open_or_create()) is None
    return made


def identified(number: int) -> str:
    return f"id-{number:08d}"


def flush(table: Table, start: int, count: int, **columns: Any) -> Snapshot:
    texts = [f'{{"id":"{identified(number)}","n":{number}}}' for number in range(start, start + count)]
    batch = rows("s", start, count, **{"attributes": texts, **columns})
    snapshot = table.snapshot()
    segments = write_segments(table.objects, "s", start, [batch], snapshot.promoted)
    return table.commit(snapshot, [Flush("s", start, start + count, segments)])


def found(cut: Cut, since: str | None = None, **attributes: Any) -> list[int]:
    result = run_search(cut, Filter(attributes=attributes), since=since, now=NOW)
    return result.arrow()["record_offset"].to_pylist()  # type: ignore[no-any-return]


def spoil(table: Table, path: str, start: int, length: int) -> None:
    """What is read there is no data any more."""
    data = bytearray(table.objects.read(path))
    data[start : start + length] = bytes(length)
    table.objects.write(path, bytes(data))


def test_only_the_segment_that_holds_an_id_is_read(table: Table) -> None:
    for start in range(0, 40, 10):
        snapshot = flush(table, start, 10)
    for one in snapshot.segments():
        if one.bounds["record_offset"][0] != 20:
            spoil(table, one.path, 0, 1000)  # its pages; footer and index stay
    cut = Cut(snapshot, ())
    for _ in range(2):  # the second time, much is known
        assert found(cut, id=identified(25)) == [25]
        assert found(cut, id=identified(25), n=25) == [25]
        assert found(cut, id=identified(25), n=26) == []
        assert found(cut, id=identified(99)) == []
    with pytest.raises(Unavailable):
        found(cut, n=25)  # no word


def test_only_the_row_group_that_holds_an_id_is_read(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "ROW_GROUP_ROWS", BLOCK_ROWS + 10)  # groups do not end where blocks do
    count = 3 * (BLOCK_ROWS + 10)
    snapshot = flush(table, 0, count)
    (one,) = snapshot.segments()
    metadata = pq.ParquetFile(pa.BufferReader(table.objects.read(one.path))).metadata
    assert [metadata.row_group(group).num_rows for group in range(3)] == [BLOCK_ROWS + 10] * 3
    cut = Cut(snapshot, ())
    at_the_edges = [0, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 9, BLOCK_ROWS + 10, 2 * BLOCK_ROWS + 20, count - 1]
    assert [found(cut, id=identified(number)) for number in at_the_edges] == [[number] for number in at_the_edges]
    pages = metadata.row_group(0).column(0).data_page_offset
    spoil(table, one.path, pages, 100)
    assert found(cut, id=identified(count - 1)) == [count - 1]
    with pytest.raises(Unavailable):
        found(cut, id=identified(0))


def test_what_the_time_rules_out_is_not_even_looked_at(table: Table) -> None:
    before = {one.path for one in flush(table, 0, 10, times=[NOON] * 10).segments()}
    snapshot = flush(table, 10, 10, times=[NOON + 2 * DAY_NS - 1000] * 10)
    for path in before:
        table.objects.remove(path)
    cut = Cut(snapshot, ())
    assert found(cut, since="1d", id=identified(15)) == [15]
    assert found(cut, since="1d", id=identified(5)) == []
    with pytest.raises(Unavailable, match="a segment of the table cannot be read now"):
        found(cut, id=identified(15))


def test_what_is_not_stored_yet_and_what_others_wrote_is_found_beside_it(table: Table) -> None:
    flush(table, 0, 5)
    sink = pa.BufferOutputStream()
    foreign = pa.Table.from_batches([rows("x", 0, 1, attributes=['{"id":"id-00000003"}'])])
    pq.write_table(foreign.drop_columns(["date"]), sink)
    path, day = "date=2025-10-09/part-0.parquet", datetime.date(2025, 10, 9)
    table.objects.write(path, sink.getvalue())
    plain = segment.Segment(path, sink.getvalue().size, 1, day, '{"numRecords":1}', "x", 0, 1)
    table.commit(table.snapshot(), [Flush("x", 0, 1, [plain])])
    hot = rows("s", 5, 2, attributes=[f'{{"id":"{identified(3)}"}}', None])
    cut = Cut(table.snapshot(), (Tail("s", 5, 7, (hot,)),))
    assert sorted(found(cut, id=identified(3))) == [0, 3, 5]
    only_hot = Cut(table.snapshot(), (Tail("s", 5, 7, (rows("s", 5, 2, attributes=['{"id":"id-00000009"}'] * 2),)),))
    assert found(only_hot, id=identified(9)) == [5, 6]


def test_a_column_that_came_later_is_there_all_the_same(table: Table) -> None:
    flush(table, 0, 5)
    promote(table, table.snapshot(), [Promoted("n", "integer")])
    cut = Cut(flush(table, 5, 5), ())
    assert sorted(len(lacking) for lacking, _ in datasets(cut)) == [0, 1]
    for number in (3, 8):
        result = run_search(cut, Filter(attributes={"id": identified(number)}), now=NOW).arrow()
        assert result.select(["record_offset", "n"]).to_pylist() == [{"record_offset": number, "n": number}]


def test_a_word_that_stands_everywhere_is_found_everywhere(table: Table) -> None:
    for start in range(0, 30, 10):
        snapshot = flush(table, start, 10, attributes=['{"id":"the same everywhere"}'] * 10)
    assert sorted(found(Cut(snapshot, ()), id="the same everywhere")) == list(range(30))
