"""What of a shard's log goes into the table, and what of a cut through both a reader shows.

The table says how far it holds each shard: its transaction version. Archiving starts where a snapshot says, commits
from that same snapshot, and believes only what it reads back. Whoever sees a table that is ahead of what its leader
has committed, has been overtaken by a later leader and leaves it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ringlog.replication import invariants
from ringlog.replication.messages import Entry


def to_archive(
    shard: str,
    epoch: int,
    entries: Sequence[Entry],
    trimmed: int,
    committed: int,
    stored: int,
    fence: int,
    bytes_max: int,
) -> tuple[Entry, ...]:
    """The next of the ``entries`` that the leader of ``epoch`` holds, which cover at least ``[trimmed, committed)``, to
    archive from a snapshot that holds ``[0, stored)``: up to ``bytes_max`` of payload, but at least one.

    None where a later leader has gone on, or where the table is fenced: closed to epochs below ``fence``. Raises
    `Violation` where the snapshot does not hold what was trimmed.
    """
    if epoch < fence:
        return ()
    invariants.in_order(shard, trimmed, stored, max(stored, committed))
    if stored > committed:
        return ()
    taken: list[Entry] = []
    size = 0
    for entry in entries:
        if entry.end <= stored:
            continue
        if entry.end > committed or size >= bytes_max:
            break
        taken.append(entry)
        size += len(entry.payload)
    if taken:
        invariants.stored_once(shard, taken[0].start, stored)
    return tuple(taken)


Outcome = Literal["done", "again", "overtaken"]


def outcome(shard: str, start: int, end: int, stored: int, fenced: bool, accepted: bool) -> Outcome:
    """What became of a commit of ``[start, end)``, built on a snapshot that held ``[0, start)``.

    ``stored`` is read back afterwards, and decides; whether the store ``accepted`` the commit or its answer was an
    error says nothing, except that what was accepted must be there. ``fenced``: the table was closed to earlier epochs
    in between, perhaps to this one; it must not be tried again. Raises `Violation` where the table went back.
    """
    invariants.in_order(shard, end if accepted else start, stored, max(stored, end))
    if stored == start:
        return "overtaken" if fenced else "again"
    return "done" if stored == end else "overtaken"


def already_stored(shard: str, base: int, stored: int) -> int:
    """How many records of a leader's unflushed part, which begins at ``base``, are rows of a table that holds
    ``[0, stored)`` and was read afterwards. Raises `Violation` where rows would be missing between the two.
    """
    invariants.shown_once(shard, range(stored, min(base, stored + 1)), ())
    return stored - base
