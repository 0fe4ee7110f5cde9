"""Segments: committed batches as Parquet files, with the statistics by which readers skip them."""

from __future__ import annotations

import datetime
import itertools
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.storage import index
from ringlog.storage.objects import Objects
from ringlog.storage.promotion import with_promoted

STATISTICS = (
    "timestamp",
    "time_unix_nano",
    "severity_number",
    "service",
    "tenant",
    "shard",
    "record_offset",
)
"""The columns whose smallest and largest values the table keeps per segment."""
ROW_GROUP_ROWS = 128 * 1024
"""About the rows of a row group."""

_DATE = "date"
# Nearly sorted integers shrink most as differences; what hardly repeats is not worth a dictionary.
_DIFFERENCES = ("timestamp", "time_unix_nano", "observed_timestamp", "record_offset")
_PLAIN = ("body", "attributes", "trace_id", "span_id")
# Records of one service and severity look alike, and are asked for together: see docs/adr/0013.
_ORDER = ("service", "severity_number", "time_unix_nano", "record_offset")
_ROW_ORDER = (_DATE, *_ORDER)
# A promoted id is looked for by SQL, where bounds say nothing: 2 bytes for each of its values spare a row group.
_FILTERED = ("string", "integer")
_FILTER_ERRORS = 0.01
_STATISTICS_TEXT_MAX = 64
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True)
class Segment:
    """One Parquet file: those records of ``[start, end)`` of ``shard`` that fall on ``date`` (UTC).

    ``path`` is relative to the table; ``stats_json`` is what Delta keeps about the file.
    """

    path: str
    size_bytes: int
    rows: int
    date: datetime.date
    stats_json: str
    shard: str
    start: int
    end: int


def write_segments(
    objects: Objects,
    shard: str,
    start: int,
    batches: Sequence[pa.RecordBatch],
    promoted: Sequence[Promoted] = (),
) -> list[Segment]:
    """Write ``batches`` (in order, from offset ``start``) as one segment for each date.

    Their schema is `TABLE_SCHEMA`, and whatever columns the table has beyond it; those of ``promoted`` are made here.
    Within a segment, records are sorted by service, severity and time. The names are unique, so that nothing is ever
    overwritten; a segment is part of the table only once it is committed. Raises what `Objects.write` raises; segments
    that were written before that stay behind as orphans and do no harm.
    """
    table = pa.Table.from_batches(batches, schema=batches[0].schema if batches else TABLE_SCHEMA)
    table = with_promoted(table, promoted)
    end = start + table.num_rows
    segments = []
    for date, rows in _dates(_sorted(table)):
        data = _parquet(rows, promoted)
        path = _unique_path(shard, start, end, date, xxhash.xxh3_64_hexdigest(memoryview(data)))
        objects.write(path, data)
        stats = orjson.dumps(statistics(rows, promoted)).decode()
        segments.append(Segment(path, data.size, rows.num_rows, date, stats, shard, start, end))
    return segments


def _sorted(table: pa.Table) -> pa.Table:
    """``table`` in the order of segments, nulls last. Texts are compared once each, not once for every comparison."""
    whole = table.combine_chunks()
    keys = [_ranks(whole[name].combine_chunks()) for name in reversed(_ROW_ORDER)]  # lexsort's last key counts first
    return whole.take(pa.array(np.lexsort(keys)))


def _ranks(column: pa.Array) -> npt.NDArray[Any]:
    """Numbers that compare like the values of ``column``; nulls are larger than any."""
    if column.type in (pa.int64(), pa.date32()) and column.null_count == 0:
        numbers = column.view(pa.int64() if column.type == pa.int64() else pa.int32())
        return np.asarray(numbers.to_numpy())
    encoded = column.dictionary_encode()
    distinct = len(encoded.dictionary)
    ranks: npt.NDArray[Any] = np.empty(distinct + 1, dtype=np.int64)
    ranks[pc.array_sort_indices(encoded.dictionary).to_numpy()] = np.arange(distinct)
    ranks[distinct] = distinct
    if distinct < 2**16:
        ranks = ranks.astype(np.uint16)  # few values are sorted by counting them
    return np.asarray(ranks[encoded.indices.fill_null(distinct).to_numpy()])


def _dates(table: pa.Table) -> Iterator[tuple[datetime.date, pa.Table]]:
    """Cut ``table``, which is sorted by date, where the date changes."""
    if table.num_rows == 0:
        return
    days = table[_DATE].cast(pa.int32()).to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), table.num_rows]
    for first, after in itertools.pairwise(cuts):
        rows = table.slice(first, after - first)
        yield rows[_DATE][0].as_py(), rows.drop_columns([_DATE])


