from __future__ import annotations

import datetime
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.schema import TABLE_SCHEMA
from ringlog.storage.objects import Objects
from ringlog.storage.segment import Segment, is_as_written, statistics, upper_bound, write_segments
from table_rows import DAY_NS, NOON, rows

INT64 = np.iinfo(np.int64)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path), {})


def read(objects: Objects, segment: Segment) -> pa.Table:
    """The rows of ``segment``, with every page's checksum verified."""
    return pq.read_table(
        pa.BufferReader(objects.read(segment.path)), page_checksum_verification=True, partitioning=None
    )


def test_one_date_makes_one_sorted_segment_with_every_row(objects: Objects) -> None:
    times = NOON + np.array([5, 3, 3, 9, 1]) * 1_000_000
    whole = rows("shard-7", 100, 5, times=times)
    [segment] = write_segments(objects, "shard-7", 100, [whole.slice(0, 2), whole.slice(2)])
    assert (segment.shard, segment.start, segment.end, segment.rows) == ("shard-7", 100, 105, 5)
    assert segment.date == datetime.date(2025, 10, 9)
    assert re.fullmatch(r"date=2025-10-09/shard-7-0{17}100-0{17}105-[0-9a-f-]{36}-[0-9a-f]{16}\.parquet", segment.path)
    assert objects.list() == [segment.path]
    assert len(objects.read(segment.path)) == segment.size_bytes
    stored = read(objects, segment)
    assert stored["record_offset"].to_pylist() == [104, 101, 102, 100, 103]
    assert stored.column_names == [name for name in TABLE_SCHEMA.names if name != "date"]
    expected = pa.Table.from_batches([whole]).drop_columns(["date"])
    assert stored.sort_by("record_offset") == expected


def test_each_date_has_its_own_segment(objects: Objects) -> None:
    times = np.array([NOON, NOON - 3 * DAY_NS, NOON + 1, NOON - 3 * DAY_NS - 1, NOON + DAY_NS])
    segments = write_segments(objects, "s", 0, [rows("s", 0, 5, times=times)])
    found = {str(segment.date): read(objects, segment)["record_offset"].to_pylist() for segment in segments}
    assert found == {"2025-10-06": [3, 1], "2025-10-09": [0, 2], "2025-10-10": [4]}
    assert {(segment.start, segment.end) for segment in segments} == {(0, 5)}
    assert len({segment.path for segment in segments}) == 3


def test_the_same_range_twice_never_shares_a_name(objects: Objects) -> None:
    batch = rows("s", 0, 3)
    first, second = (write_segments(objects, "s", 0, [batch])[0] for _ in range(2))
    assert first.path != second.path
    assert read(objects, first) == read(objects, second)


def test_a_shard_name_never_leaves_its_folder(objects: Objects) -> None:
    [segment] = write_segments(objects, "../a b%2F", 0, [rows("../a b%2F", 0, 1)])
    assert segment.path.startswith("date=2025-10-09/.._a_b_2F-")
    assert segment.shard == "../a b%2F"


def test_nothing_makes_no_segment(objects: Objects) -> None:
    assert write_segments(objects, "s", 0, []) == []
    assert objects.list() == []


def test_the_file_can_be_skipped_through_and_verified(objects: Objects) -> None:
    count = 200_000
    [segment] = write_segments(objects, "s", 0, [rows("s", 0, count, body=["x"] * count)])
    metadata = pq.ParquetFile(pa.BufferReader(objects.read(segment.path))).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [100_000, 100_000]
    group = metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    for column in columns.values():
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.has_column_index
        assert column.is_stats_set
    assert "DELTA_BINARY_PACKED" in columns["time_unix_nano"].encodings
    assert "RLE_DICTIONARY" in columns["service"].encodings
    names = list(columns)
    assert [names[column.column_index] for column in group.sorting_columns] == [
        "service",
        "severity_number",
        "time_unix_nano",
        "record_offset",
    ]


def test_records_of_one_service_and_severity_stand_side_by_side_in_order_of_time(objects: Objects) -> None:
    batch = rows(
        "s",
        0,
        6,
        service=["b", None, "a", "b", "a", "b"],
        severity_number=[9, 9, 17, 9, 9, 5],
        times=NOON - np.arange(6),
    )
    [segment] = write_segments(objects, "s", 0, [batch])
    assert read(objects, segment)["record_offset"].to_pylist() == [4, 2, 5, 3, 0, 1]


