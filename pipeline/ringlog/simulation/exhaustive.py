"""Every interleaving of a small case: three members, few epochs, few entries, a lost disk, and the real objects.

``python -m ringlog.simulation.exhaustive`` explores breadth first, from an epoch 1 that is open at ``x``, so that the
path to a violation that it prints is a shortest one. Participants are the real ones; what stands here besides is the
world around them: messages in flight, the metadata store, the table, and what was ever committed.

A state is four numbers: for each actor that of its participant with its inbox, and that of the world. A participant is
numbered by its pickle, so that nothing of it can be forgotten; each (participant, event) is tried out once.

What is left out, and why nothing is lost by it:

- Requests are never lost and may come again, in any order: one that never comes is one that is never delivered. It
  leaves the inbox when the participant, asked, stays as it is, and must do so for ever: its epoch is below the promise,
  its receiver is gone, or it is an Append or a Trim of the log's own epoch (``end`` and ``trimmed`` only grow).
- An answer is heard as soon as it is given. All that it does is to let its asker go on, and none has to go on; what a
  replica does between its answer and the hearing, it can do later as well. Hence `Fenced` is not explored: an asker
  that is ended does nothing that one whom no answer reaches does not do, either.
- Whoever leads is overdue at once, so whatever it could ever send is in flight. Only a takeover's grace is an event.
- A claim is carried out when it is made; its answer is lost and asked for again. One that is carried out late is one
  that is made late, and one that fails leads to nothing. Opens are in flight, and so are commits of the table.
- ``z`` begins no takeover before ``y`` has begun one: the two are alike, so such a path has a mirror image.
- The producer sends what its leader takes: it leaves out refusals, and retries of what still waits there, neither of
  which changes a log. A retry of what is committed may come at any time.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from time import process_time
from typing import Any, NamedTuple

from ringlog.replication import (
    NOTHING,
    Accepted,
    Append,
    CompareAndSet,
    Entry,
    Fenced,
    Known,
    Leader,
    Member,
    New,
    Output,
    Participant,
    ReplicaState,
    Reply,
    Request,
    ShardState,
    Standing,
    Stored,
    Submit,
    Trim,
    Unanswered,
    Violation,
    applied,
    invariants,
    to_archive,
)

SHARD, ACTORS, QUORUM, PRODUCER = "s", "xyz", 2, "p"
BUFFER_BYTES = 1 << 20
LATE = math.inf

_FORWARD = ("gets", "asks", "opens")

Event = tuple[Any, ...]
"""What happens to one participant: its kind, and what else is to be known."""


@dataclass(frozen=True)
class Case:
    """How much may happen after epoch 1 has opened at ``x``; each entry is one record."""

    entries: int = 2
    takeovers: int = 1
    losses: int = 1
    crashes: int = 0
    archive: bool = False


@dataclass(frozen=True)
class Commit:
    """To the table: ``entries`` as rows, from a snapshot that held ``[0, start)``."""

    start: int
    entries: tuple[Entry, ...]


class World(NamedTuple):
    """All but the participants: what the stores hold, what is on its way there, and what must never be undone."""

    state: ShardState | None = None
    version: int = 0
    stored: int = 0
    writes: frozenset[tuple[int, CompareAndSet | Commit]] = frozenset()
    ids: tuple[str, ...] = ("x0", "y0", "z0")
    lost: frozenset[str] = frozenset()
    crashes: int = 0
    began: str = ""
    committed: tuple[Entry, ...] = ()
    leaders: tuple[tuple[int, str], ...] = ()


class Move(NamedTuple):
    """An event with its consequences: the actor's own cell, the world, requests to others, and an answer."""

    event: Event
    cell: int
    world: int
    requests: tuple[tuple[int, frozenset[int]], ...] = ()
    answer: tuple[int, int] | None = None


State = tuple[int, ...]
"""The cells of the three actors, and the world."""


