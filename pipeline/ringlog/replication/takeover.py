"""How the next epoch of a shard opens: claim, seal, read the table, fetch, join, open. The only way a leader begins.

Anyone may try at any time; the metadata store's compare-and-set lets one claim each epoch, and the promises of a
majority fence everybody else. Too few answers: the takeover stays where it is and says what it waits for; it never
guesses. Only where an operator has accepted the loss does it go on with fewer seals than it needs, and then it says so
in the log, by a gap record, and in the metadata store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from ringlog.replication import invariants
from ringlog.replication.dedup import PRODUCERS_MAX, ProducerTable
from ringlog.replication.messages import (
    Boundary,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Member,
    Producers,
    Reply,
    Seal,
    Sealed,
    ShardState,
)
from ringlog.replication.output import NOTHING, Output
from ringlog.replication.questions import CompareAndSet, Opened, ReadState, ReadStored, Standing, Stored, Unanswered
from ringlog.replication.quorum import agreement, best, seals_needed, trimmed_boundaries

RESEND_S = 1.0
"""How long an answer may take before the question is sent again."""
RESEND_LONG_S = (2.0, 8.0)
"""The same where a long tail is on its way, and takes its time: at first, and at most."""
GRACE_S = 0.15
"""How long a takeover that could go on waits for the members that have not answered yet."""
TABLE_S = 1.0
"""How long a takeover waits for the table, where the members' logs tell enough without it."""
LOSS_GRACE_S = 10.0
"""How long a takeover that may accept a loss waits for them."""
UNASKED_BYTES_MAX = 1024 * 1024
"""A tail of at most this much is sent to a member that was not asked yet what it holds of it."""
GAP_PRODUCER = "ringlog-gap"
"""Who writes gap records: a producer of its own for each epoch that begins with one."""


Phase = Literal["claim", "seal", "accept", "table", "verify", "fetch", "join", "open", "retire", "done", "lost"]


