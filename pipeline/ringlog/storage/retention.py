"""Retention: old or unwanted records leave the table; later, a vacuum removes the files that nothing needs any more.

Expiry counts, in the same version, how many records of each shard it took, so that what is missing can always be told
from what was removed. Records that are only in the journals yet are archived first, however old, and go with the next
expiry. Nothing that expires is gone from the disk before a vacuum.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from ringlog.errors import ConfigurationError, Conflict, Unavailable
from ringlog.schema import Promoted
from ringlog.settings import MIB
from ringlog.storage.commit import ATTEMPTS, Snapshot, Table
from ringlog.storage.contents import StoredSegment, paths_of, read_segment
from ringlog.storage.segment import Segment, write_segments

STEP_SEGMENTS = 5_000
"""At most so many segments leave in one version …"""
STEP_BYTES = 64 * MIB
"""… or so many bytes of those that have to be opened."""

_KEPT = "kept"
_REMOVERS = 8


@dataclass(frozen=True)
class Expiry:
    """Which records are to go. Raises `ConfigurationError` where that names none, or contradicts itself.

    ``before``: all that happened on UTC days before this one. ``service`` and ``tenant``: of those, only theirs. Or
    else ``bytes_max``: the oldest segments, until the table has no more than that.
    """

    before: datetime.date | None = None
    service: str | None = None
    tenant: str | None = None
    bytes_max: int | None = None

    def __post_init__(self) -> None:
        narrow = {"service": self.service, "tenant": self.tenant}
        if self.bytes_max is None and self.before is None and not any(narrow.values()):
            raise ConfigurationError("nothing would expire: give an age, a size, a service or a tenant")
        if self.bytes_max is not None and (self.before is not None or any(narrow.values())):
            raise ConfigurationError("a size alone says which records go: the oldest. Give age, service, tenant apart")

    @property
    def values(self) -> dict[str, str]:
        """The columns that a record must match."""
        found = {"service": self.service, "tenant": self.tenant}
        return {name: value for name, value in found.items() if value is not None}

    def chosen(self, segments: Sequence[StoredSegment]) -> list[StoredSegment]:
        """The segments that have, or may have, records which are to go."""
        if self.bytes_max is not None:
            return _oldest(segments, sum(segment.size_bytes for segment in segments) - self.bytes_max)
        return [
            segment
            for segment in segments
            if (self.before is None or segment.date < self.before)
            and all(segment.may_hold(name, value) for name, value in self.values.items())
        ]

    def takes_all(self, segment: StoredSegment) -> bool:
        """Whether all records of a chosen segment go, by what the log says of it."""
        return all(segment.only(name) == value for name, value in self.values.items())


def older_than(age_s: float, now_s: float) -> datetime.date:
    """The day before which all records are older than ``age_s`` at ``now_s`` (seconds since 1970)."""
    return datetime.datetime.fromtimestamp(now_s - age_s, datetime.timezone.utc).date()


@dataclass(frozen=True)
class Expired:
    """``records`` went: whole ``segments``, of ``bytes``, and some from ``rewritten`` ones."""

    records: int = 0
    segments: int = 0
    bytes: int = 0
    rewritten: int = 0

    def __add__(self, other: Expired) -> Expired:
        return Expired(
            self.records + other.records,
            self.segments + other.segments,
            self.bytes + other.bytes,
            self.rewritten + other.rewritten,
        )


@dataclass
class _Step:
    """Segments that leave the table in one version, what stays of their records, and what goes of each shard."""

    removed: list[StoredSegment] = field(default_factory=list)
    added: list[Segment] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    result: Expired = Expired()
    read_bytes: int = 0


def expire(
    table: Table, expiry: Expiry, dry_run: bool = False, on_step: Callable[[Expired], None] | None = None
) -> Expired:
    """Remove from the table what ``expiry`` names; with ``dry_run``, only say what that would be.

    A segment all of whose records go is not even opened, unless it has records of several shards. Raises `Conflict`
    when others change the same segments all the while, `CorruptionError` where one does not read back, `Unavailable`
    and `OutcomeUnknown`; what went before that is gone. Run it again.
    """
    total = Expired()
    refusal: Conflict | None = None
    spared: set[str] = set()  # what was opened and has none of the records
    for _ in range(ATTEMPTS):
        snapshot = table.snapshot()
        try:
            for step in _steps(table, expiry, snapshot, spared, dry_run):
                if not dry_run:
                    snapshot = table.replace(snapshot, step.removed, step.added, step.counts)
                total += step.result
                if on_step is not None:
                    on_step(step.result)
            return total
        except Conflict as error:
            refusal = error
    raise Conflict(f"others changed what was to expire, {ATTEMPTS} times: try again") from refusal


def vacuum(
    table: Table, history_hours: int, dry_run: bool = False, on_removed: Callable[[str], None] | None = None
) -> list[str]:
    """Remove the files that no version of the last ``history_hours`` needs, and clean the log; the paths of the files.

    With ``dry_run``, nothing is removed.

    Two things make it safe. By age: delta-rs names what was taken out of the table, and what was written and never
    became part of it, that long ago. By construction: before anything is removed, `Table.begin_vacuum` makes sure that
    no file which is not in the table then can ever become part of it, however late its archiver comes back.

    Raises `Unavailable`, `OutcomeUnknown` or `Conflict`; run it again.
    """
    found = _unneeded(table.snapshot(), history_hours)
    if dry_run:
        return found
    table.clean_log()
    if not found:
        return found
    needed = paths_of(table.begin_vacuum().delta)
    removable = [path for path in found if path not in needed]
    with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="ringlog-vacuum") as removers:
        for path, _ in zip(removable, removers.map(table.objects.remove, removable), strict=True):
            if on_removed is not None:
                on_removed(path)
    return removable


def _unneeded(snapshot: Snapshot, history_hours: int) -> list[str]:
    try:
        found = snapshot.delta.vacuum(
            retention_hours=history_hours, dry_run=True, enforce_retention_duration=False, full=True
        )
    except (DeltaError, OSError) as error:
        raise Unavailable(f"cannot look for files that are not needed any more: {error}. Try again") from error
    # Whatever else somebody keeps beside the days is not ours to remove.
    return sorted(path for path in found if path.startswith("date="))


def _oldest(segments: Sequence[StoredSegment], surplus: int) -> list[StoredSegment]:
    chosen = []
    for segment in sorted(segments, key=lambda segment: (segment.date, segment.last_ns)):
        if surplus <= 0:
            break
        chosen.append(segment)
        surplus -= segment.size_bytes
    return chosen


def _steps(table: Table, expiry: Expiry, snapshot: Snapshot, spared: set[str], dry_run: bool) -> Iterator[_Step]:
    step = _Step()
    for segment in expiry.chosen(snapshot.segments()):
        if segment.path in spared:
            continue
        if not _add(table, expiry, segment, step, snapshot.promoted, dry_run):
            spared.add(segment.path)
        if len(step.removed) >= STEP_SEGMENTS or step.read_bytes >= STEP_BYTES:
            yield step
            step = _Step()
    if step.removed:
        yield step


def _add(
    table: Table,
    expiry: Expiry,
    segment: StoredSegment,
    step: _Step,
    promoted: Sequence[Promoted],
    dry_run: bool,
) -> bool:
    """Let ``step`` take from ``segment`` what is to go; False where that is nothing."""
    shard = segment.only("shard")
    if shard is not None and expiry.takes_all(segment):
        counts, kept = Counter({shard: segment.rows}), 0
    else:
        rows = read_segment(table.objects, segment)
        goes = _matching(rows, expiry.values)
        counts = Counter(rows.filter(goes)["shard"].to_pylist())
        if not counts:
            return False
        rest = rows.filter(pc.invert(goes))
        kept = rest.num_rows
        step.read_bytes += segment.size_bytes
        if kept and not dry_run:
            step.added.extend(write_segments(table.objects, _KEPT, 0, rest.to_batches(), promoted))
    step.removed.append(segment)
    step.counts += counts
    went = counts.total()
    step.result += Expired(went, 0, 0, 1) if kept else Expired(went, 1, segment.size_bytes, 0)
    return True


def _matching(rows: pa.Table, values: dict[str, str]) -> pa.ChunkedArray | pa.Array:
    """Which of ``rows`` have all of ``values``."""
    mask = pa.repeat(pa.scalar(True), rows.num_rows)
    for name, value in values.items():
        mask = pc.and_(mask, pc.fill_null(pc.equal(rows[name], value), False))
    return mask