@dataclass(frozen=True)
class Report:
    """What was explored; ``path`` leads to the ``violation``. ``complete``: there is no further state."""

    states: int
    transitions: int
    depth: int
    complete: bool
    violation: Violation | None = None
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        end = "" if self.complete or self.violation else ", and there are more"
        explored = f"{self.states:,} states, {self.transitions:,} transitions, depth {self.depth}{end}"
        return "\n".join([explored, *self.path, *([str(self.violation)] if self.violation else [])])


class Numbers:
    """Values by number, and numbers by key, in the order in which they appear."""

    def __init__(self) -> None:
        self._of: dict[Any, int] = {}
        self._values: list[Any] = []

    def of(self, value: Any, key: Any = None) -> int:
        """The number of ``value``, which ``key`` tells from others where it has no hash of its own."""
        number = self._of.setdefault(value if key is None else key, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._values[number]


_VALUES = Numbers()


def _value(number: int) -> Any:
    return _VALUES[number]


class _Reducers(dict[Any, Any]):
    """How dataclasses are pickled: frozen ones by number, so that they are shared; others by their fields."""

    def __missing__(self, kind: Any) -> Any:
        if not is_dataclass(kind):
            raise KeyError(kind)
        names = [field.name for field in fields(kind)]
        frozen = vars(kind)["__dataclass_params__"].frozen
        self[kind] = _by_number if frozen else lambda value: (kind, tuple(getattr(value, name) for name in names))
        return self[kind]


def _by_number(value: Any) -> tuple[Any, tuple[int]]:
    return _value, (_VALUES.of(value),)


_REDUCERS = _Reducers()


def pickled(participant: Participant) -> bytes:
    """All of ``participant``; equal ones give equal bytes, whatever objects they share."""
    for name, value in vars(participant.takeover).items() if participant.takeover else ():
        if isinstance(value, set):  # the order of a set depends on how it came about
            setattr(participant.takeover, name, set(sorted(value)))  # noqa: C414  (inserted in order)
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 4)
    pickler.fast, pickler.dispatch_table = True, _REDUCERS
    pickler.dump(participant)
    return buffer.getvalue()


def new_id(id: str) -> str:
    """The id of the journal that takes the place of a lost one."""
    return f"{id[0]}{int(id[1:]) + 1}"


class _Found(Exception):
    """A violation, met by this actor at this event."""

    def __init__(self, actor: int, event: Event, violation: Violation) -> None:
        super().__init__(actor, event, violation)
        self.actor, self.event, self.violation = actor, event, violation