@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
            st.none() | st.integers(0, 24),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_the_order_is_that_of_arrow_itself(keys: list[tuple[str | None, int | None, int]]) -> None:
    services, severities, times = zip(*keys, strict=True)
    plain = rows("s", 0, len(keys), times=NOON + np.array(times) * DAY_NS // 2)
    given_columns = {"service": pa.array(services, pa.string()), "severity_number": pa.array(severities, pa.int8())}
    table = pa.Table.from_arrays(
        [given_columns.get(name, plain[name]) for name in plain.schema.names], schema=plain.schema
    )
    order = [(name, "ascending") for name in ("service", "severity_number", "time_unix_nano", "record_offset")]
    expected = table.sort_by([("date", "ascending"), *order])
    with tempfile.TemporaryDirectory() as folder:
        objects = Objects(folder, {})
        segments = write_segments(objects, "s", 0, table.to_batches())
        offsets = [read(objects, segment)["record_offset"].to_pylist() for segment in segments]
    assert [offset for each in offsets for offset in each] == expected["record_offset"].to_pylist()


def test_a_flipped_bit_is_noticed(objects: Objects) -> None:
    [segment] = write_segments(objects, "s", 0, [rows("s", 0, 1000)])
    data = bytearray(objects.read(segment.path))
    column = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(0).column(5)
    assert column.path_in_schema == "body"
    data[column.data_page_offset + column.total_compressed_size - 10] ^= 1
    objects.write(segment.path, bytes(data))
    with pytest.raises(OSError, match="CRC checksum"):
        read(objects, segment)


def test_the_name_tells_every_flipped_bit(objects: Objects) -> None:
    """The footer, with the names of columns and the statistics by which readers skip, has no checksum of its own."""
    [segment] = write_segments(objects, "s", 0, [rows("s", 0, 3)])
    data = objects.read(segment.path)
    assert is_as_written(segment.path, data)
    assert is_as_written("date=2025-10-09/somebody-elses.parquet", data)
    for at in range(len(data)):
        assert not is_as_written(segment.path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert not is_as_written(segment.path, data[:-1])


def test_the_statistics_say_what_is_in_the_file(objects: Objects) -> None:
    batch = rows("s", 10, 3, service=["b", None, "a"], severity_number=[9, 17, 5])
    [segment] = write_segments(objects, "s", 10, [batch])
    assert json.loads(segment.stats_json) == {
        "numRecords": 3,
        "minValues": {
            "timestamp": "2025-10-09T12:00:00.010000Z",
            "time_unix_nano": NOON + 10_000_000,
            "severity_number": 5,
            "service": "a",
            "tenant": "default",
            "shard": "s",
            "record_offset": 10,
        },
        "maxValues": {
            "timestamp": "2025-10-09T12:00:00.012000Z",
            "time_unix_nano": NOON + 12_000_000,
            "severity_number": 17,
            "service": "b",
            "tenant": "default",
            "shard": "s",
            "record_offset": 12,
        },
        "nullCount": {
            "timestamp": 0,
            "time_unix_nano": 0,
            "severity_number": 0,
            "service": 1,
            "tenant": 0,
            "shard": 0,
            "record_offset": 0,
        },
    }


def test_a_column_of_nulls_has_no_bounds() -> None:
    stats = statistics(pa.Table.from_batches([rows("s", 0, 2, service=[None, None])]))
    assert "service" not in stats["minValues"]
    assert "service" not in stats["maxValues"]
    assert stats["nullCount"]["service"] == 2


@pytest.mark.parametrize("nanos", [INT64.min, INT64.min + 1, -1, 0, INT64.max])
def test_any_time_can_be_stored(objects: Objects, nanos: int) -> None:
    [segment] = write_segments(objects, "s", 0, [rows("s", 0, 1, times=[nanos])])
    assert read(objects, segment)["time_unix_nano"].to_pylist() == [nanos]
    assert json.loads(segment.stats_json)["minValues"]["time_unix_nano"] == nanos
    assert segment.path.startswith(f"date={segment.date.isoformat()}/")


@given(st.text(max_size=12), st.integers(1, 8))
def test_an_upper_bound_is_short_and_never_below(text: str, length: int) -> None:
    bound = upper_bound(text, length)
    if bound is None:
        assert set(text[:length]) == {"\U0010ffff"}
    else:
        assert len(bound) <= length
        assert bound.encode() >= text.encode()
