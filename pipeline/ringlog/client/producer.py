"""A producer's side of one shard: sequences, the window, retries. Pure: events and times in, what to do out.

What always holds: a batch keeps its sequence and its shard for as long as it may have been stored, so that a retry is
recognised; and nobody is told "not stored" of a batch that may be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ringlog.errors import InvalidRecord, OutcomeUnknown, Overloaded, RinglogError, Unavailable
from ringlog.replication import Acks, Submit
from ringlog.wire import Acknowledged, Declined

WINDOW = 64
"""How many batches may be on their way to one shard; a leader recognises as many."""
OVERLOAD_PAUSE_S = 0.25
GAP_PAUSE_S = 0.02


@dataclass(slots=True)
class Batch:
    """A packed batch that waits for its acknowledgement; ``caller`` is handed back with the result."""

    payload: bytes
    records: int
    acks: Acks
    deadline: float
    caller: Any
    sequence: int = -1
    on_its_way: bool = False
    """Sent, and not answered yet."""
    doubtful: bool = False
    """An earlier try ended without an answer, so it may be stored."""
    told: bool = False
    """The caller was told that the outcome is unknown; only the sequence still wants the batch answered."""


@dataclass(slots=True)
class Step:
    """What to do now: ``send`` these, tell these callers their results, get new ``routes``."""

    send: list[Submit] = field(default_factory=list)
    results: list[tuple[Any, Acknowledged | RinglogError]] = field(default_factory=list)
    routes: bool = False


class Producer:
    """The producer ``name`` towards ``shard``. It sends only while it is connected to a leader."""

    def __init__(self, shard: str, name: str) -> None:
        self.shard = shard
        self.name = name
        self.producer_epoch = 0
        self.leader_epoch: int | None = None
        self._next = 0
        self._pending: deque[Batch] = deque()  # numbered, in order of their sequences
        self._waiting: deque[Batch] = deque()  # not numbered yet
        self._paused_until: float | None = None
        self._committed = 0  # how far the shard is known to be committed
        self._since = 0  # how far it was when this epoch began
        self._overload: Overloaded | None = None  # until it is over: something is acknowledged after the pause

    def __len__(self) -> int:
        return len(self._pending) + len(self._waiting)

    def submit(self, batch: Batch, now: float) -> Step:
        """Take one more batch."""
        self._waiting.append(batch)
        return Step(send=list(self._sendable(now)))

    def connected(self, leader_epoch: int, committed: int, now: float) -> Step:
        """There is a stream to the leader of ``leader_epoch``: send everything that is not acknowledged, again.

        ``committed`` is how far the shard is known to be committed.
        """
        self._lost()
        self._committed = committed
        self.leader_epoch = leader_epoch
        self._overload = self._paused_until = None
        return Step(send=list(self._sendable(now)))

    def disconnected(self) -> Step:
        """The stream is gone: what was on its way may have been stored."""
        self._lost()
        self.leader_epoch = None
        return Step(routes=True)

    def acknowledged(self, message: Acknowledged, now: float) -> Step:
        """A batch has its offsets."""
        batch = self._find(message)
        if batch is None:
            return Step()
        self._pending.remove(batch)
        if self._paused_until is None:
            self._overload = None
        step = Step(send=list(self._sendable(now)))
        if not batch.told:
            step.results.append((batch.caller, message))
        return step

    def declined(self, message: Declined, now: float) -> Step:
        """A batch was not taken; the reason says whether to wait, to look for the leader, or to begin anew."""
        batch = self._find(message)
        if batch is None or not batch.on_its_way:
            return Step()
        batch.on_its_way = False
        if message.reason in ("fenced", "unknown"):
            batch.doubtful |= message.reason == "unknown"
            self._lost()
            self.leader_epoch = None
            return Step(routes=True)
        if message.reason == "overloaded":
            self._overload = Overloaded(f"{message.message}; it is archiving as fast as it can", OVERLOAD_PAUSE_S * 4)
            self._pause(now + OVERLOAD_PAUSE_S)
            return Step()
        if message.reason == "expected" and message.sequence_expected >= self._pending[0].sequence:
            self._pause(now + GAP_PAUSE_S)  # one before it was declined: both go again
            return Step()
        if message.reason == "invalid":
            self._pending.remove(batch)
            step = self._renew(now)
            step.results.append((batch.caller, InvalidRecord(message.message)))
            return step
        # Not known any more: begin anew, from what the newest routes say is committed.
        self._lost()
        self.leader_epoch = None
        step = self._renew(now)
        step.routes = True
        return step

    def retired(self) -> tuple[Step, list[Batch]]:
        """The shard is no more. Whoever may be stored there is told so; the others are not, and may go elsewhere.

        Should it ever come back, this producer begins a new epoch there.
        """
        step = Step()
        elsewhere: list[Batch] = []
        self._lost()
        for batch in (*self._pending, *self._waiting):
            if batch.doubtful and not batch.told:
                step.results.append((batch.caller, self._unknown()))
            elif not batch.told:
                elsewhere.append(batch)
        self._pending.clear()
        self._waiting.clear()
        self.leader_epoch = None
        self.producer_epoch += 1
        self._next = 0
        return step, elsewhere

    def tick(self, now: float) -> Step:
        """Resume after a pause, and tell whoever has waited for too long."""
        step = Step()
        if self._paused_until is not None and self._paused_until <= now:
            self._paused_until = None
        clean = None
        for batch in self._pending:
            if batch.deadline > now:
                continue
            if not batch.on_its_way and not batch.doubtful:
                clean = batch
                break
            if not batch.told:  # the sequence must not be left out: it is tried on, for nobody
                batch.told = True
                step.results.append((batch.caller, self._unknown()))
        if clean is not None:
            self._give_up(clean, now, step)
        expired = [batch for batch in self._waiting if batch.deadline <= now]
        if expired:
            step.results.extend((batch.caller, self._reason()) for batch in expired)
            self._waiting = deque(batch for batch in self._waiting if batch.deadline > now)
        step.send.extend(self._sendable(now))
        return step

    def wake(self) -> float | None:
        """When `tick` has something to do."""
        times = [batch.deadline for batch in (*self._pending, *self._waiting) if not batch.told]
        if self._paused_until is not None:
            times.append(self._paused_until)
        return min(times, default=None)

    def _find(self, message: Acknowledged | Declined) -> Batch | None:
        if message.producer_epoch != self.producer_epoch or not self._pending:
            return None
        at = message.sequence - self._pending[0].sequence
        if 0 <= at < len(self._pending) and self._pending[at].sequence == message.sequence:
            return self._pending[at]
        return next((batch for batch in self._pending if batch.sequence == message.sequence), None)

    def _sendable(self, now: float) -> Iterator[Submit]:
        if self.leader_epoch is None or (self._paused_until is not None and self._paused_until > now):
            return
        while self._waiting and (not self._pending or self._next - self._pending[0].sequence < WINDOW):
            batch = self._waiting.popleft()
            if self._next == 0:
                self._since = self._committed
            batch.sequence = self._next
            self._next += 1
            self._pending.append(batch)
        for batch in self._pending:
            if not batch.on_its_way:
                batch.on_its_way = True
                yield Submit(
                    self.shard,
                    self.leader_epoch,
                    self.name,
                    self.producer_epoch,
                    batch.sequence,
                    self._since,
                    batch.records,
                    batch.acks,
                    batch.payload,
                )

    def _pause(self, until: float) -> None:
        self._paused_until = max(until, self._paused_until or until)

    def _lost(self) -> None:
        for batch in self._pending:
            batch.doubtful |= batch.on_its_way
            batch.on_its_way = False

    def _give_up(self, clean: Batch, now: float, step: Step) -> None:
        """``clean`` was surely not stored; so nothing with a later sequence was, and those may go under a new epoch."""
        if not clean.told:
            step.results.append((clean.caller, self._reason()))
        for batch in self._pending:
            if batch.sequence >= clean.sequence:
                batch.on_its_way = batch.doubtful = False
        self._pending.remove(clean)
        renewed = self._renew(now)
        step.results.extend(renewed.results)
        step.send.extend(renewed.send)

    def _renew(self, now: float) -> Step:
        """Begin a new epoch of this producer; whoever waits for what may be stored under the old one is told so."""
        step = Step()
        again: list[Batch] = []
        for batch in self._pending:
            if batch.told:
                continue
            if not batch.on_its_way and not batch.doubtful:
                again.append(batch)
            else:
                step.results.append((batch.caller, self._unknown()))
        self._pending = deque()
        self.producer_epoch += 1
        self._next = 0
        for batch in reversed(again):
            self._waiting.appendleft(batch)
        step.send.extend(self._sendable(now))
        return step

    def _reason(self) -> RinglogError:
        """Why a batch whose time is up could not be stored."""
        if self.leader_epoch is None:
            return Unavailable(
                f"{self.shard} has no leader that answers: look at `ringlog status`, and submit again later"
            )
        return self._overload or Unavailable(
            f"{self.shard} has not acknowledged the batches that were sent before these, and takes {WINDOW} at a time: "
            "submit again later"
        )

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{self.shard} did not say in time whether these records are stored. They may be: look with ringlog.sql() "
            "before submitting them again"
        )
