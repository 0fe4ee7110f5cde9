"""The archiver of a shard actor: what its leaders have committed becomes segments of the table, each record once."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from ringlog.actors.payloads import all_rows
from ringlog.errors import RinglogError
from ringlog.replication import Entry, Violation, to_archive
from ringlog.schema import Promoted
from ringlog.settings import Settings
from ringlog.storage import Flush, Segment, Snapshot, Table, write_segments

_logger = logging.getLogger(__name__)

SEGMENTS_MAX = 4
"""How many segments of ``flush_bytes`` one commit adds for a shard at most. What has gathered while the last one waited
goes together: a table takes few commits (docs/SCALING.md)."""
_LOOK_S = 0.2
_BACKOFF_S = (1.0, 10.0)
"""The first and the longest pause after a failure, of which at least half is kept: actors shall not come together."""


@dataclass(frozen=True)
class Unflushed:
    """What a leader has committed and not yet seen in the table: ``entries`` cover ``[trimmed, committed)``."""

    shard: str
    epoch: int
    trimmed: int
    committed: int
    entries: Sequence[Entry]
    wanted: bool
    """Whether somebody waits for it to be stored."""

    @property
    def bytes(self) -> int:
        """The size of the payloads."""
        return sum(len(entry.payload) for entry in self.entries)


class Archiver:
    """Flushes on bytes, age or demand; one commit carries all the shards that are due.

    ``unflushed`` asks the leaders, ``stored`` tells one how far the table holds its shard, and to which epochs it is
    closed. Any error is kept in
    ``trouble`` and the work is done again later, from what the table says then; ``on_failure`` is told of a `Violation`
    and of what nobody expected: then the archiver has ended.
    """

    def __init__(
        self,
        table: Table,
        settings: Settings,
        unflushed: Callable[[], list[Unflushed]],
        stored: Callable[[str, int, int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.trouble: str | None = None
        self._table = table
        # A shard that is full takes nothing: it is archived long before.
        self._flush_bytes = max(1, min(settings.flush_bytes, settings.shard_buffer_bytes_max // 2))
        self._flush_age_s = settings.flush_age_s
        self._unflushed = unflushed
        self._stored = stored
        self._on_failure = on_failure
        self._waiting_since: dict[str, tuple[int, float]] = {}
        self._demanded = threading.Event()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ringlog-archiver", daemon=True)
        self._thread.start()

    def demand(self) -> None:
        """Flush now whatever is committed."""
        self._demanded.set()
        self._wake.set()

    def close(self) -> None:
        """End after the flush that is under way."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._flush_for_ever()
        except BaseException as error:  # noqa: BLE001  (nothing would be archived any more: this process is over)
            self._on_failure(error)

    def _flush_for_ever(self) -> None:
        backoff = _BACKOFF_S[0]
        pause = _LOOK_S
        while not self._closed:
            self._wake.wait(pause)
            self._wake.clear()
            demanded = self._demanded.is_set()
            self._demanded.clear()
            try:
                more = self._flush_due(demanded)
                self.trouble = None
                backoff, pause = _BACKOFF_S[0], 0.0 if more else _LOOK_S
            except Violation:
                raise
            except (RinglogError, OSError) as error:
                self.trouble = f"{type(error).__name__}: {error}"
                pause, backoff = backoff * random.uniform(0.5, 1.0), min(2 * backoff, _BACKOFF_S[1])
                _logger.warning("archiving failed and will be tried again in %.1f s: %s", pause, self.trouble)
                if demanded:
                    self._demanded.set()

    def _flush_due(self, demanded: bool) -> bool:
        """Flush every shard that is due; True when something is left that was due as well."""
        due = [part for part in self._unflushed() if part.entries and self._due(part, demanded)]
        if not due:
            return False
        snapshot = self._table.open_or_create()
        pieces = {part.shard: self._piece(part, snapshot) for part in due}
        flushes = [
            Flush(shard, entries[0].start, entries[-1].end, self._write(shard, entries, snapshot.promoted))
            for shard, entries in pieces.items()
            if entries
        ]
        if flushes:
            snapshot = self._table.commit(snapshot, flushes)
        for part in due:
            self._waiting_since.pop(part.shard, None)
            self._stored(part.shard, snapshot.stored(part.shard), snapshot.fence(part.shard))
        left = any(snapshot.stored(part.shard) < part.committed for part in due)
        if left and demanded:
            self._demanded.set()
        return left

    def _due(self, part: Unflushed, demanded: bool) -> bool:
        now = time.monotonic()
        base, since = self._waiting_since.get(part.shard, (-1, now))
        if base != part.trimmed:
            since = now
            self._waiting_since[part.shard] = (part.trimmed, now)
        old = now - since >= self._flush_age_s
        return demanded or part.wanted or old or part.bytes >= self._flush_bytes

    def _piece(self, part: Unflushed, snapshot: Snapshot) -> tuple[Entry, ...]:
        """The entries from where the table ends, as many as one flush takes."""
        stored = snapshot.stored(part.shard)
        segments = min(max(1, part.bytes // self._flush_bytes), SEGMENTS_MAX)
        return to_archive(
            part.shard,
            part.epoch,
            part.entries,
            part.trimmed,
            part.committed,
            stored,
            snapshot.fence(part.shard),
            segments * self._flush_bytes,
        )

    def _write(self, shard: str, entries: Sequence[Entry], promoted: Sequence[Promoted]) -> list[Segment]:
        written: list[Segment] = []
        for part in _by_bytes(entries, self._flush_bytes):
            rows = all_rows(shard, part)
            written += write_segments(self._table.objects, shard, part[0].start, [rows], promoted)
        return written


def _by_bytes(entries: Sequence[Entry], bytes_max: int) -> list[list[Entry]]:
    """``entries`` in parts that begin where another ``bytes_max`` of payload are full."""
    before = accumulate((len(entry.payload) for entry in entries), initial=0)
    parts = groupby(zip(before, entries, strict=False), lambda one: one[0] // bytes_max)
    return [[entry for _, entry in part] for _, part in parts]
