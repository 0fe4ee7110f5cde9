"""Housekeeping: keeps the table of a running pipeline small, a little at a time, beside everything else.

Nothing waits for it. Any number of them may run, on the same table as archivers and commands do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from ringlog.errors import ConfigurationError, RinglogError
from ringlog.settings import Settings
from ringlog.storage import Snapshot, Table
from ringlog.storage.compaction import TARGET_BYTES, Compacted, compact
from ringlog.storage.evolution import promote
from ringlog.storage.retention import Expiry, expire, older_than, vacuum

_logger = logging.getLogger(__name__)

COMPACT_EVERY_S = 300.0
COMPACT_BYTES_MAX = 4 * TARGET_BYTES
"""About what one run reads; where more is left, the next begins after as long as this one took."""
CLEAN_EVERY_S = 3600.0
RETRY_S = 60.0


class Housekeeping:
    """Columns, merges, retention by the settings, vacuums of one table. One thread calls it; `run` may take minutes.

    ``trouble`` is why the last run failed, or None.
    """

    def __init__(self, table: Table, settings: Settings) -> None:
        self.trouble: str | None = None
        self._table = table
        self._settings = settings
        self._due_s = 0.0
        self._clean_s = 0.0

    def due(self, now_s: float) -> bool:
        """Whether `run` is to be called at ``now_s`` (seconds since 1970)."""
        return now_s >= self._due_s

    def run(self, now_s: float) -> None:
        """Do what is to be done, within limits. An error of the store is kept in ``trouble``, and tried again later."""
        began = time.monotonic()
        try:
            snapshot = self._table.find()
            if snapshot is None:
                self._due_s = now_s + RETRY_S  # nothing has been archived yet
                return
            refused = self._promote(snapshot)
            done = compact(self._table, now_s, COMPACT_BYTES_MAX)
            if now_s >= self._clean_s:
                self._clean(now_s)
                self._clean_s = now_s + CLEAN_EVERY_S
        except (RinglogError, OSError) as error:
            self.trouble = f"{type(error).__name__}: {error}"
            self._due_s = now_s + RETRY_S
            _logger.warning("housekeeping failed and will be tried again in %.0f s: %s", RETRY_S, self.trouble)
            return
        took_s = time.monotonic() - began
        self.trouble = "; ".join([*refused, *done.broken]) or None
        self._due_s = now_s + took_s + (min(took_s, COMPACT_EVERY_S) if _more_is_left(done) else COMPACT_EVERY_S)

    def _promote(self, snapshot: Snapshot) -> list[str]:
        """Make the columns that the settings ask for; why some cannot be made.

        Here and not in an archiver: delta-rs holds Python's lock while it sets a table's properties, and a store that
        hangs would stop the shard actor with all that it leads.
        """
        try:
            promote(self._table, snapshot, self._settings.promoted)
        except ConfigurationError as error:
            return [f"not all of the setting promote can be done: {error}"]
        return []

    def _clean(self, now_s: float) -> None:
        self._table.keep_history(self._settings.history_hours)
        for expiry in expiries(self._settings, now_s):
            gone = expire(self._table, expiry)
            if gone.records:
                _logger.info("%d records expired", gone.records)
        vacuum(self._table, self._settings.history_hours)


def expiries(settings: Settings, now_s: float) -> Iterator[Expiry]:
    """What is to expire by the settings at ``now_s``."""
    if settings.retention_days is not None:
        yield Expiry(before=older_than(settings.retention_days * 86_400, now_s))
    if settings.retention_bytes is not None:
        yield Expiry(bytes_max=settings.retention_bytes)


def _more_is_left(done: Compacted) -> bool:
    return done.read_bytes > COMPACT_BYTES_MAX - TARGET_BYTES
