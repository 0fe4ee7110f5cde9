"""What a core asks for: first store, then send and reply; and wake me at the deadline.

The order is the promise: nothing of ``send`` and ``reply`` may leave before all of ``store``, and of the outputs before
it, is durable. Only replicas store; leaders and takeovers keep nothing, and what they say may leave at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ringlog.replication.messages import Boundary, Entry, Producers


@dataclass(frozen=True, slots=True)
class Promise:
    """Keep that no epoch below ``promised`` is served."""

    promised: int


@dataclass(frozen=True, slots=True)
class Write:
    """Append ``entries`` to the journal."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what lies below ``trimmed``; ``producers`` is the producers' table as of there."""

    trimmed: int
    boundaries: tuple[Boundary, ...]
    producers: Producers


@dataclass(frozen=True, slots=True)
class Replace:
    """In one atomic step: the log is ``entries`` from ``trimmed`` on, of ``log_epoch``, under ``promised``."""

    promised: int
    log_epoch: int
    trimmed: int
    boundaries: tuple[Boundary, ...]
    producers: Producers
    entries: tuple[Entry, ...]


StoreOp = Promise | Write | Discard | Replace


@dataclass(frozen=True, slots=True)
class Accepted:
    """The batch has offsets ``[start, end)`` in ``epoch``, at the level that was asked for. True also of a retry."""

    epoch: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Full:
    """Not stored: the shard's buffer is full."""

    held_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not stored, and a quorum has just confirmed that this leader may say so. ``expected`` is the next sequence."""

    reason: str
    expected: int | None


@dataclass(frozen=True, slots=True)
class Deposed:
    """The leadership ended while the caller waited: the outcome is unknown. A retry with the same sequence is safe."""

    epoch: int
    promised: int


@dataclass(frozen=True, slots=True)
class NotLeading:
    """Nobody here leads the epoch that was addressed; ``epoch`` is the one that is led here, 0 for none."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The epoch was current after the read arrived; the entries of ``[base, committed)`` may be shown."""

    epoch: int
    base: int
    committed: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Leads:
    """The takeover that was asked for has opened ``epoch``: the shard is led here."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Outpaced:
    """The takeover of ``epoch`` that was asked for is over: somebody else is ahead, or it was asked for again."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Retired:
    """The takeover of ``epoch`` has retired the shard: nobody leads it, and the table holds all of it."""

    epoch: int


Answer = Accepted | Full | Refused | Deposed | NotLeading | Confirmation | Leads | Outpaced | Retired


@dataclass(frozen=True, slots=True)
class Output:
    """``store`` in this order; ``send`` messages, also to the metadata store and the table; ``reply`` to callers."""

    store: tuple[StoreOp, ...] = ()
    send: tuple[Any, ...] = ()
    reply: tuple[tuple[Any, Answer], ...] = ()
    deadline: float | None = None

    def __bool__(self) -> bool:
        return bool(self.store or self.send or self.reply)

    def __add__(self, other: Output) -> Output:
        """One after the other; the earlier deadline."""
        deadlines = [one for one in (self.deadline, other.deadline) if one is not None]
        return Output(
            self.store + other.store,
            self.send + other.send,
            self.reply + other.reply,
            min(deadlines, default=None),
        )


NOTHING = Output()
