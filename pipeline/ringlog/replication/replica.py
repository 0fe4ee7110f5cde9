"""One durable copy of a shard's tail. It answers nothing that it has not stored, and its promise never falls."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ringlog.replication import invariants
from ringlog.replication.dedup import NO_PRODUCERS, ProducerTable
from ringlog.replication.messages import (
    Append,
    Appended,
    Boundary,
    Confirmed,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Producers,
    Request,
    Seal,
    Sealed,
    Trim,
)
from ringlog.replication.output import NOTHING, Discard, Output, Promise, Replace, StoreOp, Write
from ringlog.replication.quorum import trimmed_boundaries

NEVER_JOINED = 0
"""The log epoch of a replica that holds no log yet; the first epoch is 1."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What a journal holds of one replica: a `Replica` begins from it and ends as it.

    ``producers`` is the producers' table as of ``trimmed``; ``entries`` cover ``[trimmed, end)`` without a gap.
    """

    shard: str
    id: str
    promised: int = 0
    log_epoch: int = NEVER_JOINED
    trimmed: int = 0
    boundaries: tuple[Boundary, ...] = ()
    producers: Producers = field(default_factory=lambda: NO_PRODUCERS)
    entries: tuple[Entry, ...] = field(default=(), repr=False)


def is_still_itself(fsync: str, closed: bool, boot_id: str, boot_id_now: str) -> bool:
    """Whether a journal that is opened again holds all that its replica has answered for.

    With ``group``, everything was on disk before it was answered for. Otherwise the kernel may have held some of it:
    that is lost when the kernel ended (it has another boot id), unless the journal was closed. A replica that lost
    something must never vote as who it was: it gets a new id and begins as empty.

    >>> is_still_itself("interval", False, "boot-1", "boot-1"), is_still_itself("interval", False, "boot-1", "boot-2")
    (True, False)
    """
    return fsync == "group" or closed or boot_id == boot_id_now


def applied(state: ReplicaState, op: StoreOp) -> ReplicaState:
    """What a journal that held ``state`` holds once ``op`` is written."""
    if isinstance(op, Promise):
        return replace(state, promised=op.promised)
    if isinstance(op, Write):
        return replace(state, entries=state.entries + op.entries)
    if isinstance(op, Discard):
        kept = state.entries[bisect_left(state.entries, op.trimmed, key=_start) :]
        return replace(state, trimmed=op.trimmed, boundaries=op.boundaries, producers=op.producers, entries=kept)
    return ReplicaState(
        state.shard,
        state.id,
        op.promised,
        op.log_epoch,
        op.trimmed,
        op.boundaries,
        op.producers,
        op.entries,
    )


class Replica:
    """The replica with the journal ``state.id``. Every handler is idempotent; messages may be late, lost or doubled."""

    def __init__(self, state: ReplicaState) -> None:
        self.shard = state.shard
        self.id = state.id
        self.promised = state.promised
        self.log_epoch = state.log_epoch
        self.trimmed = state.trimmed
        self.boundaries = state.boundaries
        self._take(state.producers, list(state.entries))

    @property
    def end(self) -> int:
        """The first offset that the log does not hold."""
        return self.entries[-1].end if self.entries else self.trimmed

    def handle(self, message: Request) -> Output:
        """What ``message`` makes of this replica. One that is meant for another journal is dropped."""
        if message.receiver != self.id or message.shard != self.shard:
            return NOTHING
        if message.epoch < self.promised:
            return Output(send=(Fenced(self.shard, self.id, message.epoch, self.promised),))
        if isinstance(message, Seal):
            return self._seal(message)
        if isinstance(message, Join):
            return self._join(message)
        if message.epoch != self.promised:
            return NOTHING  # only a seal or a join moves a replica to another epoch
        if isinstance(message, Fetch):
            return self._fetch(message)
        if self.log_epoch != message.epoch:
            return NOTHING
        if isinstance(message, Append):
            return self._append(message)
        if isinstance(message, Trim):
            return Output(store=self._trim(message.offset))
        return Output(send=(Confirmed(self.shard, self.id, message.epoch, message.round),))

    def state(self) -> ReplicaState:
        """What a journal must hold for this replica to begin again as it is."""
        return ReplicaState(
            self.shard,
            self.id,
            self.promised,
            self.log_epoch,
            self.trimmed,
            self.boundaries,
            self._base.to_plain(),
            tuple(self.entries),
        )

    def _seal(self, message: Seal) -> Output:
        store: tuple[StoreOp, ...] = ()
        if message.epoch > self.promised:
            self.promised = message.epoch
            store = (Promise(message.epoch),)
        sealed = Sealed(self.shard, self.id, message.epoch, self.log_epoch, self.boundaries, self.trimmed, self.end)
        return Output(store, send=(sealed,))

    def _fetch(self, message: Fetch) -> Output:
        if self.log_epoch == message.epoch:
            return NOTHING  # a late duplicate: whoever asked has had the answer, and may have trimmed since
        invariants.in_order(self.shard, self.trimmed, message.start, self.end)
        at = self._index(message.start)
        answer = Entries(
            self.shard,
            self.id,
            message.epoch,
            message.start,
            self.end,
            tuple(self.entries[at:]),
            self._base.advanced(self.entries[:at]).to_plain(),
        )
        return Output(send=(answer,))

    def _join(self, message: Join) -> Output:
        if self.log_epoch == message.epoch:  # a late duplicate must never cut appended entries
            return Output(send=(Joined(self.shard, self.id, message.epoch, self.end),))
        kept: list[Entry] = []
        if message.start > message.trimmed:
            invariants.in_order(self.shard, self.trimmed, message.trimmed, message.start)
            kept = self.entries[self._index(message.trimmed) : self._index(message.start)]
        invariants.promise_kept(self.id, self.promised, message.epoch)
        self.promised = self.log_epoch = message.epoch
        self.trimmed, self.boundaries = message.trimmed, message.boundaries
        self._take(message.producers, [*kept, *message.entries])
        store = Replace(
            self.promised,
            self.log_epoch,
            self.trimmed,
            self.boundaries,
            message.producers,
            tuple(self.entries),
        )
        return Output((store,), send=(Joined(self.shard, self.id, message.epoch, self.end),))

    def _append(self, message: Append) -> Output:
        store: list[StoreOp] = []
        if message.trimmed > self.end and message.producers is not None:
            # The table has what this replica missed, and nobody else keeps it any more: go on from there.
            self.trimmed = message.trimmed
            self.boundaries = trimmed_boundaries(self.boundaries, self.trimmed)
            self._take(message.producers, [])
            store.append(Replace(self.promised, self.log_epoch, self.trimmed, self.boundaries, message.producers, ()))
        if message.start <= self.end:
            fresh = message.entries[bisect_left(message.entries, self.end, key=_start) :]
            if fresh:
                self._extend(fresh)
                store.append(Write(fresh))
        store.extend(self._trim(min(message.trimmed, self.end)))
        return Output(tuple(store), send=(Appended(self.shard, self.id, message.epoch, self.end),))

    def _trim(self, offset: int) -> tuple[StoreOp, ...]:
        if not self.trimmed < offset <= self.end:
            return ()
        at = self._index(offset)
        for entry in self.entries[:at]:
            self._base.apply(entry)
        del self.entries[:at]
        self.trimmed = offset
        self.boundaries = trimmed_boundaries(self.boundaries, offset)
        return (Discard(offset, self.boundaries, self._base.to_plain()),)

    def _take(self, producers: Producers, entries: list[Entry]) -> None:
        """Begin anew with the producers' table as of ``trimmed`` and the entries from there."""
        self._base = ProducerTable.from_plain(producers)
        self.producers = ProducerTable.from_plain(producers)
        self.entries: list[Entry] = []
        self._extend(entries)

    def _extend(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            invariants.follows(self.end, entry.start, entry.end, entry.producer)
            self.producers.apply(entry)
            self.entries.append(entry)

    def _index(self, offset: int) -> int:
        """Where the entry that begins at ``offset`` stands. Offsets that cut an entry do not exist."""
        at = bisect_left(self.entries, offset, key=_start)
        invariants.aligned(offset, self.entries[at].start if at < len(self.entries) else self.end)
        return at


def _start(entry: Entry) -> int:
    return entry.start
