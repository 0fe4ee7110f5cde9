"""Looks at everything and knows the invariants; nothing in the cluster knows of it.

It keeps the one committed log of each shard, as far as any leader has shown it, and holds against it what leaders open
with, what callers are told, what the table takes and what readers see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ringlog.replication import (
    Discard,
    Entry,
    Leader,
    Promise,
    Replace,
    ReplicaState,
    ShardState,
    StoreOp,
    Violation,
    invariants,
)
from ringlog.replication.takeover import GAP_PRODUCER

Told = Literal["acknowledged", "not stored", "unknown"]


@dataclass
class _Log:
    """The committed log of one shard: every entry that was ever committed, in order."""

    entries: list[Entry] = field(default_factory=list)
    at: dict[int, int] = field(default_factory=dict)
    sequences: dict[tuple[str, int, int], int] = field(default_factory=dict)
    payloads: dict[bytes, Entry] = field(default_factory=dict)
    leaders: dict[int, str] = field(default_factory=dict)
    gaps: set[tuple[int, int]] = field(default_factory=set)
    stored: int = 0
    retired: int = 0
    """By which decision it is retired now, 0: it is not."""

    @property
    def end(self) -> int:
        return self.entries[-1].end if self.entries else 0

    def from_(self, start: int) -> Sequence[Entry]:
        if start >= self.end:
            return ()
        invariants.aligned(start, start if start in self.at else -1)
        return self.entries[self.at[start] :]


@dataclass(frozen=True)
class Acknowledged:
    """What a caller was told of one batch."""

    payload: bytes
    start: int
    end: int


class Checker:
    """Raises `Violation`, with the id of the invariant, at the first thing that must not be."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._lost: set[str] = set()
        self._acknowledged: dict[str, dict[bytes, Acknowledged]] = {}
        self._told: dict[bytes, Told] = {}
        self.wanted: dict[str, int] = {}
        """By which decision each shard was wanted last."""
        self.counts: Counter[str] = Counter()

    # What happens on disks and in the stores.

    def stores(self, state: ReplicaState, op: StoreOp) -> None:
        """A journal that holds ``state`` is about to take ``op``."""
        if isinstance(op, Promise | Replace):
            invariants.promise_kept(state.id, state.promised, op.promised)
        else:
            invariants.promise_kept(state.id, state.promised, state.log_epoch)
        if isinstance(op, Discard | Replace):
            log = self._log(state.shard)
            invariants.in_order(state.shard, op.trimmed, log.stored, max(log.end, log.stored))

    def durable(self, said: ReplicaState, on_disk: ReplicaState) -> None:
        """A replica at rest, and what its journal holds: all that it speaks of."""
        plain = [(replace(state, producers={}), repr(state.producers)) for state in (said, on_disk)]
        invariants.kept(f"the journal of {said.id}", *plain)

    def on_leaders_disk(self, state: ReplicaState, payload: bytes, start: int, end: int) -> None:
        """A caller is told that the leader, whose own journal holds ``state``, has ``payload`` at ``[start, end)``."""
        if end <= state.trimmed:
            return
        found = [(entry.start, entry.end) for entry in state.entries if entry.payload == payload]
        invariants.kept(f"{payload!r} on the disk of {state.id}", [(start, end)], found)

    def lost(self, id: str) -> None:
        """The journal of ``id`` lost something: it must never vote again."""
        self._lost.add(id)

    def is_lost(self, id: str) -> bool:
        """Whether ``id`` may not vote any more."""
        return id in self._lost

    def speaks(self, id: str) -> None:
        """A replica said something as ``id``."""
        invariants.votes_as_itself(id, id in self._lost)

    def decided(self, state: ShardState) -> None:
        """The metadata store took ``state``."""
        self.counts[state.state] += 1
        log = self._log(state.shard)
        if state.state == "retired":
            invariants.kept(f"all of {state.shard}", [log.end] * 2, [state.ended, log.stored])
            log.retired = state.retired
            return
        invariants.at_rest(state.shard, log.retired, self.wanted.get(state.shard, 0))
        if state.state == "open":
            log.retired = 0
            invariants.one_leader(state.epoch, log.leaders.setdefault(state.epoch, state.nonce), state.nonce)
            for gap in state.gaps:
                if gap not in log.gaps:
                    log.gaps.add(gap)
                    self._accept_loss(state.shard, gap[1])

    def archived(self, shard: str, stored: int, entries: Sequence[Entry]) -> None:
        """The table takes ``entries`` as rows; it held ``[0, stored)`` before."""
        log = self._log(shard)
        invariants.stored_once(shard, entries[0].start, stored)
        invariants.in_order(shard, 0, entries[-1].end, log.end)
        self._same(log, entries)
        log.stored = entries[-1].end

    # What leaders do.

    def opened(self, leader: Leader) -> None:
        """``leader`` begins: what it kept counts as committed, and holds all that was before its epoch.

        One that was stopped while it opened may begin when later epochs have long gone on.
        """
        log = self._log(leader.shard)
        invariants.in_order(leader.shard, leader.trimmed, log.stored, max(log.stored, leader.end))
        expected = [entry for entry in log.from_(leader.trimmed) if entry.epoch < leader.epoch]
        kept = leader.entries
        for entry, found in zip(expected, kept, strict=False):
            invariants.kept(f"{leader.shard} [{entry.start}, {entry.end})", entry, found)
        if len(kept) < len(expected):
            invariants.kept(f"{leader.shard} up to {log.end}", expected[len(kept)], None)
        self.committed(leader, leader.trimmed)

    def committed(self, leader: Leader, since: int) -> None:
        """``leader`` counts ``[since, committed)`` as committed."""
        entries = leader.committed_from(since)
        log = self._log(leader.shard)
        self._same(log, [entry for entry in entries if entry.end <= log.end])
        for entry in entries:
            if entry.end > log.end:
                self._extend(log, entry)

    # What callers are told.

    def told(self, shard: str, payload: bytes, what: Told, start: int = 0, end: int = 0, level: str = "quorum") -> None:
        """The caller that submitted ``payload`` hears of it, for the first and only time."""
        if payload in self._told:
            raise Violation("SL-4", f"the caller of {payload!r} was told {self._told[payload]}, and now {what}")
        self._told[payload] = what
        self.counts[what] += 1
        log = self._log(shard)
        if what == "not stored":
            invariants.unchanged(0, None, log.payloads.get(payload))
        if what != "acknowledged" or level == "leader":  # of which `on_leaders_disk` hears
            return
        entry = log.payloads.get(payload)
        invariants.kept(f"{shard} {payload!r}", (start, end), entry and (entry.start, entry.end))
        if level == "stored":
            invariants.in_order(shard, end, log.stored, log.end)
        self._acknowledged.setdefault(shard, {})[payload] = Acknowledged(payload, start, end)

    def acknowledged(self, shard: str) -> tuple[Acknowledged, ...]:
        """What has been acknowledged of ``shard`` so far: a read that begins now must show it."""
        return tuple(self._acknowledged.get(shard, {}).values())

    def read(self, shard: str, expected: Iterable[Acknowledged], rows: Sequence[Entry]) -> None:
        """A read shows ``rows``; it began when ``expected`` had been acknowledged."""
        self.counts["checked reads"] += 1
        times = Counter(entry.payload for entry in rows)
        current = self._acknowledged.get(shard, {})
        missing = [one for one in expected if times[one.payload] == 0 and one.payload in current]
        invariants.shown_once(shard, missing, [payload for payload, number in times.items() if number > 1])
        end = 0
        for entry in rows:
            invariants.follows(end, entry.start, entry.end, "a read")
            end = entry.end
        self._same(self._log(shard), rows)

    def finished(self, shard: str, rows: Sequence[Entry]) -> None:
        """Nothing fails any more, all is archived: ``rows`` of the table are the log, and what was told is true."""
        log = self._log(shard)
        invariants.stored_once(shard, log.end, rows[-1].end if rows else 0)
        self._same(log, rows)
        self.read(shard, self.acknowledged(shard), rows)
        for entry in rows:
            if self._told.get(entry.payload) == "not stored":
                invariants.unchanged(entry.start, None, entry)

    def _log(self, shard: str) -> _Log:
        return self._logs.setdefault(shard, _Log())

    def _same(self, log: _Log, entries: Iterable[Entry]) -> None:
        for entry in entries:
            at = log.at.get(entry.start)
            invariants.unchanged(entry.start, log.entries[at] if at is not None else None, entry)

    def _extend(self, log: _Log, entry: Entry) -> None:
        invariants.at_rest(f"{entry}", log.retired, 0)
        invariants.follows(log.end, entry.start, entry.end, entry)
        key = (entry.producer, entry.producer_epoch, entry.sequence)
        invariants.new_sequence(entry.producer, entry.sequence, key not in log.sequences, log.sequences.get(key))
        if entry.payload in log.payloads:
            raise Violation("SL-4", f"{entry} has the same records as {log.payloads[entry.payload]}")
        if self._told.get(entry.payload) == "not stored":
            invariants.unchanged(entry.start, None, entry)
        log.at[entry.start] = len(log.entries)
        log.entries.append(entry)
        log.sequences[key] = entry.start
        log.payloads[entry.payload] = entry
        self.counts["committed"] += 1

    def _accept_loss(self, shard: str, start: int) -> None:
        """An operator gave up what lies at ``start`` and above; nothing of it is owed any more."""
        log = self._log(shard)
        self.counts["accepted losses"] += 1
        lost = [entry for entry in log.entries if entry.start >= start]
        del log.entries[len(log.entries) - len(lost) :]
        for entry in lost:
            del log.at[entry.start]
            del log.sequences[entry.producer, entry.producer_epoch, entry.sequence]
            del log.payloads[entry.payload]
            self._acknowledged.get(shard, {}).pop(entry.payload, None)
        self.counts["lost by agreement"] += len(lost)


def is_gap(entry: Entry) -> bool:
    """Whether ``entry`` is the record of a loss."""
    return entry.producer.startswith(GAP_PRODUCER)
