"""Shard actors and controllers: the real cores, driven by simulated events. The counterpart of ``actors/shard.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from ringlog.replication import (
    Accepted,
    Answer,
    CompareAndSet,
    Leader,
    Leads,
    Member,
    NotLeading,
    Outpaced,
    Output,
    Participant,
    ReadState,
    ReadStored,
    ReplicaState,
    Retired,
    Standing,
    Stored,
    Submit,
    Unanswered,
    outcome,
    to_archive,
)
from ringlog.simulation.checker import Checker
from ringlog.simulation.disk import SYNC_S, Disk
from ringlog.simulation.faults import Hits
from ringlog.simulation.loop import Loop
from ringlog.simulation.network import Network
from ringlog.simulation.stores import Metadata, Piece, Table, TableVersion

RESTART_S = (0.3, 3.0, 20.0)
FLUSH_S = (1.0, 6.0)
COMMITS_MAX = 3
SPEEDS = (0.5, 2.0)
GAP = b"records may be missing here: an operator accepted the loss"


class Decisions:
    """Which shards there should be: decided one after the other, as by the versions of a pipeline's record."""

    def __init__(self, shards: Sequence[str]) -> None:
        self.version = 1
        self.wanted = dict.fromkeys(shards, 1)
        """By which decision each shard was wanted last."""
        self.unwanted: dict[str, int] = {}
        """By which decision each of those that should be retired was."""

    def decide(self, shard: str, wanted: bool) -> None:
        """From now on, it is wanted or not."""
        self.version += 1
        if wanted:
            self.wanted[shard] = self.version
            self.unwanted.pop(shard, None)
        else:
            self.unwanted[shard] = self.version


@dataclass
class World:
    """What everybody in a simulation shares."""

    loop: Loop
    hits: Hits
    checker: Checker
    network: Network
    metadata: Metadata
    table: Table
    shards: tuple[str, ...]
    actors: dict[str, Actor]
    replicas: int
    quorum: int
    fsync: str
    buffer_bytes_max: int
    producers_max: int
    flush_bytes: int
    numbers: Random
    """Not for chance: makes ids."""
    decisions: Decisions

    def unique(self, prefix: str) -> str:
        """A name that nothing else has."""
        return f"{prefix}.{self.numbers.getrandbits(32):08x}"

    def actor_of(self, id: str) -> str:
        """The actor on which a replica lives: its id begins with the name."""
        return id.split(":", 1)[0]