class Exploration:
    """The states of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._participants, self._pickles = Numbers(), Numbers()
        self._messages, self._cells, self._worlds = Numbers(), Numbers(), Numbers()
        self._tried: dict[tuple[int, Event], tuple[int, Output]] = {}
        self._spent: dict[tuple[int, int], bool] = {}
        self._moves: dict[tuple[int, int], list[Move]] = {}
        self._heard: dict[tuple[int, int, int], Move] = {}
        self._delivered: dict[tuple[int, frozenset[int]], int] = {}

    def explore(self, states_max: int | None = None) -> Report:
        """Breadth first, up to ``states_max``."""
        parents: dict[State, State | None] = {}
        transitions = depth = 0
        state: State | None = None
        try:
            level = [self._opened()]
            parents[level[0]] = None
            while level and (states_max is None or len(parents) < states_max):
                following = []
                for state in level:
                    for _, _, after in self._successors(state):
                        transitions += 1
                        if after not in parents:
                            parents[after] = state
                            following.append(after)
                level, depth = following, depth + bool(following)
        except _Found as found:
            path = [*self._path(state, parents), self._told(found.actor, found.event)]
            return Report(len(parents), transitions, depth, False, found.violation, tuple(path))
        return Report(len(parents), transitions, depth, not level)

    def _path(self, state: State | None, parents: dict[State, State | None]) -> Iterator[str]:
        before = parents[state] if state else None
        if before and state:
            yield from self._path(before, parents)
            yield next(self._told(at, event) for at, event, after in self._successors(before) if after == state)

    def _opened(self) -> State:
        """Epoch 1, open at the first actor, all three members in it, and nothing under way."""
        first = [Participant(actor, ReplicaState(SHARD, f"{actor}0"), BUFFER_BYTES) for actor in ACTORS]
        cells = [self._cell(self._number(participant), frozenset()) for participant in first]
        state: State = (*cells, self._worlds.of(World()))
        move = self._claim(0, state[0], World(), "x1")
        state = (move.cell, *state[1:3], move.world)
        while True:
            forward = (after for _, event, after in self._successors(state) if event[0] in _FORWARD and after != state)
            following = next(forward, None)
            if following is None:
                return (*state[:3], self._worlds.of(self._worlds[state[3]]._replace(began="")))
            state = following

    def _successors(self, state: State) -> Iterator[tuple[int, Event, State]]:
        for at in range(len(ACTORS)):
            key = state[at], state[3]
            if key not in self._moves:
                self._moves[key] = list(self._moves_of(at, state[at], self._worlds[state[3]]))
            for move in self._moves[key]:
                after = list(state)
                after[at], after[3], requests = move.cell, move.world, move.requests
                if move.answer is not None:
                    asker, number = move.answer
                    heard = self._hear(asker, after[asker], after[3], number)
                    after[asker], after[3], requests = heard.cell, heard.world, requests + heard.requests
                for to, numbers in requests:
                    after[to] = self._deliver(after[to], numbers)
                yield at, move.event, tuple(after)

    def _hear(self, asker: int, cell: int, world: int, number: int) -> Move:
        key = cell, world, number
        if key not in self._heard:
            heard = self._move(asker, cell, self._worlds[world], ("hears", number))
            self._heard[key] = heard
        return self._heard[key]

    def _deliver(self, cell: int, numbers: frozenset[int]) -> int:
        key = cell, numbers
        if key not in self._delivered:
            participant, inbox = self._cells[cell]
            self._delivered[key] = self._cell(participant, inbox | numbers)
        return self._delivered[key]

    def _moves_of(self, at: int, cell: int, world: World) -> Iterator[Move]:
        """All that can happen at one actor."""
        case, actor = self.case, ACTORS[at]
        participant: Participant = self._participants[self._cells[cell][0]]
        takeover, leader = participant.takeover, participant.leader
        for number in sorted(self._cells[cell][1]):
            yield self._move(at, cell, world, ("gets", number))
        for by, write in sorted(world.writes, key=repr):
            if by == at:
                yield from self._carried_out(at, cell, world, write)
        if takeover is not None and takeover.phase in ("verify", "open"):
            yield self._move(at, cell, world, ("asks", Standing(SHARD, takeover.nonce, world.state, world.version)))
        if takeover is not None and takeover.phase == "table":
            yield self._move(at, cell, world, ("asks", Stored(SHARD, takeover.nonce, world.stored)))
        if takeover is not None and takeover.phase in ("seal", "join", "table"):
            yield self._move(at, cell, world, ("waits no longer",))
        if leader is not None:
            for sequence in range(case.entries):
                verdict = leader.producers.check(PRODUCER, 0, sequence, 0)
                if isinstance(verdict, New) or (isinstance(verdict, Known) and verdict.end <= leader.committed):
                    yield self._move(at, cell, world, ("appends", sequence))
            if case.archive:
                epoch, trimmed, committed = leader.epoch, leader.trimmed, leader.committed
                rows = to_archive(SHARD, epoch, leader.entries, trimmed, committed, world.stored, 0, BUFFER_BYTES)
                if rows:
                    commit = Commit(world.stored, rows)
                    archives = world._replace(writes=world.writes | {(at, commit)})
                    yield Move(("archives", commit), cell, self._world(archives))
                for stored in range(trimmed + 1, world.stored + 1):
                    yield self._move(at, cell, world, ("reads", stored))
        may_begin = len(world.began) < case.takeovers and (actor != "z" or "y" in world.began)
        if may_begin and (takeover is None or takeover.phase != "open"):
            yield self._claim(at, cell, world, f"{actor}{len(world.began) + 2}")
        if len(world.lost) < case.losses:
            ids = tuple(new_id(id) if id[0] == actor else id for id in world.ids)
            lost = world._replace(ids=ids, lost=world.lost | {world.ids[at]})
            yield self._move(at, cell, lost, ("loses its disk", ids[at]))
        if world.crashes < case.crashes and (leader or takeover):
            yield self._move(at, cell, world._replace(crashes=world.crashes + 1), ("crashes",))

    def _claim(self, at: int, cell: int, world: World, nonce: str) -> Move:
        """A takeover begins and claims; it hears of that when it asks again."""
        wished = tuple(map(Member, world.ids, ACTORS))
        begins = ("begins", world.state, world.version, wished, nonce)
        sent = self._try(self._cells[cell][0], begins)[1].send
        claim = next(message for message in sent if isinstance(message, CompareAndSet))
        claimed = world._replace(state=claim.state, version=claim.expected + 1, began=world.began + ACTORS[at])
        standing = Standing(SHARD, nonce, claimed.state, claimed.version)
        return self._move(at, cell, claimed, ("claims", *begins[1:], standing))

    def _carried_out(self, at: int, cell: int, world: World, write: CompareAndSet | Commit) -> Iterator[Move]:
        """What is still in flight meets what it expects there, and its answer arrives or is lost."""
        if isinstance(write, Commit):
            event = ("stores", write)
            try:
                stores = _stored(write, world)
            except Violation as violation:
                raise _Found(at, event, violation) from violation
            yield Move(event, cell, self._world(stores))
            return
        opened = world._replace(state=write.state, version=world.version + 1)
        standing = Standing(SHARD, write.state.nonce, opened.state, opened.version)
        yield self._move(at, cell, opened, ("opens", standing))
        yield Move(("opens unheard", write), cell, self._world(opened))

    def _move(self, at: int, cell: int, world: World, event: Event) -> Move:
        """``event`` happens to the participant of ``cell``, and what must hold is looked at."""
        number, inbox = self._cells[cell]
        try:
            after, output = self._try(number, event)
            now: Participant = self._participants[after]
            world = _witnessed(self._participants[number], now, self._message(event), output, world)
        except Violation as violation:
            raise _Found(at, event, violation) from violation
        answer = None
        sent: dict[int, frozenset[int]] = {}
        for message in output.send:
            if isinstance(message, CompareAndSet):
                world = world._replace(writes=world.writes | {(at, message)})
            elif isinstance(message, Request):
                to = ACTORS.index(message.receiver[0])
                sent[to] = sent.get(to, frozenset()) | {self._messages.of((at, message), (at, repr(message)))}
            elif isinstance(message, Reply) and not isinstance(message, Fenced):
                answer = self._messages[event[1]][0], self._messages.of((at, message), (at, repr(message)))
        after = self._cell(after, inbox | sent.pop(at, frozenset()))
        return Move(event, after, self._world(world), tuple(sent.items()), answer)

    def _try(self, number: int, event: Event) -> tuple[int, Output]:
        """What ``event`` makes of a participant, after which its leader, if any, is overdue."""
        key = number, event
        if key not in self._tried:
            participant: Participant = pickle.loads(self._pickles[number])
            participant, output = self._happens(participant, event)
            if participant.leader is not None:
                output += participant.leader.tick(LATE)
            self._tried[key] = self._number(participant), output
        return self._tried[key]

    def _happens(self, participant: Participant, event: Event) -> tuple[Participant, Output]:
        match event:
            case ("gets", _):
                return participant, participant.request(self._message(event))
            case ("hears", _):
                return participant, participant.answer(self._message(event), 0.0)
            case ("begins", state, version, wished, nonce):
                return participant, participant.take_over(None, state, version, wished, QUORUM, nonce, 0.0, b"")
            case ("claims", *begins, standing):
                participant, _ = self._happens(participant, ("begins", *begins))
                return self._happens(participant, ("asks", standing))
            case ("asks", Stored() as answer):
                return participant, participant.answer(answer, 0.0)
            case ("asks", answer):
                participant.answer(Unanswered(SHARD, answer.nonce), 0.0)
                participant.tick(LATE)
                return participant, participant.answer(answer, 0.0)
            case ("opens", standing):
                return participant, participant.answer(standing, 0.0)
            case ("waits no longer",):
                return participant, participant.tick(LATE)
            case ("appends", sequence):
                epoch = participant.leader.epoch if participant.leader else 0
                submit = Submit(SHARD, epoch, PRODUCER, 0, sequence, 0, 1, "quorum", b"%d" % sequence)
                return participant, participant.append(sequence, submit, 0.0)
            case ("reads", stored):
                return participant, participant.stored(stored, 0)
            case ("loses its disk", id):
                return Participant(participant.actor, ReplicaState(SHARD, id), BUFFER_BYTES), NOTHING
            case _:
                return Participant(participant.actor, participant.replica.state(), BUFFER_BYTES), NOTHING

    def _number(self, participant: Participant) -> int:
        key = pickled(participant)
        self._pickles.of(key)
        return self._participants.of(participant, key)

    def _cell(self, number: int, inbox: frozenset[int]) -> int:
        return self._cells.of((number, frozenset(message for message in inbox if not self._is_spent(number, message))))

    def _is_spent(self, number: int, message: int) -> bool:
        key = number, message
        if key not in self._spent:
            self._spent[key] = self._changes_nothing(number, ("gets", message))
        return self._spent[key]

    def _changes_nothing(self, number: int, event: Event) -> bool:
        """Whether the request leaves the participant as it is, now and for ever."""
        request, replica = self._message(event), self._participants[number].replica
        joined = request.epoch == replica.log_epoch
        over = request.receiver != replica.id or request.epoch < replica.promised
        if not over and not (isinstance(request, Append | Trim) and joined):
            return False
        try:
            return self._try(number, event)[0] == number
        except Violation:
            return False

    def _message(self, event: Event) -> Any:
        return self._messages[event[1]][1] if event[0] in ("gets", "hears") else None

    def _world(self, world: World) -> int:
        """The number of ``world``, without the writes that come too late to change it."""
        late = {
            (by, write)
            for by, write in world.writes
            if (write.start < world.stored if isinstance(write, Commit) else write.expected < world.version)
        }
        return self._worlds.of(world._replace(writes=world.writes - late) if late else world)

    def _told(self, at: int, event: Event) -> str:
        """``event`` in a line."""
        kind, *rest = event
        if kind in ("gets", "hears"):
            sender, message = self._messages[event[1]]
            kind, rest = f"{kind} from {ACTORS[sender]}", [message]
        return f"{ACTORS[at]} {kind} {' '.join(map(_briefly, rest))}".rstrip()


def _briefly(value: Any) -> str:
    if isinstance(value, ShardState):
        return f"epoch {value.epoch}, {value.state} by {value.claimant}, members {_briefly(value.members)}"
    if isinstance(value, Entry):
        return f"{value.sequence}@{value.start} of epoch {value.epoch}"
    if isinstance(value, Member):
        return value.id
    if isinstance(value, tuple):
        return f"({', '.join(map(_briefly, value))})"
    if is_dataclass(value):
        told = {field.name: getattr(value, field.name) for field in fields(value)}
        kept = (f"{name}={_briefly(one)}" for name, one in told.items() if name not in ("shard", "producers"))
        return f"{type(value).__name__}({', '.join(kept)})"
    return str(value)


def _witnessed(before: Participant, now: Participant, message: Any, output: Output, world: World) -> World:
    """``world`` with what ``now`` has committed. Raises `Violation` where something does not hold."""
    replica, leader = now.replica, now.leader
    if before.replica.id == replica.id and replica.id not in world.lost:
        invariants.promise_kept(replica.id, before.replica.promised, replica.promised)
    if output.store:
        invariants.promise_kept(replica.id, before.replica.promised, message.epoch)
        journal = reduce(applied, output.store, before.replica.state())
        invariants.kept(f"what {replica.id} keeps", replica.state(), journal)
    for answer in output.send:
        if isinstance(answer, Reply):
            invariants.votes_as_itself(answer.id, answer.id in world.lost)
    if leader is not None:
        if before.leader is None or before.leader.epoch != leader.epoch:
            world = _opened(leader, world)
        for entry in leader.committed_from(leader.trimmed):
            world = _committed(entry, world)
        invariants.in_order(SHARD, leader.trimmed, world.stored, len(world.committed))
    for caller, reply in output.reply:
        if isinstance(reply, Accepted):
            found = [(entry.start, entry.end) for entry in world.committed if entry.sequence == caller]
            invariants.kept(f"sequence {caller}", [(reply.start, reply.end)], found)
    invariants.in_order(SHARD, replica.trimmed, world.stored, len(world.committed))
    return world


def _stored(commit: Commit, world: World) -> World:
    """The table takes rows: those that were committed, each once."""
    invariants.stored_once(SHARD, commit.start, world.stored)
    stored = commit.entries[-1].end
    invariants.in_order(SHARD, commit.start, stored, len(world.committed))
    if commit.entries != world.committed[commit.start : stored]:
        raise Violation("SL-5", f"the table takes {commit.entries}, but {world.committed} is committed")
    return world._replace(stored=stored)


def _opened(leader: Leader, world: World) -> World:
    """A leader begins: nobody else in its epoch, and with all that was committed."""
    nonce = world.state.nonce if world.state else ""
    leaders = dict(world.leaders)
    invariants.one_leader(leader.epoch, leaders.setdefault(leader.epoch, nonce), nonce)
    kept = {entry.start: entry for entry in leader.entries}
    for entry in world.committed[leader.trimmed :]:
        invariants.kept(f"offset {entry.start}", entry, kept.get(entry.start))
    return world._replace(leaders=tuple(leaders.items()))


def _committed(entry: Entry, world: World) -> World:
    """Offsets are the positions in ``committed``, as each entry is one record."""
    log = world.committed
    if entry.start < len(log):
        invariants.unchanged(entry.start, log[entry.start], entry)
        return world
    invariants.follows(len(log), entry.start, entry.end, entry)
    invariants.new_sequence(PRODUCER, entry.sequence, all(one.sequence != entry.sequence for one in log), log)
    return world._replace(committed=(*log, entry))


CASES = (Case(), Case(entries=1, archive=True))
"""What is explored where nothing else is asked for: each in less than a minute."""


def main() -> int:
    """Explore the cases that the arguments describe; 1 where there is a violation."""
    parser = argparse.ArgumentParser(description="Explore every interleaving of a small case.")
    for field in fields(Case):
        kind: Any = {"action": "store_true"} if field.name == "archive" else {"type": int}
        parser.add_argument(f"--{field.name}", default=None, **kind)
    parser.add_argument("--states-max", type=int, default=None)
    asked = vars(parser.parse_args())
    states_max = asked.pop("states_max")
    changes = {name: value for name, value in asked.items() if value is not None}
    violated = False
    for case in [replace(CASES[0], **changes)] if changes else CASES:
        began = process_time()
        report = Exploration(case).explore(states_max)
        print(f"{case}: {report}, {process_time() - began:.0f} s", flush=True)
        violated |= report.violation is not None
    return int(violated)


if __name__ == "__main__":
    raise SystemExit(main())
