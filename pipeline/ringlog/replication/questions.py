"""What a takeover asks the metadata store and the table, what they answer, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass

from ringlog.replication.messages import Entry, Producers, ShardState


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """To the metadata store: write ``state`` where the version still is ``expected`` (0: where there is nothing)."""

    state: ShardState
    expected: int


@dataclass(frozen=True, slots=True)
class Standing:
    """From the metadata store, read after any write: what stands there now, under which version (None and 0: nothing).

    ``nonce``, here and below, is that of the takeover that asked: an answer to an earlier one is none to this one.
    """

    shard: str
    nonce: str
    state: ShardState | None
    version: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """To the metadata store: what stands there for ``shard`` now?"""

    shard: str
    nonce: str


@dataclass(frozen=True, slots=True)
class ReadStored:
    """To the table: its transaction version for ``shard``, read now.

    ``fence``: from now on, only leaders of this epoch or later may archive the shard. It is there when an operator
    accepted a loss: a leader that was given up for lost could otherwise come back and archive what it has.
    """

    shard: str
    nonce: str
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """From the table."""

    shard: str
    nonce: str
    end: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """From the metadata store or the table: the call ended without an answer. It may have been carried out."""

    shard: str
    nonce: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The epoch is open: what its leader begins with. ``boundaries`` ends with this epoch's."""

    state: ShardState
    version: int
    trimmed: int
    entries: tuple[Entry, ...]
    producers: Producers
