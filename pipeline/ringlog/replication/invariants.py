"""What must always hold, under the ids that code, tests and documents share. A violation raises; it is never an assert.

==== ============================================================================================
SL-1 In one epoch at most one leader's entries are ever committed.
SL-2 An acknowledged entry is in every later committed log, at the same offsets, with the same bytes.
SL-3 Committed offsets are dense: no gap, no overlap; an offset never changes its content.
SL-4 A (producer, sequence) is committed at most once.
SL-5 The table's rows of a shard are exactly the committed log's ``[0, transaction version)``, each once.
SL-6 trimmed ≤ the table's transaction version ≤ committed.
SL-7 A read that begins after an acknowledgement shows that entry, once.
SL-8 A replica's promise never falls, and it stores nothing below it.
SL-9 A journal that lost what it promised never votes as who it was.
SL-10 After faults stop and a majority is reachable, every shard opens and every pending append is answered.
==== ============================================================================================
"""

from __future__ import annotations

from ringlog.errors import CorruptionError


class Violation(CorruptionError):
    """An invariant does not hold: a defect, or bytes that were changed. The actor that meets it stops."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


def require(holds: bool, invariant: str, message: str) -> None:
    """Raise `Violation` of ``invariant`` unless it ``holds``."""
    if not holds:
        raise Violation(invariant, message)
