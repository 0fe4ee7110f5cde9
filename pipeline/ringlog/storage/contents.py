"""What one version of the table consists of, by what its log says, and the records of one of its segments."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ringlog.errors import CorruptionError, Unavailable
from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.storage.objects import Objects
from ringlog.storage.segment import digest_of, is_as_written

Bounds = tuple[Any, Any]
"""The smallest and the largest value of a column in a segment; they may be wider than what is there."""


@dataclass(frozen=True)
class StoredSegment:
    """A segment of one version of the table. ``path`` is relative to the table."""

    path: str
    size_bytes: int
    rows: int
    date: datetime.date
    added_s: float
    """When it was written, in seconds since 1970, by the clock of whoever wrote it."""
    nulls: dict[str, int]
    bounds: dict[str, Bounds]
    """For each column whose values the log bounds."""

    @property
    def first_ns(self) -> int:
        """When its first record happened, in nanoseconds since 1970; 0 where the log does not say it."""
        return self.bounds.get("time_unix_nano", (0, 0))[0] or 0

    @property
    def last_ns(self) -> int:
        """When its last record happened."""
        return self.bounds.get("time_unix_nano", (0, 0))[1] or 0

    def only(self, column: str) -> Any:
        """The one value that ``column`` has in all of its records, or None where the log does not say that."""
        low, high = self.bounds.get(column, (None, None))
        return low if low == high and self.nulls.get(column) == 0 else None

    def may_hold(self, column: str, value: Any) -> bool:
        """Whether one of its records may have ``value`` in ``column``."""
        if self.nulls.get(column) == self.rows:
            return False
        low, high = self.bounds.get(column, (None, None))
        return (low is None or low <= value) and (high is None or value <= high)


def segments_of(delta: DeltaTable) -> list[StoredSegment]:
    """The segments of the loaded version of ``delta``.

    Files that somebody else put into the table without ringlog's statistics are among them, with no bounds. Raises
    `Unavailable`.
    """
    actions = _actions(delta)
    return list(_segments(actions)) if actions.num_rows else []


def paths_of(delta: DeltaTable) -> set[str]:
    """The paths of the segments of the loaded version of ``delta``."""
    return set(_actions(delta)["path"].to_pylist())


def unpromoted(delta: DeltaTable, promoted: Sequence[Promoted]) -> dict[str, tuple[Promoted, ...]]:
    """Those of ``promoted`` that a segment of the loaded version was written without, by its path, where there are any.

    The log says it: with each promoted column that ringlog writes, it counts the nulls. What others wrote or merged is
    not relied on: they may have left a column empty in records that have a value.
    """
    actions = _actions(delta) if promoted else None
    if actions is None or not actions.num_rows:
        return {}
    lacking = {one.name: _without(actions, one.name) for one in promoted}
    found: dict[str, tuple[Promoted, ...]] = {}
    for at, path in enumerate(actions["path"].to_pylist()):
        ours = digest_of(path) is not None
        missing = tuple(one for one in promoted if not ours or lacking[one.name][at])
        if missing:
            found[path] = missing
    return found


def _without(actions: pa.Table, column: str) -> list[bool]:
    """For each of ``actions``, whether it has no count of nulls of ``column``."""
    counts = actions["null_count"].combine_chunks()
    at = counts.type.get_field_index(column)
    without: list[bool] = [True] * len(counts) if at < 0 else pc.struct_field(counts, [at]).is_null().to_pylist()
    return without


def _actions(delta: DeltaTable) -> pa.Table:
    try:
        return pa.table(delta.get_add_actions(flatten=False))
    except (DeltaError, OSError) as error:
        raise Unavailable(f"cannot read what the table {delta.table_uri} consists of: {error}. Try again") from error


def _segments(actions: pa.Table) -> Iterator[StoredSegment]:
    for one in actions.to_pylist():
        low, high = one.get("min") or {}, one.get("max") or {}
        yield StoredSegment(
            path=one["path"],
            size_bytes=one["size_bytes"],
            rows=one["num_records"] or 0,
            date=one["partition"]["date"],
            added_s=one["modification_time"] / 1000,
            nulls={name: count for name, count in (one.get("null_count") or {}).items() if count is not None},
            bounds={name: (low.get(name), high.get(name)) for name in low.keys() | high.keys()},
        )


def read_segment(objects: Objects, segment: StoredSegment) -> pa.Table:
    """The records of ``segment``, to the bit as they were written, with the columns of the table that it has.

    Raises `CorruptionError` where it does not read back or is gone, and `Unavailable`.
    """
    try:
        data = objects.read(segment.path)
        if not is_as_written(segment.path, data):
            raise CorruptionError(f"{segment.path} is not as it was written: `ringlog verify` says more")
        rows = as_in_table(pq.read_table(pa.BufferReader(data), page_checksum_verification=True))
    except (pa.ArrowException, FileNotFoundError, OSError) as error:
        raise CorruptionError(f"{segment.path} does not read back: {error}") from error
    return rows.append_column("date", pa.repeat(pa.scalar(segment.date), rows.num_rows))


def as_in_table(rows: pa.Table) -> pa.Table:
    """``rows`` of a segment in the table's own types: other writers of Delta tables may use wider ones for the same."""
    types = [
        TABLE_SCHEMA.field(name).type if name in TABLE_SCHEMA.names else rows[name].type for name in rows.column_names
    ]
    return rows.cast(pa.schema(list(zip(rows.column_names, types, strict=True))))
