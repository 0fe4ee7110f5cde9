"""Compaction: many small segments become few large ones, while archivers go on committing and readers go on reading.

What always holds: one version removes the small segments and adds what they were merged into, so that every version
has every record once; the files themselves stay until a vacuum. delta-rs lets an archiver's commit step over such a
version, and refuses a second one that removes the same segment.

The merged segments come from `write_segments` like all others, with all promoted columns. delta-rs could merge by
itself (`optimize.compact`), but two of its merges at once double every record, and its files are of another kind: see
docs/adr/0018.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ringlog.errors import Conflict, CorruptionError
from ringlog.settings import KIB, MIB
from ringlog.storage.commit import Snapshot, Table
from ringlog.storage.contents import StoredSegment, paths_of, read_segment
from ringlog.storage.segment import write_segments

_logger = logging.getLogger(__name__)

TARGET_BYTES = 32 * MIB
"""About what a merged segment comes to; one of half of that is left alone."""
MEMORY_BYTES = 128 * MIB
"""About what the records of one merge take in memory; it is done twice over while they are sorted."""
FAN_IN = 8
"""So many segments of about one size are merged while their day goes on …"""
CALM_S = 3600.0
"""… and all small ones of an earlier day once nothing was added to it for so long."""

_SMALLEST = 16 * KIB
_MIXED_BYTES = MIB
"""Below this, segments of different shards are merged with one another: a hundred shards make not a hundred files."""
_MERGED, _FULL = "merged", "full"
"""Begin the names of merged segments; a full one is not merged again, however small it is."""


@dataclass(frozen=True)
class Merge:
    """Small segments of one day that are to become one."""

    segments: tuple[StoredSegment, ...]

    @property
    def size_bytes(self) -> int:
        """What has to be read for it."""
        return sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True)
class Compacted:
    """``merged`` segments, of ``read_bytes``, became ``written`` ones, of ``written_bytes``.

    ``broken`` says of each segment that does not read back what is wrong; it is left as it is.
    """

    merged: int = 0
    written: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    broken: tuple[str, ...] = ()

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(
            self.merged + other.merged,
            self.written + other.written,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


def plan(segments: Sequence[StoredSegment], now_s: float) -> list[Merge]:
    """What is to be merged at ``now_s`` (seconds since 1970), those first that save most files for their bytes.

    A day's segments are merged in steps, `FAN_IN` of one size into one of the next, so that each record is rewritten
    about once for each step, and a day that goes on never has many; then, once it is over, into as few as possible.
    """
    small = [segment for segment in segments if segment.rows and _is_small(segment)]
    merges: list[Merge] = []
    for date, day in _grouped(small, lambda segment: segment.date):
        over = date < datetime.datetime.fromtimestamp(now_s, datetime.timezone.utc).date()
        if over and max(segment.added_s for segment in day) <= now_s - CALM_S:
            merges.extend(_cut(day, least=2))
        else:
            for _, step in _grouped(day, _step):
                merges.extend(_cut(step, least=FAN_IN))
    return sorted(merges, key=lambda merge: merge.size_bytes / len(merge.segments))


def compact(
    table: Table,
    now_s: float,
    bytes_max: int | None = None,
    on_merge: Callable[[Compacted], None] | None = None,
) -> Compacted:
    """Merge what `plan` says, each in a version of its own, until about ``bytes_max`` were read or nothing is left.

    What archivers add meanwhile waits for the next time, so this comes to an end. It takes about three times
    `MEMORY_BYTES`, whatever there is to do. Any number may run at once, anywhere: what another has merged or removed
    meanwhile is left alone. Raises `Unavailable` or `OutcomeUnknown` when the store is away; what was merged before
    that stays merged.
    """
    total = Compacted()
    snapshot = table.snapshot()
    run = _Run(table, paths_of(snapshot.delta))
    while True:
        before = total
        for merge in plan([one for one in snapshot.segments() if one.path in run.candidates], now_s):
            if bytes_max is not None and total.read_bytes + merge.size_bytes > bytes_max:
                return dataclasses.replace(total, broken=tuple(run.broken))
            done = run.merge(snapshot, merge)
            total += done
            if on_merge is not None:
                on_merge(done)
            snapshot = table.snapshot()
        if total == before:  # nothing is left, or others are at it
            return dataclasses.replace(total, broken=tuple(run.broken))


class _Run:
    """One compaction: ``candidates`` are the paths that it may merge, ``broken`` says what did not read back."""

    def __init__(self, table: Table, candidates: set[str]) -> None:
        self.candidates = candidates
        self.broken: list[str] = []
        self._table = table

    def merge(self, snapshot: Snapshot, merge: Merge) -> Compacted:
        """Do it, in as many pieces as memory asks for."""
        done = Compacted()
        for chosen, rows, full in self._read(merge):
            added = write_segments(
                self._table.objects, _FULL if full else _MERGED, 0, rows.to_batches(), snapshot.promoted
            )
            try:
                snapshot = self._table.replace(snapshot, chosen, added)
            except Conflict as error:
                _logger.info("somebody else was faster; these segments are looked at anew: %s", error)
                return done
            self.candidates.update(segment.path for segment in added)
            done += Compacted(
                merged=len(chosen),
                written=len(added),
                read_bytes=sum(segment.size_bytes for segment in chosen),
                written_bytes=sum(segment.size_bytes for segment in added),
            )
        return done

    def _read(self, merge: Merge) -> Iterator[tuple[list[StoredSegment], pa.Table, bool]]:
        """The records of as many segments at a time as fit in memory, and whether one more did not fit."""
        chosen: list[StoredSegment] = []
        parts: list[pa.Table] = []
        for segment in merge.segments:
            try:
                part = read_segment(self._table.objects, segment)
            except CorruptionError as error:
                _logger.error("a segment does not read back and is left as it is: %s", error)
                self.broken.append(str(error))
                self.candidates.discard(segment.path)
                continue
            if len(chosen) > 1 and sum(one.nbytes for one in parts) + part.nbytes > MEMORY_BYTES:
                yield chosen, _together(parts), True
                chosen, parts = [], []
            chosen.append(segment)
            parts.append(part)
        if len(chosen) > 1:
            yield chosen, _together(parts), False


def _together(parts: Sequence[pa.Table]) -> pa.Table:
    """All records, with every column that one of the parts has: columns are added to a table while it runs."""
    return pa.concat_tables(parts, promote_options="default")


def _is_small(segment: StoredSegment) -> bool:
    return segment.size_bytes < TARGET_BYTES // 2 and not segment.path.rpartition("/")[2].startswith(f"{_FULL}-")


def _step(segment: StoredSegment) -> tuple[int, str]:
    """What is merged with one another while its day goes on: segments of about one size; large ones, of one shard."""
    step = int(math.log(max(segment.size_bytes, _SMALLEST) / _SMALLEST, FAN_IN))
    return step, "" if segment.size_bytes < _MIXED_BYTES else segment.only("shard") or ""


def _cut(segments: Sequence[StoredSegment], least: int) -> Iterator[Merge]:
    """Neighbours by shard and time, about `TARGET_BYTES` at a time, and what is left if that are at least ``least``."""
    chosen: list[StoredSegment] = []
    for segment in sorted(segments, key=lambda segment: (segment.only("shard") or "", segment.first_ns)):
        if len(chosen) > 1 and sum(one.size_bytes for one in chosen) + segment.size_bytes > TARGET_BYTES:
            yield Merge(tuple(chosen))
            chosen = []
        chosen.append(segment)
    if len(chosen) >= least:
        yield Merge(tuple(chosen))


def _grouped(
    segments: Iterable[StoredSegment], key: Callable[[StoredSegment], Any]
) -> Iterator[tuple[Any, list[StoredSegment]]]:
    for value, group in itertools.groupby(sorted(segments, key=key), key=key):
        yield value, list(group)
