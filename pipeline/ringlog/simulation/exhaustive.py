"""Every interleaving of a small case (draft)."""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ringlog.replication import (
    Accepted,
    Append,
    CompareAndSet,
    Confirm,
    Entry,
    Fenced,
    Fetch,
    Join,
    Member,
    NOTHING,
    Output,
    Participant,
    ReadState,
    ReadStored,
    ReplicaState,
    Seal,
    ShardState,
    Standing,
    Stored,
    Trim,
    Unanswered,
    Violation,
    applied,
    invariants,
    to_archive,
)

SHARD, ACTORS, QUORUM = "s", "xyz", 2
LATE = math.inf
BYTES = 1 << 20
REQUESTS = (Append, Seal, Fetch, Join, Confirm, Trim)


@dataclass(frozen=True)
class Case:
    entries: int = 2
    takeovers: int = 2
    losses: int = 1
    crashes: int = 0
    archive: bool = True


@dataclass(frozen=True)
class Commit:
    start: int
    entries: tuple[Entry, ...]


class World(NamedTuple):
    state: ShardState | None = None
    version: int = 0
    stored: int = 0
    log: tuple[Entry, ...] = ()
    leaders: tuple[tuple[int, str], ...] = ()
    writes: frozenset[tuple[int, Any]] = frozenset()
    ids: tuple[str, ...] = tuple(f"{actor}0" for actor in ACTORS)
    lost: frozenset[str] = frozenset()
    begun: str = ""
    crashes: int = 0


class Found(Exception):
    pass


