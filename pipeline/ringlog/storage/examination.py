"""Examination of one segment: is it to the bit what was written, and does it hold what the log says that it holds?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ringlog.storage.contents import StoredSegment, as_in_table
from ringlog.storage.objects import Objects
from ringlog.storage.segment import is_as_written

_POSITION = ("shard", "record_offset", "timestamp")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``what``, in words, and where, as far as that can be told.

    ``file`` is a segment or a file of the log, relative to the table, or the path of a journal; ``[start, end)`` are
    offsets of ``shard``.
    """

    what: str
    file: str | None = None
    row_group: int | None = None
    column: str | None = None
    shard: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Span:
    """The consecutive offsets ``[start, end)`` of one shard in the segment ``file``."""

    start: int
    end: int
    file: str


@dataclass
class Examined:
    """What a segment has: its spans by shard, all of them only where ``whole``; and what is wrong with it."""

    segment: StoredSegment
    whole: bool = False
    rows: int = 0
    spans: dict[str, list[Span]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def found(self, what: str, **where: int | str | None) -> None:
        """Note that something is wrong with it; where the log says which records it has, these are named."""
        segment = self.segment
        shard = segment.only("shard")
        if shard is not None and "shard" not in where:
            low, high = segment.bounds.get("record_offset", (None, None))
            where = {**where, "shard": shard, "start": low, "end": None if high is None else high + 1}
        self.problems.append(Problem(what, file=segment.path, **where))  # type: ignore[arg-type]


def examine(objects: Objects, segment: StoredSegment) -> Examined:
    """Read ``segment`` to its last bit. Raises `Unavailable` when the store does not answer."""
    seen = Examined(segment)
    try:
        data = objects.read(segment.path)
    except FileNotFoundError:
        seen.found("the segment is gone")
        return seen
    as_written = is_as_written(segment.path, data)
    if len(data) != segment.size_bytes:
        seen.found(f"the segment has {len(data)} bytes instead of {segment.size_bytes}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        seen.found(f"the footer does not read back: {error}")
        return seen
    _read(seen, file)
    if not seen.problems and not as_written:
        seen.found(
            "the digest in its name is not that of the file, though all its pages are: its footer or index changed"
        )
    if not seen.problems:
        seen.whole = True
    return seen


def _read(seen: Examined, file: pq.ParquetFile) -> None:
    missing = set(_POSITION) - set(file.schema_arrow.names)
    if missing:
        seen.found(f"it has no {', '.join(sorted(missing))}: no archiver wrote it")
        return
    groups = [_row_group(seen, file, number) for number in range(file.num_row_groups)]
    whole = [group for group in groups if group is not None]
    seen.rows = sum(group.num_rows for group in whole)
    if whole:
        _compare(seen, pa.concat_tables(whole))


def _row_group(seen: Examined, file: pq.ParquetFile, number: int) -> pa.Table | None:
    """All of it is read; what is compared afterwards is returned."""
    try:
        rows = as_in_table(file.read_row_group(number))
        return rows.select([name for name in rows.column_names if name in (*_POSITION, *seen.segment.bounds)])
    except (pa.ArrowException, OSError) as error:
        said = str(error)
    for column in file.schema_arrow.names:
        try:
            as_in_table(file.read_row_group(number, columns=[column]))
        except (pa.ArrowException, OSError) as error:
            seen.found(f"{column} does not read back: {error}", row_group=number, column=column)
    if not seen.problems:
        seen.found(f"it does not read back: {said}", row_group=number)
    return None


def _compare(seen: Examined, rows: pa.Table) -> None:
    """What was read against what the log says of it."""
    segment = seen.segment
    if segment.rows != seen.rows and not seen.problems:
        seen.found(f"the segment has {seen.rows} records, and the log says {segment.rows}")
    for name, (low, high) in segment.bounds.items():
        bounds = pc.min_max(rows[name]) if name in rows.column_names else None
        if bounds is None or not bounds["min"].is_valid:
            continue
        least, most = bounds["min"].as_py(), bounds["max"].as_py()
        if (low is not None and least < low) or (high is not None and most > high):
            seen.found(
                f"{name} goes from {least!r} to {most!r}, and readers skip by the log's {low!r} to {high!r}",
                column=name,
            )
    days = pc.floor_temporal(rows["timestamp"], unit="day").cast(pa.date32())
    astray = pc.sum(pc.not_equal(days, pa.scalar(segment.date))).as_py() or 0
    if astray:
        seen.found(f"{astray} of its records are not of {segment.date}, by whose day readers find them")
    nowhere = max(rows["shard"].null_count, rows["record_offset"].null_count)
    if nowhere:
        seen.found(f"{nowhere} of its records have no shard or no offset: no archiver wrote them")
        rows = rows.filter(pc.and_(rows["shard"].is_valid(), rows["record_offset"].is_valid()))
    for shard in pc.unique(rows["shard"]).to_pylist():
        offsets = rows.filter(pc.equal(rows["shard"], shard))["record_offset"].to_numpy()
        seen.spans[shard] = _spans(offsets, segment.path)


def _spans(offsets: np.ndarray, file: str) -> list[Span]:
    """The offsets as spans; those that stand there twice make further ones."""
    unique, counts = np.unique(offsets, return_counts=True)
    return [span for times in range(counts.max(initial=0)) for span in _runs(unique[counts > times], file)]


def _runs(offsets: np.ndarray, file: str) -> list[Span]:
    cuts = [0, *(np.flatnonzero(np.diff(offsets) != 1) + 1).tolist(), len(offsets)]
    return [Span(int(offsets[a]), int(offsets[b - 1]) + 1, file) for a, b in itertools.pairwise(cuts)]