class Takeover:
    """A takeover of ``shard`` by the shard actor ``candidate``, whose own replica is ``own``.

    ``found`` is the shard's state in the metadata store with its version, None and 0 where there is none. ``wished``
    are the members that the new epoch should have, with the ids that their journals have now; ``nonce`` is unique to
    this try. When `phase` is ``done``, `opened` has the result, None where the shard is retired now; ``lost``: somebody
    else is ahead, stand down.

    ``decision`` counts the decisions about which shards there are, and is the one by which this one is wanted, or with
    ``retire`` is to be retired for good. Then the epoch does not open where the table holds all of the log: nobody ever
    leads it, and the former members serve none below it. Where it holds less, the epoch opens as any other, and its
    leader archives the rest. A decision that is no later than one by which the shard was retired before moves nothing.

    ``accept_loss``: an operator accepts that what only the members that do not answer hold is lost. That is decided in
    the metadata store before anything follows from it. Whichever takeover opens next owes the log a record that says
    so, at the offset from where on something may be missing; ``gap`` is its payload. ``producers_max``: how many
    producers a shard that begins now remembers.
    """

    def __init__(
        self,
        shard: str,
        candidate: str,
        own: str,
        found: ShardState | None,
        version: int,
        wished: Iterable[Member],
        quorum: int,
        nonce: str,
        gap: bytes,
        accept_loss: bool = False,
        producers_max: int = PRODUCERS_MAX,
        decision: int = 0,
        retire: bool = False,
    ) -> None:
        self.shard = shard
        self.candidate = candidate
        self.own = own
        self.wished = {member.id: member for member in wished}
        self.quorum = quorum
        self.nonce = nonce
        self.former = found.members if found else ()
        self.former_quorum = found.quorum if found else quorum
        self.accepted = found.accepted if found else 0
        self.gaps = found.gaps if found else ()
        self.retired = found.retired if found else 0
        self.ended = found.ended if found else 0
        self.epoch = found.epoch + 1 if found else 1
        self.phase: Phase = "claim"
        self.opened: Opened | None = None
        self._gap = gap
        self._accept_loss = accept_loss
        self._decision = decision
        self._retire = retire
        self._outdated = bool(found and (retire or found.state == "retired") and decision <= found.retired)
        self._version = version
        self._unanswered = ""
        self._sealed: dict[str, Sealed] = {}
        self._logs: dict[str, Sealed] = {}  # what is known of the members' logs, once it is known what they become
        self._joined: set[str] = set()
        self._stored = 0
        self._best: Sealed | None = None
        self._entries: tuple[Entry, ...] = ()
        self._boundaries: tuple[Boundary, ...] = ()
        self._producers: Producers = ProducerTable(producers_max).to_plain()
        self._producers_max = producers_max
        self._grace: float | None = None
        self._table_due = 0.0
        self._long_due = 0.0
        self._long_s = RESEND_LONG_S[0]

    def start(self, now: float) -> Output:
        """Claim the epoch."""
        if self._outdated:
            self.phase = "lost"
            return NOTHING
        return self._output((self._claim(),), now)

    def tick(self, now: float) -> Output:
        """Ask again whoever has not answered; go on without the stragglers when that is allowed."""
        if self.phase == "seal":
            if self._enough_sealed() and self._graced(now):
                return self._after_seals(now)
            return self._output(self._seals(), now)
        if self.phase == "join":
            if self._enough_joined() and self._graced(now):
                return self._open(now)
            return self._again(self._joins(), now) if self._long() else self._output(self._joins(), now)
        if self.phase == "fetch":
            return self._again(self._fetches(), now)
        if self.phase == "table":
            return self._wait_for_table(now)
        if not self._unanswered:
            return NOTHING  # the metadata store is asked by calls that always end
        self._unanswered = ""
        # Whether the claim or the open was carried out, only the store can say; an open is never walked away from.
        return self._output((ReadState(self.shard, self.nonce),), now)

    def waits_for(self) -> str:
        """What is missing, for status and alarms."""
        if self.phase == "seal":
            missing = [member.actor for member in self.former if member.id not in self._sealed]
            needed = seals_needed(len(self.former), self.former_quorum)
            return f"{len(self._sealed)} of {needed} needed seals; no answer from {', '.join(missing)}"
        if self.phase == "join":
            missing = [member.actor for id, member in self.wished.items() if id not in self._joined]
            return f"{len(self._joined)} of {self.quorum} needed members; no answer from {', '.join(missing)}"
        return f"{self.phase} {self._unanswered}".rstrip()

    def handle(self, message: Reply | Standing | Stored | Unanswered, now: float) -> Output:
        """What an answer makes of this takeover."""
        if self.phase in ("done", "lost"):
            return NOTHING
        if message.shard != self.shard:
            return NOTHING
        if isinstance(message, Standing | Stored | Unanswered):
            return self._took_answer(message, now) if message.nonce == self.nonce else NOTHING
        if isinstance(message, Fenced):
            if message.promised > self.epoch:
                self.phase = "lost"
            return NOTHING
        if message.epoch != self.epoch:
            return NOTHING
        if isinstance(message, Sealed):
            return self._took_seal(message, now) if self.phase == "seal" else self._took_late_seal(message, now)
        if isinstance(message, Entries) and self.phase == "fetch":
            return self._took_log(message, now)
        if isinstance(message, Joined) and self.phase == "join":
            return self._took_join(message, now)
        return NOTHING

    def _claim(self) -> CompareAndSet:
        state = ShardState(
            self.shard,
            self.epoch,
            "claimed",
            self.candidate,
            self.nonce,
            self.former,
            self.former_quorum,
            self.accepted,
            self.gaps,
            self.retired,
            self.ended,
        )
        return CompareAndSet(state, self._version)

    def _took_answer(self, message: Standing | Stored | Unanswered, now: float) -> Output:
        """Of the metadata store or the table, each of which is asked one thing at a time."""
        if isinstance(message, Unanswered):
            self._unanswered = f"({message.why or 'no answer'})"
            return self._output((), now)
        if isinstance(message, Stored):
            return self._took_version(message, now) if self.phase == "table" else NOTHING
        return self._took_state(message.state, message.version, now)

    def _took_state(self, state: ShardState | None, version: int, now: float) -> Output:
        """The nonce tells whose write stands there, also when the answer to our own was lost."""
        if self.phase not in ("claim", "accept", "verify", "open", "retire"):
            return NOTHING
        if state is None or state.nonce != self.nonce:
            self.phase = "lost"
            return NOTHING
        self._version = version
        if self.phase == "claim":
            return self._seal_former(now)
        if self.phase == "accept":
            return self._took_acceptance(state, now)
        if self.phase == "verify":
            return self._nobody_went_on()
        if state.state == "claimed":  # it did not arrive yet, and is not walked away from
            return self._output((self._opening() if self.phase == "open" else self._retiring(),), now)
        self.phase = "done"
        if state.state == "retired":
            return NOTHING
        self.opened = Opened(state, version, self._stored, self._entries, self._producers)
        return NOTHING

    def _nobody_went_on(self) -> Output:
        """And yet the table holds more than the members: that cannot be."""
        if self._best is None:
            known = "no member (if the folder `_ringlog` of the root was removed, put it back, or choose another root)"
            invariants.kept(f"{self.shard}, of which the metadata store knows {known},", self._stored, self.ended)
        else:
            invariants.in_order(self.shard, self._best.trimmed, self._stored, self._best.end)
        return NOTHING

    def _seal_former(self, now: float) -> Output:
        self.phase = "seal"
        self._grace = now + (LOSS_GRACE_S if self._accept_loss else GRACE_S)
        if not self.former:  # the first epoch, or it was retired: there is nothing to fence
            return self._read_table(now)
        return self._output(self._seals(), now)

    def _seals(self) -> tuple[Seal, ...]:
        return tuple(Seal(self.shard, member.id, self.epoch) for member in self.former if member.id not in self._sealed)

    def _took_seal(self, message: Sealed, now: float) -> Output:
        if message.id not in {member.id for member in self.former}:
            return NOTHING
        self._sealed[message.id] = message
        if len(self._sealed) == len(self.former) or (self._enough_sealed() and self._graced(now)):
            return self._after_seals(now)
        return self._output((), now)

    def _enough_sealed(self) -> bool:
        return self._accept_loss or not self._lossy()

    def _lossy(self) -> bool:
        """Whether something that was acknowledged may be held only by members that did not answer."""
        return len(self._sealed) < seals_needed(len(self.former), self.former_quorum)

    def _graced(self, now: float) -> bool:
        return self._grace is not None and self._grace <= now

    def _after_seals(self, now: float) -> Output:
        if not self._lossy():
            return self._read_table(now)
        self.phase = "accept"
        return self._output((self._accepting(),), now)

    def _accepting(self) -> CompareAndSet:
        """From here on the members are those that answered, and all of them are needed: the others are given up.

        It comes before everything that follows from it. Were a log made without the others first, and this takeover
        ended then, the others could go on and acknowledge more, and a later one prefer that log to theirs.
        """
        answered = tuple(member for member in self.former if member.id in self._sealed)
        state = replace(self._claim().state, members=answered, quorum=1, accepted=self.epoch)
        return CompareAndSet(state, self._version)

    def _took_acceptance(self, state: ShardState, now: float) -> Output:
        if state.accepted != self.epoch:  # it did not arrive yet
            return self._output((self._accepting(),), now)
        self.former, self.former_quorum, self.accepted = state.members, state.quorum, state.accepted
        return self._read_table(now)

    def _owes_gap(self) -> bool:
        """Whether a loss was accepted that no gap record tells of yet."""
        return self.accepted > max((epoch for epoch, _ in self.gaps), default=0)

    def _read_table(self, now: float) -> Output:
        """Only now: a version read before the seals could be overtaken by the old leader's archiver."""
        if self.phase != "table":
            self.phase, self._table_due = "table", now + TABLE_S
        fence = self.epoch if self._owes_gap() else None
        return self._output((ReadStored(self.shard, self.nonce, fence),), now)

    def _wait_for_table(self, now: float) -> Output:
        """Not for long where the logs tell enough: it holds at least what any member has trimmed.

        The archiver will look where it ends.
        """
        if now >= self._table_due and self._sealed and not self._owes_gap() and not self._retire:
            known = max(log.trimmed for log in self._sealed.values())
            return self._took_version(Stored(self.shard, self.nonce, known), now)
        if self._unanswered:
            self._unanswered = ""
            return self._read_table(now)
        return Output(deadline=self._table_due) if now < self._table_due else NOTHING

    def _took_version(self, message: Stored, now: float) -> Output:
        self._stored = message.end
        if self._owes_gap() and all(log.end < self._stored for log in self._sealed.values()):
            # Nobody that answered knows the producers as of the table's end: none of them is recognised any more.
            self._producers = ProducerTable(self._producers_max, self._stored).to_plain()
            return self._join_all(now)
        own_first = sorted(self._sealed.values(), key=lambda log: log.id != self.own)
        self._best = best(own_first) if own_first else None  # of equals one's own, which travels nowhere
        if self._stored > (self._best.end if self._best else self.ended):
            # A later epoch has opened and archived, and this one is lost; or else what the members held is.
            self.phase = "verify"
            return self._output((ReadState(self.shard, self.nonce),), now)
        if self._best is None:
            invariants.in_order(self.shard, self.ended, self._stored, self._stored)
        else:
            invariants.in_order(self.shard, self._best.trimmed, self._stored, self._best.end)
        if self._retire and not self._owes_gap() and (self._best is None or self._best.end == self._stored):
            self.phase = "retire"
            return self._output((self._retiring(),), now)
        if self._best is None:  # the first epoch; or nobody knows any more who wrote what lies below
            self._producers = ProducerTable(self._producers_max, self._stored).to_plain()
            return self._join_all(now)
        self.phase = "fetch"
        return self._again(self._fetches(), now)

    def _fetches(self) -> tuple[Fetch, ...]:
        return (Fetch(self.shard, self._best.id, self.epoch, self._stored),) if self._best else ()

    def _took_log(self, message: Entries, now: float) -> Output:
        if self._best is None or message.start != self._stored:
            return NOTHING
        broken = next((entry for entry in message.entries if not entry.intact()), None)
        invariants.kept(f"an entry of {self.shard}", None, broken)
        self._entries = message.entries
        self._producers = message.producers
        self._boundaries = trimmed_boundaries(self._best.boundaries, self._stored)
        # One that ended before it opened may have left a gap record in the log, but no word in the metadata.
        left = ((entry.epoch, entry.start) for entry in self._entries if entry.producer == _gap_producer(entry.epoch))
        self.gaps = tuple(sorted({*self.gaps, *left}))
        return self._join_all(now)

    def _join_all(self, now: float) -> Output:
        self.phase, self._long_due, self._long_s = "join", now + RESEND_S, RESEND_LONG_S[0]
        self._logs = dict(self._sealed)
        self._grace = now + GRACE_S
        end = self._entries[-1].end if self._entries else self._stored
        self._boundaries = (*self._boundaries, (self.epoch, end))
        if self._owes_gap():
            self.gaps = (*self.gaps, (self.epoch, end))
            gap = Entry.make(self.epoch, end, end + 1, _gap_producer(self.epoch), 0, 0, self._gap)
            self._entries = (*self._entries, gap)
        return self._output(self._joins(), now)

    def _long(self) -> bool:
        """Whether the tail is too long to be sent twice without need."""
        return sum(len(entry.payload) for entry in self._entries) > UNASKED_BYTES_MAX

    def _joins(self) -> tuple[Join | Seal, ...]:
        """A member whose log is not known is asked for it first where the tail is long: it may hold most of it."""
        long = self._long()
        lacking = [id for id in self.wished if id not in self._joined]
        return tuple(
            Seal(self.shard, id, self.epoch) if long and id not in self._logs else self._join(id) for id in lacking
        )

    def _took_late_seal(self, message: Sealed, now: float) -> Output:
        """Of a member that was not asked when the former ones were sealed, or answers only now: it counts for nothing
        but what it needs to join.
        """
        if self.phase != "join" or message.id not in self.wished or message.id in self._logs:
            return NOTHING
        self._logs[message.id] = message
        return self._output((self._join(message.id),), now)

    def _join(self, id: str) -> Join:
        start = self._agreed(self._logs.get(id))
        return Join(
            self.shard,
            id,
            self.epoch,
            self._stored,
            start,
            self._boundaries,
            tuple(entry for entry in self._entries if entry.start >= start),
            self._producers,
        )

    def _agreed(self, log: Sealed | None) -> int:
        """From where a member needs the tail: everything, unless its sealed log already agrees up to some point."""
        if log is None or not log.boundaries or self._best is None or log.trimmed > self._stored:
            return self._stored
        agreed = agreement(log.boundaries, log.end, self._best.boundaries, self._best.end)
        return max(agreed or 0, self._stored)

    def _took_join(self, message: Joined, now: float) -> Output:
        if message.id not in self.wished:
            return NOTHING
        self._joined.add(message.id)
        if self._enough_joined() and (len(self._joined) == len(self.wished) or self._graced(now)):
            return self._open(now)
        return self._output((), now)

    def _enough_joined(self) -> bool:
        return len(self._joined) >= self.quorum and self.own in self._joined

    def _open(self, now: float) -> Output:
        self.phase = "open"
        return self._output((self._opening(),), now)

    def _opening(self) -> CompareAndSet:
        members = tuple(member for id, member in self.wished.items() if id in self._joined)
        claimed = self._claim().state
        state = replace(claimed, state="open", members=members, quorum=self.quorum)
        return CompareAndSet(state, self._version)

    def _retiring(self) -> CompareAndSet:
        """From here on nobody counts on any member: the table holds all of it."""
        state = replace(self._claim().state, state="retired", members=(), retired=self._decision, ended=self._stored)
        return CompareAndSet(state, self._version)

    def _again(self, send: tuple[Any, ...], now: float) -> Output:
        """Ask again what takes long to answer, ever more rarely: not while the first answer is still on its way."""
        if now < self._long_due:
            return Output(deadline=self._long_due)
        self._long_due = now + self._long_s
        self._long_s = min(2 * self._long_s, RESEND_LONG_S[1])
        return Output(send=send, deadline=self._long_due)

    def _output(self, send: tuple[Any, ...], now: float) -> Output:
        waiting = RESEND_S
        if self.phase in ("seal", "join") and self._grace is not None and now < self._grace:
            waiting = self._grace - now
        return Output(send=send, deadline=now + waiting)


def _gap_producer(epoch: int) -> str:
    return f"{GAP_PRODUCER}-{epoch}"