def is_as_written(path: str, data: bytes) -> bool:
    """Whether ``data`` is, to the bit, what was written as ``path``; True as well where the path does not say."""
    said = digest_of(path)
    return said is None or said == xxhash.xxh3_64_hexdigest(data)


def digest_of(path: str) -> str | None:
    """The digest that the name of a segment says; None where it is no name that ringlog gave."""
    said = re.search(r"-([0-9a-f]{16})\.parquet$", path)
    return None if said is None else said[1]


def _unique_path(shard: str, start: int, end: int, date: datetime.date, digest: str) -> str:
    # The path stands in the table's log and in file systems: only characters that nobody escapes. Pages have checksums
    # of their own, the rest of a Parquet file has none; the digest is that of the whole file.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", shard)
    return f"{_DATE}={date.isoformat()}/{name}-{start:020d}-{end:020d}-{uuid.uuid4()}-{digest}.parquet"


def _parquet(rows: pa.Table, promoted: Sequence[Promoted]) -> pa.Buffer:
    distinct = {one.name: pc.count_distinct(rows[one.name]).as_py() for one in promoted if one.kind in _FILTERED}
    plain = [*_DIFFERENCES, *_PLAIN, *(name for name, count in distinct.items() if 2 * count > rows.num_rows)]
    # Groups of one size, with no small one at the end: each costs a reader the same to begin.
    group_rows = -(-rows.num_rows // max(1, round(rows.num_rows / ROW_GROUP_ROWS)))
    encodings: dict[str, Any] = {
        "use_dictionary": [name for name in rows.column_names if name not in plain],
        "column_encoding": dict.fromkeys(_DIFFERENCES, "DELTA_BINARY_PACKED"),
        "bloom_filter_options": {
            name: {"ndv": min(count, group_rows), "fpp": _FILTER_ERRORS} for name, count in distinct.items() if count
        },
    }
    found = index.build(rows)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression="zstd",
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
        # Pages of all columns end at the same rows: those that an index names are read, and no others.
        max_rows_per_page=index.BLOCK_ROWS,
        sorting_columns=pq.SortingColumn.from_ordering(rows.schema, [(name, "ascending") for name in _ORDER]),
        **encodings,
    ) as writer:
        writer.write_table(rows, row_group_size=group_rows)
        offset = sink.tell()
        sink.write(found.data)
        writer.add_key_value_metadata({index.METADATA_KEY: found.where(offset)})
    return sink.getvalue()


def statistics(rows: pa.Table, promoted: Sequence[Promoted] = ()) -> dict[str, Any]:
    """What Delta keeps about one file: the number of records, and per column the bounds and the nulls.

    That nulls of a promoted column are counted says that it was made of the attributes: see `contents.unpromoted`.
    """
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name in (*STATISTICS, *(one.name for one in promoted)):
        column = rows[name]
        nulls[name] = column.null_count
        if pa.types.is_boolean(column.type):
            continue  # Delta keeps no bounds of these
        bounds = pc.min_max(column)
        low, high = _lower(bounds["min"]), _upper(bounds["max"])
        if low is not None:
            smallest[name] = low
        if high is not None:
            largest[name] = high
    return {"numRecords": rows.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}


def _lower(bound: Any) -> Any:
    if pa.types.is_string(bound.type) and bound.is_valid:
        return bound.as_py()[:_STATISTICS_TEXT_MAX]
    return _plain(bound)


def _upper(bound: Any) -> Any:
    if pa.types.is_string(bound.type) and bound.is_valid:
        return upper_bound(bound.as_py(), _STATISTICS_TEXT_MAX)
    return _plain(bound)


def _plain(bound: Any) -> Any:
    if pa.types.is_timestamp(bound.type) and bound.is_valid:
        return bound.as_py().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return bound.as_py()


def upper_bound(text: str, length: int) -> str | None:
    """A text of at most ``length`` characters that sorts at or after ``text``; None where there is none.

    >>> upper_bound("train", 5), upper_bound("training", 5), upper_bound("tra\U0010ffffning", 4)
    ('train', 'traio', 'trb')
    """
    if len(text) <= length:
        return text
    for at in range(length - 1, -1, -1):
        following = ord(text[at]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= _LAST_CHARACTER:
            return text[:at] + chr(following)
    return None
