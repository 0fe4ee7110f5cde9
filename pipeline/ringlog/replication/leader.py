"""The single writer of one epoch of one shard: it orders appends, and tells callers when a majority has them.

All of it is in memory and may be lost without losing a copy: the replica in its own process stores, like every other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ringlog.replication import invariants
from ringlog.replication.dedup import Evicted, Expected, Known, New, ProducerTable, Superseded
from ringlog.replication.messages import (
    Acks,
    Append,
    Appended,
    Confirm,
    Confirmed,
    Entry,
    Fenced,
    Member,
    Producers,
    Reply,
    Submit,
    Trim,
)
from ringlog.replication.output import (
    NOTHING,
    Accepted,
    Answer,
    Confirmation,
    Deposed,
    Full,
    Output,
    Refused,
)
from ringlog.replication.quorum import committed_end

ROUND_BYTES_MAX = 1024 * 1024
"""A round carries at most this much (but at least one entry)."""
RESEND_S = 1.0
"""How long a peer may be silent before its round is sent again."""


@dataclass(slots=True)
class _Peer:
    """What the leader knows of one member: how far it holds the log, and when its round in flight is overdue."""

    end: int
    overdue: float | None = None
    confirmed: int = 0


@dataclass(slots=True)
class _Waiting:
    end: int
    caller: Any
    answer: Accepted


@dataclass(slots=True)
class _Question:
    """An answer that is true only if the epoch was still current after it was asked for."""

    round: int
    caller: Any
    answer: Answer | None
    """None stands for a read, which is answered with the log as it is once the round is confirmed."""


@dataclass(slots=True)
class _Levels:
    leader: deque[_Waiting] = field(default_factory=deque)
    quorum: deque[_Waiting] = field(default_factory=deque)
    stored: deque[_Waiting] = field(default_factory=deque)


class Leader:
    """The leader of ``epoch`` over ``members``, one of which, ``own``, lives in its process.

    ``entries`` are the kept tail ``[trimmed, end)``, all of it committed; ``producers`` is the producers' table as of
    ``trimmed``. ``buffer_bytes_max`` bounds the payloads that are held and not yet trimmed. ``begun`` is the offset at
    which the epoch began.
    """

    def __init__(
        self,
        shard: str,
        epoch: int,
        members: Iterable[Member],
        quorum: int,
        own: str,
        trimmed: int,
        entries: Iterable[Entry],
        producers: Producers,
        buffer_bytes_max: int,
    ) -> None:
        self.shard = shard
        self.epoch = epoch
        self.members = tuple(members)
        self.quorum = quorum
        self.own = own
        self.trimmed = trimmed
        self.entries = list(entries)
        self.committed = self.end
        self.begun = self.end
        self.deposed_by: int | None = None
        self.held_bytes = sum(len(entry.payload) for entry in self.entries)
        self.buffer_bytes_max = buffer_bytes_max
        self._base = ProducerTable.from_plain(producers)
        self.producers = self._base.advanced(self.entries)
        self._peers = {member.id: _Peer(self.end) for member in self.members}
        self._waiting = _Levels()
        self._round = 0
        self._questions: deque[_Question] = deque()
        self._questions_overdue: float | None = None

    @property
    def end(self) -> int:
        """The first offset that is not written yet."""
        return self.entries[-1].end if self.entries else self.trimmed

    def ends(self) -> dict[str, int]:
        """How far each member holds the log, by its id."""
        return {id: peer.end for id, peer in self._peers.items()}

    def append(self, caller: Any, submit: Submit, now: float) -> Output:
        """Order one batch, or recognise the retry of one; ``caller`` hears of it at the level that it asks for."""
        if self.deposed_by is not None:
            return Output(reply=((caller, Deposed(self.epoch, self.deposed_by)),))
        verdict = self.producers.check(submit.producer, submit.producer_epoch, submit.sequence, submit.since)
        if submit.sequence == 0 and submit.since > self.end and isinstance(verdict, New):
            verdict = Evicted()  # a loss was accepted since: it would stand below what the producer counts from
        if isinstance(verdict, Known):
            return self._wait(caller, verdict.start, verdict.end, submit.acks)
        if not isinstance(verdict, New):
            return self._ask(caller, _refusal(verdict), now)
        if self.held_bytes + len(submit.payload) > self.buffer_bytes_max:
            return Output(reply=((caller, Full(self.held_bytes)),))
        start = self.end
        entry = Entry.make(
            self.epoch,
            start,
            start + submit.records,
            submit.producer,
            submit.producer_epoch,
            submit.sequence,
            submit.payload,
        )
        self.producers.apply(entry)
        self.entries.append(entry)
        self.held_bytes += len(entry.payload)
        waiting = self._wait(caller, entry.start, entry.end, submit.acks)
        return Output(send=self._rounds(now), reply=waiting.reply, deadline=self._deadline())

    def read(self, caller: Any, now: float) -> Output:
        """Answer with the unflushed part, after a quorum confirmed the epoch in a round that begins now."""
        if self.deposed_by is not None:
            return Output(reply=((caller, Deposed(self.epoch, self.deposed_by)),))
        return self._ask(caller, None, now)

    def handle(self, message: Reply, now: float) -> Output:
        """What a replica's answer makes of this leadership."""
        if message.shard != self.shard or self.deposed_by is not None:
            return NOTHING
        if isinstance(message, Fenced):
            return self.depose(message.promised) if message.promised > self.epoch else NOTHING
        peer = self._peers.get(message.id)
        if message.epoch != self.epoch or peer is None:
            return NOTHING
        if isinstance(message, Confirmed):
            peer.confirmed = max(peer.confirmed, message.round)
            return Output(reply=self._confirmed())
        if not isinstance(message, Appended):
            return NOTHING
        invariants.one_leader(self.epoch, self.end, max(self.end, message.end))
        peer.end = max(peer.end, message.end)
        peer.overdue = None
        committed = max(self.committed, committed_end(self.ends().values(), self.quorum))
        self.committed = committed
        reply = (
            *_reached(self._waiting.leader, self._peers[self.own].end),
            *_reached(self._waiting.quorum, committed),
        )
        return Output(send=self._rounds(now), reply=reply, deadline=self._deadline())

    def trim(self, offset: int) -> Output:
        """The table holds everything below ``offset``: forget it, and let the replicas forget it.

        Where that is more than was committed here, a later leader archived it: this leadership is over.
        """
        if offset <= self.trimmed or self.deposed_by is not None:
            return NOTHING
        if offset > self.committed:
            return self.depose(self.epoch + 1)
        invariants.in_order(self.shard, self.trimmed, offset, self.committed)
        at = bisect_left(self.entries, offset, key=_start)
        invariants.aligned(offset, self.entries[at].start if at < len(self.entries) else self.end)
        for entry in self.entries[:at]:
            self._base.apply(entry)
            self.held_bytes -= len(entry.payload)
        del self.entries[:at]
        self.trimmed = offset
        send = tuple(Trim(self.shard, id, self.epoch, offset) for id in self._peers)
        return Output(send=send, reply=_reached(self._waiting.stored, offset))

    def tick(self, now: float) -> Output:
        """Send again to whoever has been silent for too long."""
        if self.deposed_by is not None:
            return NOTHING
        for peer in self._peers.values():
            if peer.overdue is not None and peer.overdue <= now:
                peer.overdue = None
        send: tuple[Append | Confirm, ...] = self._rounds(now)
        if self._questions_overdue is not None and self._questions_overdue <= now:
            self._questions_overdue = now + RESEND_S
            send += self._confirms()
        return Output(send=send, deadline=self._deadline())

    def depose(self, promised: int) -> Output:
        """A higher epoch exists: every waiting caller hears that the outcome is unknown."""
        if self.deposed_by is not None:
            return NOTHING
        self.deposed_by = promised
        unknown = Deposed(self.epoch, promised)
        levels = (self._waiting.leader, self._waiting.quorum, self._waiting.stored)
        callers = [waiting.caller for level in levels for waiting in level]
        callers += [question.caller for question in self._questions]
        self._waiting, self._questions = _Levels(), deque()
        return Output(reply=tuple((caller, unknown) for caller in callers))

    def committed_from(self, start: int) -> tuple[Entry, ...]:
        """The committed entries from ``start``, or from where the log begins now, on."""
        first = bisect_left(self.entries, start, key=_start)
        return tuple(self.entries[first : bisect_left(self.entries, self.committed, key=_start)])

    def waits_for_storing(self) -> bool:
        """Whether a caller waits until what it appended is in the table."""
        return bool(self._waiting.stored)

    def _wait(self, caller: Any, start: int, end: int, acks: Acks) -> Output:
        answer = Accepted(self.epoch, start, end)
        reached = {
            "leader": self._peers[self.own].end,
            "quorum": self.committed,
            "stored": self.trimmed,
        }
        if end <= reached[acks]:
            return Output(reply=((caller, answer),))
        level: deque[_Waiting] = getattr(self._waiting, acks)
        waiting = _Waiting(end, caller, answer)
        if level and level[-1].end > end:  # the retry of an older sequence
            level.insert(bisect_left(level, end, key=lambda one: one.end), waiting)
        else:
            level.append(waiting)
        return NOTHING

    def _rounds(self, now: float) -> tuple[Append, ...]:
        """The next round to each member that has none in flight and lacks something."""
        end = self.end
        rounds = []
        for id, peer in self._peers.items():
            if peer.overdue is None and peer.end < end:
                peer.overdue = now + RESEND_S
                rounds.append(self._next(id, peer))
        return tuple(rounds)

    def _next(self, id: str, peer: _Peer) -> Append:
        start = max(peer.end, self.trimmed)
        at = bisect_left(self.entries, start, key=_start)
        stop, size = at, 0
        while stop < len(self.entries) and (stop == at or size < ROUND_BYTES_MAX):
            size += len(self.entries[stop].payload)
            stop += 1
        producers = self._base.to_plain() if peer.end < self.trimmed else None
        return Append(
            self.shard,
            id,
            self.epoch,
            start,
            tuple(self.entries[at:stop]),
            self.committed,
            self.trimmed,
            producers,
        )

    def _ask(self, caller: Any, answer: Answer | None, now: float) -> Output:
        """Reply with ``answer`` once a quorum has confirmed the epoch in a round that begins now."""
        self._round += 1
        self._questions.append(_Question(self._round, caller, answer))
        if self._questions_overdue is None:
            self._questions_overdue = now + RESEND_S
        return Output(send=self._confirms(), deadline=self._deadline())

    def _confirms(self) -> tuple[Confirm, ...]:
        return tuple(Confirm(self.shard, id, self.epoch, self._round) for id in self._peers)

    def _confirmed(self) -> tuple[tuple[Any, Answer], ...]:
        round = committed_end((peer.confirmed for peer in self._peers.values()), self.quorum)
        answered: list[tuple[Any, Answer]] = []
        while self._questions and self._questions[0].round <= round:
            question = self._questions.popleft()
            answered.append((question.caller, question.answer or self._confirmation()))
        if not self._questions:
            self._questions_overdue = None
        return tuple(answered)

    def _confirmation(self) -> Confirmation:
        return Confirmation(self.epoch, self.trimmed, self.committed, self.committed_from(self.trimmed))

    def _deadline(self) -> float | None:
        times = [self._questions_overdue, *(peer.overdue for peer in self._peers.values())]
        return min((time for time in times if time is not None), default=None)


def _reached(level: deque[_Waiting], end: int) -> tuple[tuple[Any, Answer], ...]:
    answered: list[tuple[Any, Answer]] = []
    while level and level[0].end <= end:
        waiting = level.popleft()
        answered.append((waiting.caller, waiting.answer))
    return tuple(answered)


def _refusal(verdict: Expected | Superseded | Evicted) -> Refused:
    if isinstance(verdict, Expected):
        return Refused(f"the next sequence of this producer is {verdict.sequence}", verdict.sequence)
    if isinstance(verdict, Superseded):
        return Refused(f"this producer has begun its epoch {verdict.producer_epoch}", None)
    return Refused("this producer, or a sequence this old, is no longer remembered", None)


def _start(entry: Entry) -> int:
    return entry.start
