"""Majorities, and how two logs are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ringlog.replication.messages import Boundary, Sealed


def committed_end(ends: Iterable[int], quorum: int) -> int:
    """The first offset that fewer than ``quorum`` of the members hold, given how far each holds the log.

    >>> committed_end([30, 10, 20], quorum=2)
    20
    """
    return sorted(ends, reverse=True)[quorum - 1]


def seals_needed(members: int, quorum: int) -> int:
    """How many seals meet every possible majority of an epoch.

    >>> seals_needed(3, 2), seals_needed(5, 3), seals_needed(2, 2)
    (2, 3, 1)
    """
    return members - quorum + 1


def describe(ends: Mapping[str, int], quorum: int) -> str:
    """How `committed_end` decides, drawn: a bar for each member, in the order of how far it holds the log.

    >>> print(describe({"a": 30, "b": 10, "c": 20}, quorum=2))
    b  >       10
    c  ->      20  <- committed: 2 of 3 hold everything below
    a  -->     30
    """
    order = sorted(ends, key=lambda member: (ends[member], member))
    steps = sorted(set(ends.values()))
    decisive = order[len(order) - quorum]
    name, number, bar = max(map(len, order)), max(len(str(end)) for end in steps), len(steps)
    lines = []
    for member in order:
        drawn = "-" * steps.index(ends[member]) + ">"
        line = f"{member:<{name}}  {drawn:<{bar + 3}}  {ends[member]:>{number}}"
        if member == decisive:
            line += f"  <- committed: {quorum} of {len(order)} hold everything below"
        lines.append(line)
    return "\n".join(lines)


def best(sealed: Iterable[Sealed]) -> Sealed:
    """The log that holds every committed entry: the highest ``(log_epoch, end)``, never just the longest."""
    return max(sealed, key=lambda log: (log.log_epoch, log.end))


def agreement(one: Sequence[Boundary], one_end: int, other: Sequence[Boundary], other_end: int) -> int | None:
    """The offset up to which two logs are the same; None where they share no epoch.

    An epoch has one leader, so of the highest epoch that both know, the one's entries are a prefix of the other's, and
    both took everything before it from that leader.

    >>> agreement([(1, 0), (3, 50)], 60, [(1, 0), (2, 40)], 70)
    40
    """
    one_ends, other_ends = _ends(one, one_end), _ends(other, other_end)
    shared = one_ends.keys() & other_ends.keys()
    if not shared:
        return None
    newest = max(shared)
    return min(one_ends[newest], other_ends[newest])


def _ends(boundaries: Sequence[Boundary], end: int) -> dict[int, int]:
    starts = [start for _, start in boundaries[1:]]
    return {epoch: stop for (epoch, _), stop in zip(boundaries, [*starts, end], strict=True)}


def trimmed_boundaries(boundaries: Sequence[Boundary], trimmed: int) -> tuple[Boundary, ...]:
    """The boundaries that a log still needs when it begins at ``trimmed``.

    >>> trimmed_boundaries([(1, 0), (2, 40), (3, 60)], 50)
    ((2, 40), (3, 60))
    """
    below = [boundary for boundary in boundaries if boundary[1] <= trimmed]
    return tuple(below[-1:]) + tuple(boundary for boundary in boundaries if boundary[1] > trimmed)
