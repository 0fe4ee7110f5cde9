"""What leaders, replicas and candidates say to one another, and what the metadata store keeps.

Every message names its shard. A request names the replica it is meant for (``receiver``, the UUID of its journal), and
a replica with another id drops it; an answer names the replica that gave it (``id``). Ranges are half-open.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Boundary = tuple[int, int]
"""``(epoch, start)``: the offset at which that epoch began."""

Acks = Literal["leader", "quorum", "stored"]
"""Where a batch must be before its producer hears of it: on the leader's disk, on a majority's, in the table."""

Producers = Mapping[str, Any]
"""A `ProducerTable` as plain values, as it travels and as it is kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of ``end - start`` records at offsets ``[start, end)`` of a shard; immutable, shared, never copied."""

    epoch: int
    start: int
    end: int
    producer: str
    producer_epoch: int
    sequence: int
    payload: bytes = field(repr=False)
    checksum: int

    @classmethod
    def make(
        cls,
        epoch: int,
        start: int,
        end: int,
        producer: str,
        producer_epoch: int,
        sequence: int,
        payload: bytes,
    ) -> Entry:
        """A new entry with the checksum of all that it says."""
        checksum = _checksum(epoch, start, end, producer, producer_epoch, sequence, payload)
        return cls(epoch, start, end, producer, producer_epoch, sequence, payload, checksum)

    def intact(self) -> bool:
        """Whether the entry still is what it was made as."""
        return self.checksum == _checksum(
            self.epoch,
            self.start,
            self.end,
            self.producer,
            self.producer_epoch,
            self.sequence,
            self.payload,
        )


def _checksum(
    epoch: int, start: int, end: int, producer: str, producer_epoch: int, sequence: int, payload: bytes
) -> int:
    head = f"{epoch} {start} {end} {producer_epoch} {sequence} {producer}".encode()
    return zlib.crc32(payload, zlib.crc32(head))


@dataclass(frozen=True, slots=True)
class Submit:
    """From a producer: append this batch of ``records`` records to ``shard``, whose leader is that of ``epoch``.

    ``since`` is how far the shard was committed before this epoch of the producer began, as far as the producer knows.
    """

    shard: str
    epoch: int
    producer: str
    producer_epoch: int
    sequence: int
    since: int
    records: int
    acks: Acks
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Append:
    """The leader's entries from ``start`` on, and how far it has committed and trimmed.

    ``producers``, the producers' table as of ``trimmed``, is there only for a replica that ends before ``trimmed``.
    """

    shard: str
    receiver: str
    epoch: int
    start: int
    entries: tuple[Entry, ...]
    committed: int
    trimmed: int
    producers: Producers | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The replica durably holds the leader's log up to ``end``."""

    shard: str
    id: str
    epoch: int
    end: int


@dataclass(frozen=True, slots=True)
class Seal:
    """Promise to serve no epoch below this one, and say what you hold."""

    shard: str
    receiver: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """The promise is durable; this is the log that it fenced."""

    shard: str
    id: str
    epoch: int
    log_epoch: int
    boundaries: tuple[Boundary, ...]
    trimmed: int
    end: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send the log from ``start`` on; asked of a replica that is sealed for ``epoch``."""

    shard: str
    receiver: str
    epoch: int
    start: int


@dataclass(frozen=True, slots=True)
class Entries:
    """The log from ``start`` to ``end``, and the producers' table as of ``start``."""

    shard: str
    id: str
    epoch: int
    start: int
    end: int
    entries: tuple[Entry, ...]
    producers: Producers


@dataclass(frozen=True, slots=True)
class Join:
    """Make your log exactly ``[trimmed, end)`` of this epoch's: keep yours up to ``start``, then take ``entries``.

    ``producers`` is the producers' table as of ``trimmed``; ``boundaries`` ends with this epoch's.
    """

    shard: str
    receiver: str
    epoch: int
    trimmed: int
    start: int
    boundaries: tuple[Boundary, ...]
    entries: tuple[Entry, ...]
    producers: Producers


@dataclass(frozen=True, slots=True)
class Joined:
    """The replica's log is that of the epoch, durably."""

    shard: str
    id: str
    epoch: int
    end: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Do you still serve this epoch? Asked in rounds, before reads and refusals."""

    shard: str
    receiver: str
    epoch: int
    round: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """No higher epoch had been promised when this round's question arrived."""

    shard: str
    id: str
    epoch: int
    round: int


@dataclass(frozen=True, slots=True)
class Trim:
    """The table holds everything below ``offset``: forget it."""

    shard: str
    receiver: str
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """The answer to any message of an epoch below ``promised``."""

    shard: str
    id: str
    epoch: int
    promised: int


Request = Append | Seal | Fetch | Join | Confirm | Trim
Reply = Appended | Sealed | Entries | Joined | Confirmed | Fenced
Message = Request | Reply


@dataclass(frozen=True, slots=True)
class Member:
    """A replica by its journal's UUID, and the shard actor on which it lives."""

    id: str
    actor: str


@dataclass(frozen=True, slots=True)
class ShardState:
    """What the metadata store decides about one shard, changed by compare-and-set only.

    ``members`` are the replicas of the last epoch that **opened**; a claim leaves them untouched, and they are replaced
    in the same write that opens a newer epoch. ``claimant`` is the shard actor that claimed it. ``nonce`` tells one's
    own write from another's when an answer was lost. ``accepted`` is the epoch whose takeover last went on, by an
    operator's word, without members that it needed: ``members`` are only those that had answered, since then. ``gaps``
    are the losses: from ``(epoch, start)``, what earlier epochs had acknowledged at ``start`` and above may be gone.

    A shard that is **retired** has no members: the table holds all of it, up to ``ended``, and only a decision later
    than ``retired``, the one by which it was, may take it up again; its log then goes on at ``ended``.
    """

    shard: str
    epoch: int
    state: Literal["claimed", "open", "retired"]
    claimant: str
    nonce: str
    members: tuple[Member, ...]
    quorum: int
    accepted: int = 0
    gaps: tuple[Boundary, ...] = ()
    retired: int = 0
    ended: int = 0
