"""Which sequences of which producers a log holds, so that a retry is recognised. A pure function of the log.

A shard remembers a bounded number of producers. So that a forgotten one is never taken for a new one, an append says
``since``: how far the shard was committed before its producer's epoch began, so that nothing of it lies below. A
producer that the table does not know is new only when nothing was forgotten from there on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from ringlog.replication import invariants
from ringlog.replication.messages import Entry, Producers

WINDOW = 64
"""How many of a producer's last sequences are known by their offsets: as many as may be in flight."""
PRODUCERS_MAX = 4096
"""How many producers a shard remembers; the one that has been silent for most records goes first."""


@dataclass(frozen=True, slots=True)
class New:
    """The sequence follows the last one: append it."""


@dataclass(frozen=True, slots=True)
class Known:
    """The sequence is in the log at ``[start, end)``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expected:
    """The sequence is not the next one: ``sequence`` would be."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """Too old, or of a producer that is no longer remembered: whether it is in the log cannot be said."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """The producer has begun a newer epoch of its own."""

    producer_epoch: int


Verdict = New | Known | Expected | Evicted | Superseded


class _Producer:
    __slots__ = ("epoch", "recent")

    def __init__(self, epoch: int, recent: Iterable[tuple[int, int, int]] = ()) -> None:
        self.epoch = epoch
        self.recent: deque[tuple[int, int, int]] = deque(recent, maxlen=WINDOW)


class ProducerTable:
    """The last `WINDOW` sequences of up to ``producers_max`` producers, as of one offset of the log.

    ``forgotten``: no producer that is not in the table has an entry at or above this offset.
    """

    def __init__(self, producers_max: int = PRODUCERS_MAX, forgotten: int = 0) -> None:
        self.producers_max = producers_max
        self.forgotten = forgotten
        self._producers: OrderedDict[str, _Producer] = OrderedDict()

    def check(self, producer: str, producer_epoch: int, sequence: int, since: int) -> Verdict:
        """What an append with this sequence is. Sequences begin at 0 in each epoch of a producer.

        ``since`` is how far the shard was committed before that epoch of the producer began.
        """
        known = self._producers.get(producer)
        if known is None:
            return New() if sequence == 0 and since >= self.forgotten else Evicted()
        if producer_epoch < known.epoch:
            return Superseded(known.epoch)
        if producer_epoch > known.epoch:
            return New() if sequence == 0 else Expected(0)
        last = known.recent[-1][0]
        if sequence == last + 1:
            return New()
        if sequence > last:
            return Expected(last + 1)
        oldest = known.recent[0][0]
        if sequence < oldest:
            return Evicted()
        _, start, end = known.recent[sequence - oldest]
        return Known(start, end)

    def apply(self, entry: Entry) -> None:
        """The log now also holds ``entry``. Raises `Violation` of SL-4 where it holds that sequence already."""
        verdict = self.check(entry.producer, entry.producer_epoch, entry.sequence, self.forgotten)
        invariants.new_sequence(entry.producer, entry.sequence, isinstance(verdict, New), verdict)
        known = self._producers.get(entry.producer)
        if known is None or known.epoch != entry.producer_epoch:
            known = self._producers[entry.producer] = _Producer(entry.producer_epoch)
        known.recent.append((entry.sequence, entry.start, entry.end))
        self._producers.move_to_end(entry.producer)
        if len(self._producers) > self.producers_max:
            _, evicted = self._producers.popitem(last=False)
            self.forgotten = evicted.recent[-1][2]  # the oldest position goes first, so this never falls

    def advanced(self, entries: Iterable[Entry]) -> ProducerTable:
        """A copy that also knows ``entries``."""
        copy = ProducerTable(self.producers_max, self.forgotten)
        for name, known in self._producers.items():
            copy._producers[name] = _Producer(known.epoch, known.recent)
        for entry in entries:
            copy.apply(entry)
        return copy

    def to_plain(self) -> Producers:
        """Plain values, oldest position first."""
        known = {name: [one.epoch, [list(seen) for seen in one.recent]] for name, one in self._producers.items()}
        return {"producers_max": self.producers_max, "forgotten": self.forgotten, "known": known}

    @classmethod
    def from_plain(cls, plain: Producers) -> ProducerTable:
        """The table that `to_plain` described."""
        table = cls(plain["producers_max"], plain["forgotten"])
        for name, (epoch, recent) in plain["known"].items():
            table._producers[name] = _Producer(epoch, ((sequence, start, end) for sequence, start, end in recent))
        return table

    def __len__(self) -> int:
        return len(self._producers)

    def __eq__(self, other: object) -> bool:
        # The order of eviction is part of what a table is, and dicts that compare equal may differ in it.
        return isinstance(other, ProducerTable) and repr(self.to_plain()) == repr(other.to_plain())

    __hash__ = None  # type: ignore[assignment]


NO_PRODUCERS = ProducerTable().to_plain()
"""What an empty log knows of producers."""