def freeze(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, bytes, Entry)):
        return value
    if isinstance(value, float):
        return "due"
    if isinstance(value, Mapping):
        return tuple((key, freeze(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(value))
    if isinstance(value, (list, tuple, deque)):
        return tuple(map(freeze, value))
    names = getattr(value, "__slots__", None) or sorted(vars(value))
    return (type(value).__name__, *(freeze(getattr(value, name)) for name in names))


class Numbers:
    def __init__(self):
        self.of = {}
        self.values = []

    def __call__(self, value, key=None):
        key = value if key is None else key
        n = self.of.get(key)
        if n is None:
            n = self.of[key] = len(self.values)
            self.values.append(value)
        return n


def fresh_id(id: str) -> str:
    return f"{id[0]}{int(id[1:]) + 1}"


class Explorer:
    def __init__(self, case: Case):
        self.case = case
        self.locals = Numbers()
        self.pickles = {}
        self.messages = Numbers()
        self.cells = Numbers()
        self.worlds = Numbers()
        self._ran = {}
        self._moves = {}
        self._added = {}
        self._spents = {}
        self.start = self._begin()

    def local(self, p: Participant) -> int:
        n = self.locals(p, freeze(p))
        if n not in self.pickles:
            self.pickles[n] = pickle.dumps(p, -1)
        return n

    def run(self, local: int, event: tuple) -> tuple[int, Output]:
        key = (local, event)
        if key not in self._ran:
            p = pickle.loads(self.pickles[local])
            p, out = self.happen(p, event)
            if p.leader is not None:
                out += p.leader.tick(LATE)
            self._ran[key] = self.local(p), out
        return self._ran[key]

    def happen(self, p: Participant, event: tuple) -> tuple[Participant, Output]:
        kind, *args = event
        if kind == "deliver":
            _, message = self.messages.values[args[0]]
            return p, p.request(message) if isinstance(message, REQUESTS) else p.answer(message, 0.0)
        if kind == "submit":
            (k,) = args
            return p, p.append(k, p.leader.epoch, "p", 0, k, 0, 1, b"%d" % k, "quorum", 0.0)
        if kind == "grace":
            return p, p.tick(LATE)
        if kind == "begin":
            state, version, wished, nonce = args
            return p, p.take_over(None, state, version, wished, QUORUM, nonce, 0.0)
        if kind == "set":
            return p, p.answer(*args, 0.0)
        if kind == "again":
            (answer,) = args
            out = p.answer(Unanswered(SHARD, answer.nonce), 0.0) + p.tick(LATE)
            asked = [m for m in out.send if isinstance(m, (ReadState, ReadStored))]
            assert asked, (p.takeover.phase, out)
            return p, p.answer(answer, 0.0)
        if kind == "stored":
            return p, p.stored(*args)
        if kind == "lose":
            return Participant(p.actor, ReplicaState(SHARD, args[0]), BYTES), NOTHING
        if kind == "crash":
            return Participant(p.actor, p.replica.state(), BYTES), NOTHING
        raise AssertionError(kind)

    def spent(self, local: int, number: int) -> bool:
        key = local, number
        if key not in self._spents:
            self._spents[key] = self._spent(local, number)
        return self._spents[key]

    def _spent(self, local, number):
        try:
            after, _ = self.run(local, ("deliver", number))
        except Violation:
            return False
        if after != local:
            return False
        _, m = self.messages.values[number]
        if not isinstance(m, REQUESTS):
            return True
        replica = self.locals.values[local].replica
        if m.receiver != replica.id or m.epoch < replica.promised:
            return True
        return isinstance(m, (Append, Trim)) and replica.log_epoch == m.epoch

    def cell(self, local, inbox):
        return self.cells((local, frozenset(n for n in inbox if not self.spent(local, n))))

    def add(self, cell, numbers):
        key = cell, numbers
        if key not in self._added:
            local, inbox = self.cells.values[cell]
            self._added[key] = self.cell(local, inbox.union(numbers))
        return self._added[key]

    def moves(self, i, cell, world):
        key = cell, world
        if key not in self._moves:
            self._moves[key] = list(self._each(i, cell, world))
        return self._moves[key]

    def _each(self, i, cell, world):
        local, inbox = self.cells.values[cell]
        w = self.worlds.values[world]
        p = self.locals.values[local]
        for number in sorted(inbox):
            yield self.after(i, cell, w, ("deliver", number))
        for asker, write in sorted(w.writes, key=repr):
            if asker != i:
                continue
            if isinstance(write, Commit):
                for e in write.entries:
                    invariants.unchanged(e.start, w.log[e.start] if e.start < len(w.log) else None, e)
                v = self.world(w._replace(stored=write.entries[-1].end))
                yield (("write", write), cell, v, ())
            else:
                v = w._replace(state=write.state, version=w.version + 1)
                yield self.after(i, cell, v, ("set", Standing(SHARD, write.state.nonce, v.state, v.version)))
                yield (("write, lost", write), cell, self.world(v), ())
        t = p.takeover
        if t is not None:
            if t.phase in ("claim", "open"):
                yield self.after(i, cell, w, ("again", Standing(SHARD, t.nonce, w.state, w.version)))
            if t.phase == "table":
                yield self.after(i, cell, w, ("again", Stored(SHARD, t.nonce, w.stored)))
            if t.phase in ("seal", "join"):
                yield self.after(i, cell, w, ("grace",))
        leader = p.leader
        if leader is not None:
            waiting = {one.caller for one in leader._waiting.quorum}
            for k in range(self.case.entries):
                if k not in waiting:
                    move = self.after(i, cell, w, ("submit", k))
                    if move is not None:
                        yield move
            if self.case.archive:
                entries = to_archive(
                    SHARD, leader.epoch, leader.committed_from(leader.trimmed), leader.trimmed, leader.committed,
                    w.stored, 0, BYTES,
                )
                if entries:
                    yield (("archive",), cell, self.world(w._replace(writes=w.writes | {(i, Commit(w.stored, entries))})), ())
                for v in range(leader.trimmed + 1, w.stored + 1):
                    yield self.after(i, cell, w, ("stored", v))
        if len(w.begun) < self.case.takeovers and (t is None or t.phase != "open"):
            actor = ACTORS[i]
            if actor != "z" or "y" in w.begun:
                wished = tuple(Member(id, a) for id, a in zip(w.ids, ACTORS))
                v = w._replace(begun=w.begun + actor)
                yield self.after(i, cell, v, ("begin", w.state, w.version, wished, f"{actor}{len(v.begun)}"))
        if len(w.lost) < self.case.losses:
            id = fresh_id(w.ids[i])
            v = w._replace(lost=w.lost | {w.ids[i]}, ids=tuple(id if j == i else one for j, one in enumerate(w.ids)))
            yield self.after(i, cell, v, ("lose", id))
        if w.crashes < self.case.crashes and (p.leader or p.takeover):
            yield self.after(i, cell, w._replace(crashes=w.crashes + 1), ("crash",))

    def world(self, w):
        writes = frozenset(
            (i, one) for i, one in w.writes
            if (one.start >= w.stored if isinstance(one, Commit) else one.expected >= w.version)
        )
        return self.worlds(w._replace(writes=writes))

    def after(self, i, cell, w, event):
        local, inbox = self.cells.values[cell]
        try:
            after, out = self.run(local, event)
            before, p = self.locals.values[local], self.locals.values[after]
            if p.leader is not None and p.leader._questions:
                return None
            w = self.witness(i, before, p, event, out, w)
        except Violation as v:
            raise Found(v, event) from v
        sends = {}
        writes = set()
        for m in out.send:
            if isinstance(m, (ReadState, ReadStored)):
                continue
            if isinstance(m, CompareAndSet):
                writes.add((i, m))
            elif isinstance(m, REQUESTS):
                sends.setdefault(ACTORS.index(m.receiver[0]), []).append(self.messages((i, m), (i, freeze(m))))
            elif not isinstance(m, Fenced):
                asker, _ = self.messages.values[event[1]]
                sends.setdefault(asker, []).append(self.messages((i, m), (i, freeze(m))))
        if writes:
            w = w._replace(writes=w.writes | writes)
        new = self.cell(after, inbox.union(sends.pop(i, ())))
        return event, new, self.world(w), tuple((to, tuple(ms)) for to, ms in sends.items())

    def witness(self, i, before, p, event, out, w):
        replica = p.replica
        if event[0] == "deliver":
            m = self.messages.values[event[1]][1]
            if out.store:
                invariants.promise_kept(replica.id, before.replica.promised, m.epoch)
                disk = before.replica.state()
                for op in out.store:
                    disk = applied(disk, op)
                invariants.kept(f"the disk of {replica.id}", replica.state(), disk)
            for m in out.send:
                if not isinstance(m, REQUESTS) and hasattr(m, "id"):
                    invariants.votes_as_itself(m.id, m.id in w.lost)
        if event[0] != "lose":
            invariants.promise_kept(replica.id, before.replica.promised, replica.promised)
        leader = p.leader
        if leader is not None:
            log = w.log
            if before.leader is None or before.leader.epoch != leader.epoch:
                known = dict(w.leaders)
                known.setdefault(leader.epoch, w.state.nonce)
                invariants.one_leader(leader.epoch, known[leader.epoch], w.state.nonce)
                w = w._replace(leaders=tuple(sorted(known.items())))
                own = {e.start: e for e in leader.entries}
                for e in w.log[leader.trimmed:]:
                    invariants.kept(f"offset {e.start}", e, own.get(e.start))
            for e in leader.committed_from(leader.trimmed):
                if e.start < len(log):
                    invariants.unchanged(e.start, log[e.start], e)
                else:
                    invariants.follows(len(log), e.start, e.end, e)
                    known = {(one.producer, one.sequence) for one in log}
                    invariants.new_sequence(e.producer, e.sequence, (e.producer, e.sequence) not in known, log)
                    log = (*log, e)
            w = w._replace(log=log)
            invariants.in_order(SHARD, leader.trimmed, w.stored, len(log))
        for caller, answer in out.reply:
            if isinstance(answer, Accepted):
                at = next(((e.start, e.end) for e in w.log if e.sequence == caller), None)
                invariants.kept(f"entry {caller}", (answer.start, answer.end), at)
        invariants.in_order(SHARD, replica.trimmed, w.stored, len(w.log))
        return w

    def successors(self, state):
        world = state[3]
        for i in range(3):
            for label, cell, v, sends in self.moves(i, state[i], world):
                new = list(state)
                new[i], new[3] = cell, v
                for to, numbers in sends:
                    new[to] = self.add(new[to], numbers)
                yield tuple(new), i, label

    def _begin(self):
        cells = [
            self.cell(self.local(Participant(a, ReplicaState(SHARD, f"{a}0"), BYTES)), ()) for a in ACTORS
        ]
        w = World()
        wished = tuple(Member(f"{a}0", a) for a in ACTORS)
        label, cells[0], v, _ = self.after(0, cells[0], w, ("begin", None, 0, wished, "x0"))
        state = (*cells, v)
        while True:
            for new, i, label in self.successors(state):
                if new != state and (label[0] in ("deliver", "set") or (label[0] == "again" and isinstance(label[1], Stored))):
                    state = new
                    break
            else:
                break
        for c in state[:3]:
            local, inbox = self.cells.values[c]
            print(self.locals.values[local].leader, self.locals.values[local].replica.state(), [self.messages.values[n] for n in inbox])
        print(self.worlds.values[state[3]])
        return state

    def describe(self, i, event):
        if event[0] == "deliver":
            s, m = self.messages.values[event[1]]
            return f"{ACTORS[i]} gets from {ACTORS[s]}: {m}"
        return f"{ACTORS[i]}: {event}"

    def search(self, limit=None, seconds=None):
        parents = {self.start: None}
        level = [self.start]
        depth = transitions = 0
        t0 = time.time()
        while level:
            nxt = []
            for state in level:
                try:
                    for new, _, _ in self.successors(state):
                        transitions += 1
                        if new not in parents:
                            parents[new] = state
                            nxt.append(new)
                except Found as f:
                    path = [state]
                    while parents[path[-1]] is not None:
                        path.append(parents[path[-1]])
                    path.reverse()
                    for a, b in zip(path, path[1:]):
                        print(next(self.describe(i, l) for n, i, l in self.successors(a) if n == b))
                    print("->", self.describe(-1, f.args[1]) , f.args[0])
                    raise
            level = nxt
            depth += 1
            print(depth, len(level), len(parents), transitions, f"{time.time()-t0:.1f}s",
                  len(self.locals.values), len(self.messages.values), len(self.cells.values), len(self.worlds.values), len(self._moves), flush=True)
            if seconds and time.time() - t0 > seconds:
                print("stopped"); break
        return len(parents), transitions, depth


if __name__ == "__main__":
    a = [int(x) for x in sys.argv[1:]]
    e = Explorer(Case(*a[:4], bool(a[4])))
    e.search(seconds=a[5])
