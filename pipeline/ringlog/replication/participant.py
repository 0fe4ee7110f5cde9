"""One shard's part in one shard actor: a replica, and the leader or the takeover that may run beside it.

Here stands what the three owe one another. Whoever hosts it brings events and the time and carries out what comes back:
the output of `request` waits for the disk, every other output may leave at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringlog.replication.dedup import PRODUCERS_MAX
from ringlog.replication.leader import Leader
from ringlog.replication.messages import Member, Reply, Request, ShardState, Submit
from ringlog.replication.output import NOTHING, Leads, NotLeading, Outpaced, Output, Retired
from ringlog.replication.questions import Standing, Stored, Unanswered
from ringlog.replication.replica import Replica, ReplicaState
from ringlog.replication.takeover import Takeover


class Participant:
    """The part of ``actor`` in the shard of ``state``, which is what its journal holds.

    ``buffer_bytes_max`` bounds the payloads that a leader here holds and the table does not have yet;
    ``producers_max``, how many producers the shard remembers, if it begins here.
    """

    def __init__(
        self, actor: str, state: ReplicaState, buffer_bytes_max: int, producers_max: int = PRODUCERS_MAX
    ) -> None:
        self.actor = actor
        self.shard = state.shard
        self.replica = Replica(state)
        self.leader: Leader | None = None
        self.takeover: Takeover | None = None
        self._asked_for: Any = None  # who waits for the takeover
        self._buffer_bytes_max = buffer_bytes_max
        self._producers_max = producers_max

    def request(self, message: Request) -> Output:
        """A message to the replica. Nothing of the output, replies included, may leave before its ``store`` is durable.

        Any message of a higher epoch first ends what leads, or tries to, in this process.
        """
        if message.receiver != self.replica.id:
            return NOTHING
        ended = NOTHING
        if self.leader is not None and message.epoch > self.leader.epoch:
            ended = self._after_leader(self.leader.depose(message.epoch))
        if self.takeover is not None and message.epoch > self.takeover.epoch:
            ended += self._end_takeover()
        return ended + self.replica.handle(message)

    def answer(self, message: Reply | Standing | Stored | Unanswered, now: float) -> Output:
        """An answer of a replica, the metadata store or the table."""
        output = NOTHING
        if self.takeover is not None:
            output = self._after_takeover(self.takeover.handle(message, now))
        if self.leader is not None and not isinstance(message, Standing | Stored | Unanswered):
            output += self._after_leader(self.leader.handle(message, now))
        return output

    def take_over(
        self,
        caller: Any,
        found: ShardState | None,
        version: int,
        wished: Iterable[Member],
        quorum: int,
        nonce: str,
        now: float,
        gap: bytes,
        accept_loss: bool = False,
        decision: int = 0,
        retire: bool = False,
    ) -> Output:
        """Try to lead the shard, or to retire it; ``caller`` hears `Leads`, `Retired` or `Outpaced`. See `Takeover`.

        A try that is under way gives way to this one, unless it is about to open, or to retire: that is never walked
        away from.
        """
        if self.takeover is not None and self.takeover.phase in ("open", "retire"):
            return Output(reply=((caller, Outpaced(self.takeover.epoch)),))
        ended = self._end_takeover()
        self._asked_for = caller
        self.takeover = Takeover(
            self.shard,
            self.actor,
            self.replica.id,
            found,
            version,
            wished,
            quorum,
            nonce,
            gap,
            accept_loss,
            self._producers_max,
            decision,
            retire,
        )
        return ended + self._after_takeover(self.takeover.start(now))

    def append(self, caller: Any, submit: Submit, now: float) -> Output:
        """Append one batch, addressed to the leader of its epoch. See `Leader.append`."""
        if self.leader is None or self.leader.epoch != submit.epoch:
            return Output(reply=((caller, self._not_leading()),))
        return self.leader.append(caller, submit, now)

    def read(self, caller: Any, now: float) -> Output:
        """Give ``caller`` the unflushed part, confirmed."""
        if self.leader is None:
            return Output(reply=((caller, self._not_leading()),))
        return self.leader.read(caller, now)

    def stored(self, end: int, fence: int) -> Output:
        """The table was read: it holds ``[0, end)``, and is closed to leaders of epochs below ``fence``."""
        if self.leader is None:
            return NOTHING
        over = fence > self.leader.epoch
        return self._after_leader(self.leader.depose(fence) if over else self.leader.trim(end))

    def tick(self, now: float) -> Output:
        """A deadline has passed."""
        output = NOTHING
        if self.takeover is not None:
            output = self._after_takeover(self.takeover.tick(now))
        if self.leader is not None:
            output += self.leader.tick(now)
        return output

    def _not_leading(self) -> NotLeading:
        return NotLeading(self.leader.epoch if self.leader is not None else 0)

    def _after_leader(self, output: Output) -> Output:
        if self.leader is not None and self.leader.deposed_by is not None:
            self.leader = None
        return output

    def _after_takeover(self, output: Output) -> Output:
        """When a takeover has opened, its leader begins."""
        takeover = self.takeover
        if takeover is None or takeover.phase not in ("done", "lost"):
            return output
        if takeover.phase == "lost":
            return output + self._end_takeover()
        if takeover.opened is None:
            output += Output(reply=((self._asked_for, Retired(takeover.epoch)),))
            self.takeover, self._asked_for = None, None
            return output
        opened = takeover.opened
        output += Output(reply=((self._asked_for, Leads(takeover.epoch)),))
        self.takeover, self._asked_for = None, None
        # A former leader here is over: this epoch's join reached the replica beside it first.
        self.leader = Leader(
            self.shard,
            takeover.epoch,
            opened.state.members,
            opened.state.quorum,
            takeover.own,
            opened.trimmed,
            opened.entries,
            opened.producers,
            self._buffer_bytes_max,
        )
        return output

    def _end_takeover(self) -> Output:
        if self.takeover is None:
            return NOTHING
        ended = Output(reply=((self._asked_for, Outpaced(self.takeover.epoch)),))
        self.takeover, self._asked_for = None, None
        return ended