class Actor:
    """One shard actor process on a node of its own. It dies, stops, and comes back with what its disks hold."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.up = True
        self.paused = False
        self.full = False
        self.slow_s = 0.0
        self.ends_in_write: Callable[[], bool] | None = None
        """Its power is cut while it writes the next time, if that may be then."""
        self.clock = (1.0, 0.0)
        self.incarnation = 0
        self.participants: dict[str, Participant] = {}
        self.disks: dict[str, Disk] = {}
        self._same_boot = True
        self._backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._deadlines: dict[str, float] = {}
        self._flushing = False

    def __str__(self) -> str:
        return self.name

    def now(self) -> float:
        """The time as this node's clock shows it."""
        speed, offset = self.clock
        return self.world.loop.now * speed + offset

    def begin(self) -> None:
        """The process begins with what its disks hold."""
        self.up, self.paused = True, False
        self.incarnation += 1
        self._backlog.clear()
        self._deadlines.clear()
        self._flushing = False
        self.participants = {}
        for shard, disk in self.disks.items():
            state = disk.reopened(self._same_boot, partial(self._new_id, shard))
            self.participants[shard] = self._participant(state)
        self._same_boot = True
        self._flush_later()

    def crash(self, *, power: bool = False) -> None:
        """The process ends; with ``power``, its kernel too. It comes back by itself."""
        if not self.up:
            return
        self.up = False
        self.incarnation += 1
        self._same_boot = not power
        for disk in self.disks.values():
            disk.killed()
            if power:
                disk.power_cut()
        draw = self.world.loop.draw
        self.world.loop.after(draw.choice(RESTART_S) * draw.random(), f"{self.name} restarts", self.restart)

    def restart(self) -> None:
        """Begin again, unless there is no room on the disk for as much as that."""
        if self.up:
            return
        if self.full:
            self.world.loop.after(RESTART_S[1], f"{self.name} restarts", self.restart)
            return
        self.begin()

    def wipe(self) -> None:
        """All its journals are gone."""
        for disk in self.disks.values():
            self.world.checker.lost(disk.synced.id)
        self.disks.clear()

    def forget(self, shard: str, epoch: int) -> None:
        """Remove its journal of ``shard``, on which nobody counts since ``epoch`` began, as somebody believes."""
        one = self.participants.get(shard)
        if one is None or one.leader or one.takeover or one.replica.promised > epoch or not self.disks[shard].at_rest:
            return
        self.world.checker.counts["forgotten"] += 1
        self.world.checker.lost(one.replica.id)
        del self.participants[shard], self.disks[shard]
        self._deadlines.pop(shard, None)

    def pause(self, seconds: float) -> None:
        """Stop for a while; what arrives meanwhile is seen afterwards."""
        if self.up and not self.paused:
            self.paused = True
            self.world.loop.after(seconds, f"{self.name} goes on", self._resume, self.incarnation)

    def participant(self, shard: str) -> Participant:
        """Its part in ``shard``; a journal is made where there is none."""
        if shard not in self.participants:
            state = ReplicaState(shard, self._new_id(shard))
            self.disks[shard] = Disk(self.world.loop, self.world.hits, self.world.checker, state, self.world.fsync)
            self.participants[shard] = self._participant(state)
        return self.participants[shard]

    def status(self) -> dict[str, Any]:
        """As the actors tell it."""
        leading = {
            shard: {
                "epoch": one.leader.epoch,
                "committed": one.leader.committed,
                "members": {member.actor: {"id": member.id} for member in one.leader.members},
            }
            for shard, one in self.participants.items()
            if one.leader is not None
        }
        keeping = {
            shard: {"id": one.replica.id, "promised": one.replica.promised, "log_epoch": one.replica.log_epoch}
            for shard, one in self.participants.items()
        }
        return {"leading": leading, "keeping": keeping}

    def here(self, event: Callable[..., None], *arguments: Any) -> None:
        """Let ``event`` happen in this process: not at all when it is down, later when it is stopped."""
        if not self.up:
            return
        if self.paused:
            self._backlog.append((event, arguments))
        else:
            event(*arguments)

    def later(self, delay_s: float, what: str, event: Callable[..., None], *arguments: Any) -> None:
        """Let ``event`` happen in this process, unless it has ended by then."""
        self.world.loop.after(delay_s, what, self._same_process, self.incarnation, event, *arguments)

    def take_over(
        self,
        shard: str,
        wished: Sequence[Member],
        caller: Callable[[Leads | Retired | Outpaced], None],
        accept_loss: bool = False,
        decision: int | None = None,
        retire: bool = False,
    ) -> None:
        """Read the shard's state and try to lead it, or to retire it; by the newest decision, unless told otherwise."""
        by = self.world.decisions.wanted[shard] if decision is None else decision

        def begin(found: Any) -> None:
            if found is None:
                caller(Outpaced(0))
                return
            state, version = found
            nonce = self.world.unique(self.name)
            quorum, now = self.world.quorum, self.now()
            self.drive(
                shard,
                lambda one: one.take_over(
                    caller, state, version, wished, quorum, nonce, now, GAP, accept_loss, by, retire
                ),
            )

        self.participant(shard)
        self.world.metadata.read(shard, self._answerer(begin))

    def submit(self, submit: Submit, answer: Callable[[Answer], None]) -> None:
        """A producer's batch."""

        def check(result: Answer) -> None:
            if isinstance(result, Accepted) and submit.acks == "leader":
                on_disk = self.disks[submit.shard].written
                self.world.checker.on_leaders_disk(on_disk, submit.payload, result.start, result.end)
            answer(result)

        if submit.shard not in self.participants:
            answer(NotLeading(0))
            return
        self.drive(submit.shard, lambda one: one.append(check, submit, self.now()))

    def read(self, shard: str, answer: Callable[[Answer], None]) -> None:
        """A reader asks for the unflushed part."""
        if shard not in self.participants:
            answer(NotLeading(0))
            return
        self.drive(shard, lambda one: one.read(answer, self.now()))

    def drive(self, shard: str, event: Callable[[Participant], Output]) -> None:
        """Let ``event`` happen to the part in ``shard``, look at what came of it, and carry it out."""
        if not self.up or shard not in self.participants:  # it ended, or has forgotten that shard, a moment ago
            return
        participant = self.participants[shard]
        before = participant.leader
        committed = before.committed if before else 0
        output = event(participant)
        self._observe(participant, before, committed)
        for message in output.send:
            self._send(shard, message)
        self._wake_at(shard, output.deadline)
        for caller, answer in output.reply:
            caller(answer)

    def _observe(self, participant: Participant, before: Leader | None, committed: int) -> None:
        leader = participant.leader
        if leader is not before:
            if leader is not None:
                self.world.loop.note(f"{self.name} leads {leader.shard} in epoch {leader.epoch} from {leader.end} on")
                self.world.checker.opened(leader)
        elif leader is not None and leader.committed > committed:
            self.world.checker.committed(leader, committed)

    def _send(self, shard: str, message: Any) -> None:
        if isinstance(message, CompareAndSet):
            nonce = message.state.nonce
            self.world.metadata.compare_and_set(message, self._answerer(partial(self._standing, shard, nonce)))
        elif isinstance(message, ReadState):
            self.world.metadata.read(shard, self._answerer(partial(self._standing, shard, message.nonce)))
        elif isinstance(message, ReadStored):
            answer = self._answerer(partial(self._stored, shard, message.nonce))
            if message.fence is None:
                self.world.table.snapshot(answer)
            else:
                self.world.table.fence(shard, message.fence, answer)
        else:
            target = self.world.actors[self.world.actor_of(message.receiver)]
            if target is self:
                self._request(message, self)
            else:
                self.world.network.send(
                    self.name, target.name, _told(message), target.here, target._request, message, self
                )

    def _request(self, message: Any, sender: Actor) -> None:
        """A message to the replica here, whose answers go to ``sender``."""
        shard = message.shard
        if not self.up or shard not in self.participants:
            return
        participant = self.participants[shard]
        before = participant.leader
        output = participant.request(message)
        self._observe(participant, before, before.committed if before else 0)
        if output:
            disk = self.disks[shard]
            disk.slow_s = self.slow_s
            deliver = partial(self._deliver, sender)
            disk.apply(output, deliver, self.later, lambda: self.full, partial(self._disk_failed, shard))
            if self.ends_in_write and disk.unsynced:
                self.later(SYNC_S[0] * self.world.loop.draw.random(), f"{self.name} has no power", self._power_cut)

    def _deliver(self, sender: Actor, output: Output) -> None:
        for message in output.send:
            self.world.checker.speaks(message.id)
            if sender is self:
                self.later(0.0, _told(message), self._answer, message)
            else:
                self.world.network.send(self.name, sender.name, _told(message), sender.here, sender._answer, message)
        for caller, answer in output.reply:
            caller(answer)

    def _answer(self, message: Any) -> None:
        if message.shard in self.participants:
            self.drive(message.shard, lambda one: one.answer(message, self.now()))

    def _standing(self, shard: str, nonce: str, found: Any) -> None:
        self._answer(Unanswered(shard, nonce) if found is None else Standing(shard, nonce, *found))

    def _stored(self, shard: str, nonce: str, version: TableVersion | None) -> None:
        if version is None:
            self._answer(Unanswered(shard, nonce))
        else:
            self._answer(Stored(shard, nonce, version.stored.get(shard, 0)))

    def _answerer(self, event: Callable[[Any], None]) -> Callable[[Any], None]:
        """``event`` in this process, if it is still the same one by then."""
        incarnation = self.incarnation
        return lambda found: self._same_process(incarnation, event, found)

    def _same_process(self, incarnation: int, event: Callable[..., None], *arguments: Any) -> None:
        if incarnation == self.incarnation:
            self.here(event, *arguments)

    def _resume(self, incarnation: int) -> None:
        if incarnation != self.incarnation:
            return
        self.world.hits.hit("pause")
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for event, arguments in backlog:
            self.here(event, *arguments)

    def _wake_at(self, shard: str, deadline: float | None) -> None:
        if deadline is None or deadline >= self._deadlines.get(shard, float("inf")):
            return
        self._deadlines[shard] = deadline
        speed, _ = self.clock
        self.later(
            max(0.0, deadline - self.now()) / speed + 1e-6, f"{self.name} ticks {shard}", self._tick, shard, deadline
        )

    def _tick(self, shard: str, deadline: float) -> None:
        if self._deadlines.get(shard) == deadline:
            del self._deadlines[shard]
            self.drive(shard, lambda one: one.tick(self.now()))

    def _power_cut(self) -> None:
        if self.ends_in_write is not None and self.ends_in_write():
            self.world.hits.hit("power cut")
            self.crash(power=True)
        self.ends_in_write = None

    def _disk_failed(self, shard: str) -> None:
        self.world.loop.note(f"{self.name} ends: a write to the journal of {shard} failed")
        self.crash()

    def _participant(self, state: ReplicaState) -> Participant:
        return Participant(self.name, state, self.world.buffer_bytes_max, self.world.producers_max)

    def _new_id(self, shard: str) -> str:
        return f"{self.name}:{self.world.unique(shard)}"

    # The archiver.

    def _flush_later(self) -> None:
        self.later(self.world.loop.draw.uniform(*FLUSH_S), f"{self.name} looks what to archive", self.flush)

    def flush(self) -> None:
        """Archive what its leaders have committed: see ``actors/archiver.py``."""
        if self._flushing:
            return
        self._flushing = True
        self.world.table.snapshot(self._answerer(self._commit_due))

    def _commit_due(self, version: TableVersion | None) -> None:
        if version is None:
            self._flushed()
            return
        pieces = []
        for shard, participant in self.participants.items():
            leader = participant.leader
            if leader is None or leader.committed == leader.trimmed:
                continue
            entries = to_archive(
                shard,
                leader.epoch,
                leader.committed_from(leader.trimmed),
                leader.trimmed,
                leader.committed,
                version.stored.get(shard, 0),
                version.fences.get(shard, 0),
                self.world.flush_bytes,
            )
            if entries:
                pieces.append(Piece(shard, entries))
            else:
                self._is_stored(version, shard)
        if pieces:
            self._commit(version, pieces, COMMITS_MAX)
        else:
            self._flushed()

    def _commit(self, version: TableVersion, pieces: list[Piece], tries: int) -> None:
        self.world.table.commit(version, pieces, self._answerer(partial(self._committed, version, pieces, tries)))

    def _committed(self, base: TableVersion, pieces: list[Piece], tries: int, accepted: bool | None) -> None:
        self.world.table.snapshot(self._answerer(partial(self._read_back, base, pieces, tries, accepted is True)))

    def _read_back(
        self, base: TableVersion, pieces: list[Piece], tries: int, accepted: bool, version: TableVersion | None
    ) -> None:
        if version is None:
            self._flushed()
            return
        again = []
        for piece in pieces:
            stored = version.stored.get(piece.shard, 0)
            fenced = version.fences.get(piece.shard, 0) > base.fences.get(piece.shard, 0)
            became = outcome(piece.shard, piece.entries[0].start, piece.entries[-1].end, stored, fenced, accepted)
            if became == "again":
                again.append(piece)
            else:
                self._is_stored(version, piece.shard)
        if again and tries > 1:
            self._commit(version, again, tries - 1)
        else:
            self._flushed()

    def _is_stored(self, version: TableVersion, shard: str) -> None:
        stored, fence = version.stored.get(shard, 0), version.fences.get(shard, 0)
        self.drive(shard, lambda one: one.stored(stored, fence))

    def _flushed(self) -> None:
        self._flushing = False
        self._flush_later()


def places(world: World, shard: str, actors: Iterable[str]) -> list[Member]:
    """The members that ``actors`` have for ``shard`` now; their journals are made where there are none."""
    return [
        Member(actor.participant(shard).replica.id, actor.name) for name in actors if (actor := world.actors[name]).up
    ]


def _told(message: Any) -> str:
    return type(message).__name__
