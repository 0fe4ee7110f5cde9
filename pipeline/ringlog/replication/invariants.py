"""What must always hold, one function each, under the ids that code, tests, simulator and documents share.

===== ============================================================================================
SL-1  In one epoch at most one leader's entries are ever committed.
SL-2  An acknowledged entry is in every later committed log, at the same offsets, with the same bytes.
SL-3  Committed offsets are dense: no gap, no overlap; an offset never changes its content.
SL-4  A (producer, sequence) is committed at most once.
SL-5  The table's rows of a shard are exactly the committed log's ``[0, transaction version)``, each once.
SL-6  trimmed ≤ the table's transaction version ≤ committed.
SL-7  A read that begins after an acknowledgement shows that entry, once.
SL-8  A replica's promise never falls, and it stores nothing below it.
SL-9  A journal that lost what it promised never votes as who it was.
SL-10 After faults stop and a majority is reachable, every shard opens and every pending append is answered.
SL-11 A retired shard commits nothing until a later decision takes it up; then it goes on where it ended.
===== ============================================================================================

A violation raises; it is never an assert, and whoever meets it stops. Cores call these on what they know alone, the
simulator's checker on what it knows of everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringlog.errors import CorruptionError


class Violation(CorruptionError):
    """An invariant does not hold: a defect, or bytes that were changed. The actor that meets it stops."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


def one_leader(epoch: int, known: object, other: object) -> None:
    """SL-1: what is ``known`` of the only leader of ``epoch`` is all there is; ``other`` was found."""
    if known != other:
        raise Violation("SL-1", f"epoch {epoch} has two leaders: one says {known}, there also is {other}")


def kept(what: object, acknowledged: object, found: object) -> None:
    """SL-2: ``what`` is there as it was ``acknowledged``."""
    if found != acknowledged:
        raise Violation("SL-2", f"{what} was acknowledged as {acknowledged}, but now there is {found}")


def follows(end: int, start: int, stop: int, what: object) -> None:
    """SL-3: ``[start, stop)`` is not empty and begins where the log ends."""
    if not end == start < stop:
        raise Violation("SL-3", f"[{start}, {stop}) does not follow a log that ends at {end}: {what}")


def aligned(offset: int, start: int) -> None:
    """SL-3: ``offset`` is where an entry begins; the first one from there on begins at ``start``."""
    if offset != start:
        raise Violation("SL-3", f"offset {offset} lies inside an entry; the next one begins at {start}")


def unchanged(offset: int, before: object, now: object) -> None:
    """SL-3: the content of ``offset``, once committed, is what it was."""
    if before != now:
        raise Violation("SL-3", f"offset {offset} was committed as {before}, and is now {now}")


def new_sequence(producer: str, sequence: int, is_new: bool, known: object) -> None:
    """SL-4: the log does not hold ``sequence`` of ``producer`` yet; ``known`` is what is known of it."""
    if not is_new:
        raise Violation("SL-4", f"{producer} sequence {sequence} would be in the log twice: {known}")


def stored_once(shard: str, start: int, stored: int) -> None:
    """SL-5: rows from ``start`` on go into a table that holds exactly what lies below."""
    if start != stored:
        raise Violation("SL-5", f"the table holds {shard} up to {stored}, so rows from {start} on would leave it wrong")


def in_order(shard: str, trimmed: int, stored: int, committed: int) -> None:
    """SL-6: nothing is trimmed that is not stored, nothing stored that is not committed."""
    if not trimmed <= stored <= committed:
        raise Violation(
            "SL-6", f"{shard} is trimmed below {trimmed}, the table holds {stored}, and {committed} is committed"
        )


def shown_once(shard: str, missing: Iterable[object], doubled: Iterable[object]) -> None:
    """SL-7: of what was acknowledged before a read, nothing is ``missing`` in it and nothing is there twice."""
    missing, doubled = list(missing), list(doubled)
    if missing or doubled:
        raise Violation("SL-7", f"a read of {shard} lacks {missing} and shows {doubled} twice")


def promise_kept(id: str, promised: int, epoch: int) -> None:
    """SL-8: the replica ``id`` has ``promised`` no more than the ``epoch`` for which it stores something now."""
    if epoch < promised:
        raise Violation("SL-8", f"{id} has promised {promised} and stores something of epoch {epoch}")


def votes_as_itself(id: str, lost: bool) -> None:
    """SL-9: the journal that speaks as ``id`` has not ``lost`` anything."""
    if lost:
        raise Violation("SL-9", f"{id} votes, but its journal lost what it had stored")


def answered(shard: str, is_open: bool, pending: Iterable[object], after_s: float) -> None:
    """SL-10: ``after_s`` seconds without a fault, ``shard`` is open and nothing is pending."""
    pending = list(pending)
    if not is_open or pending:
        state = "open" if is_open else "not open"
        raise Violation("SL-10", f"{after_s:g} s without a fault, {shard} is {state}, and {pending} wait")


def at_rest(shard: str, retired: int, decision: int) -> None:
    """SL-11: ``shard`` moves by a ``decision`` later than the one by which it was ``retired`` last; 0: it never was."""
    if retired and decision <= retired:
        raise Violation("SL-11", f"{shard} was retired by decision {retired}, and moves by decision {decision}")
