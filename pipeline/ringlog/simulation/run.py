"""One run from one seed: a world is made, things fail in it for a while, then nothing fails and all must come right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from ringlog.control.placement import members_of
from ringlog.replication import Leader, Leads, Member, Outpaced, Retired, Violation, invariants
from ringlog.replication.quorum import seals_needed
from ringlog.simulation.checker import Checker, is_gap
from ringlog.simulation.cluster import SPEEDS, Actor, Decisions, World, places
from ringlog.simulation.controllers import Controller
from ringlog.simulation.faults import BEYOND, Hits, Mix
from ringlog.simulation.loop import Loop
from ringlog.simulation.nemesis import STRIKES
from ringlog.simulation.network import Network
from ringlog.simulation.stores import Metadata, Table
from ringlog.simulation.workload import READ_DEADLINE_S, Client, Reader

CALM_S = 150.0
"""How long, without a fault, everything may take to come right (SL-10)."""
LOOK_S = 2.0
BEYOND_SHARE = 0.08


@dataclass(frozen=True)
class Report:
    """What one run was: ``violation`` is None when every invariant held; ``story`` is told of a traced run."""

    seed: int
    digest: int
    events: int
    simulated_s: float
    faults: Counter[str]
    counts: Counter[str]
    violation: str | None
    story: tuple[str, ...] = ()


class Simulation:
    """The world of one seed, and what happens to it. ``beyond``: lose more disks than a cluster survives."""

    seed: int
    loop: Loop
    world: World
    clients: list[Client]

    def __init__(self, seed: int, *, traced: bool = False, mix: Mix | None = None, beyond: bool | None = None) -> None:
        self.seed = seed
        draw = Random(seed)
        self.loop = Loop(draw, traced=traced)
        self.hits = Hits()
        self.checker = Checker()
        self.mix = mix or Mix.drawn(draw)
        self.beyond = draw.random() < BEYOND_SHARE if beyond is None else beyond
        self._lost_to_budget: dict[str, bool] = {}
        replicas = draw.choice((3, 3, 3, 3, 5, 2, 1))
        count = max(replicas, draw.choice((3, 4, 5)))
        shards = tuple(f"log-{number}" for number in range(draw.choice((1, 1, 2, 3))))
        network = Network(self.loop, self.hits)
        self.world = World(
            self.loop,
            self.hits,
            self.checker,
            network,
            Metadata(self.loop, self.hits, self.checker),
            Table(self.loop, self.hits, self.checker),
            shards,
            {},
            replicas,
            replicas // 2 + 1,
            draw.choice(("group", "group", "group", "interval", "never")),
            draw.choice((300, 3000, 30000)),
            draw.choice((1, 3, 4096)),
            draw.choice((100, 1000, 10000)),
            Random(seed ^ 0x5EED),
            Decisions(shards),
        )
        self.checker.wanted = self.world.decisions.wanted
        for number in range(count):
            name = f"actor-{number}"
            self.world.actors[name] = Actor(self.world, name)
        self.active_s = draw.uniform(8.0, 28.0)
        self.controllers = [
            Controller(self.world, f"controller-{number}", hears_every=1 + 6 * number) for number in range(2)
        ]
        self.clients = [
            Client(self.world, f"client-{number}", self.controllers, self.active_s)
            for number in range(draw.randint(1, 3))
        ]
        self.readers = [Reader(self.world, client) for client in self.clients]

    def run(self) -> None:
        """All of it. Raises `Violation`."""
        loop = self.loop
        for actor in self.world.actors.values():
            actor.begin()
        if "clocks" in self.mix.rates:
            self.hits.hit("clocks")
            for actor in self.world.actors.values():
                actor.clock = (loop.draw.uniform(*SPEEDS), loop.draw.uniform(0.0, 1000.0))
        self.controllers[1].up = False
        for controller in self.controllers:
            controller.begin()
        loop.after(1.0, "a read", self._read)
        for kind, rate in self.mix.rates.items():
            if kind in STRIKES:
                loop.after(loop.draw.expovariate(rate), f"fault: {kind}", self._strike, kind, rate)
        if self.beyond:
            loop.after(self.active_s * loop.draw.uniform(0.3, 0.9), f"fault: {BEYOND}", self._lose_too_much)
        loop.run(self.active_s)
        self._heal()
        self._come_right()

    # While things fail.

    def _read(self) -> None:
        self.loop.draw.choice(self.readers).read()
        self.loop.after(self.loop.draw.uniform(0.2, 2.0), "a read", self._read)

    def _strike(self, kind: str, rate: float) -> None:
        if self.loop.now < self.active_s:
            STRIKES[kind](self)
            self.loop.after(self.loop.draw.expovariate(rate), f"fault: {kind}", self._strike, kind, rate)

    def any_actor(self) -> Actor:
        """One of the actors."""
        return self.loop.draw.choice(list(self.world.actors.values()))

    def wished(self, shard: str) -> list[Member]:
        """The members that ``shard`` should have, as far as their processes are there."""
        actors = members_of(shard, self.world.shards, tuple(self.world.actors), self.world.replicas)
        return places(self.world, shard, actors)

    def names(self) -> list[str]:
        """Of all that have a place in the network."""
        return [*self.world.actors, *(one.name for one in self.controllers), *(one.name for one in self.clients)]

    def for_a_while(
        self, begin: Callable[[], None], end: Callable[[], None], what: str, lasts_s: float | None = None
    ) -> None:
        """Something that ends by itself, unless ``lasts_s`` is given before anybody has noticed, or long after."""
        begin()
        if lasts_s is None:
            lasts_s = self.loop.draw.choice((0.5, 4.0, 12.0)) * self.loop.draw.random()
        self.loop.after(lasts_s, f"over: {what}", end)

    def may_lose(self, actor: Actor) -> bool:
        """Whether the journals of ``actor`` may be lost.

        Of every set of members that counts, or may come to count, fewer than a quorum are lost then: so a copy of each
        committed entry survives, and so do enough seals.
        """
        for shard in self.world.shards:
            state, _ = self.world.metadata.of.get(shard, (None, 0))
            sets = [] if state is None else [({member.id for member in state.members}, state.quorum)]
            for other in self.world.actors.values():
                takeover = other.participants[shard].takeover if shard in other.participants else None
                if takeover is not None:
                    sets.append(({*takeover.wished}, takeover.quorum))
            if state is None or state.state != "open":
                return False  # a set that nobody shows any more may still open
            gone = {actor.disks[shard].synced.id} if shard in actor.disks else set()
            for ids, quorum in sets:
                if sum(self.checker.is_lost(id) or id in gone for id in ids) > quorum - 1:
                    return False
        return True

    def _lose_too_much(self) -> None:
        """Every disk of a majority is gone at once."""
        shard = self.loop.draw.choice(self.world.shards)
        state, _ = self.world.metadata.of.get(shard, (None, 0))
        if state is None or not state.members:
            return
        self.hits.hit(BEYOND)
        for member in state.members[: state.quorum]:
            actor = self.world.actors[member.actor]
            actor.crash()
            actor.wipe()

    # When nothing fails any more.

    def _heal(self) -> None:
        world = self.world
        world.network.heal()
        world.metadata.heal()
        world.table.heal()
        for actor in world.actors.values():
            actor.full, actor.slow_s, actor.ends_in_write = False, 0.0, None
            if actor.paused:
                actor._resume(actor.incarnation)
            actor.restart()
        self.controllers[0].up, self.controllers[1].up = True, False
        for shard in list(world.decisions.unwanted):
            world.decisions.decide(shard, True)
        self.loop.note("nothing fails any more")

    def _come_right(self) -> None:
        healed = self.loop.now
        accepted: set[str] = set()
        while not self._right():
            if self.loop.now - healed > CALM_S:
                for shard in self.world.shards:
                    pending = [client.name for client in self.clients if len(client.producers[shard])]
                    invariants.answered(shard, self._open(shard), pending, CALM_S)
                raise Violation("SL-10", f"not everything is archived {CALM_S:g} s after the last fault")
            self.loop.run(self.loop.now + LOOK_S)
            if self.beyond and self.loop.now - healed > CALM_S / 4:
                self._operate(accepted)
            for actor in self.world.actors.values():
                actor.here(actor.flush)
        for actor in self.world.actors.values():
            for shard, participant in actor.participants.items():
                if actor.up and actor.disks[shard].at_rest:
                    self.checker.durable(participant.replica.state(), actor.disks[shard].written)
        self._read_all()
        rows = self.world.table.newest.rows
        for shard in self.world.shards:
            self.checker.finished(shard, rows.get(shard, ()))
            state, _ = self.world.metadata.of[shard]
            gaps = [(entry.epoch, entry.start) for entry in rows.get(shard, ()) if is_gap(entry)]
            invariants.kept(f"gaps of {shard}", list(state.gaps if state else ()), gaps)

    def _read_all(self) -> None:
        """A read shows every shard now."""
        shown = self.readers[0].read().shown
        self.loop.run(self.loop.now + READ_DEADLINE_S + LOOK_S)
        if shown != set(self.world.shards):
            raise Violation("SL-10", f"a read shows only {sorted(shown)}, though nothing fails")

    def _right(self) -> bool:
        stored = self.world.table.newest.stored
        return (
            all(self._open(shard) for shard in self.world.shards)
            and not any(client.pending for client in self.clients)
            and all(self._held_by_all(shard) for shard in self.world.shards)
            and all(
                leader.end == stored.get(leader.shard, 0)
                for shard in self.world.shards
                if (leader := self.leader(shard))
            )
        )

    def leader(self, shard: str) -> Leader | None:
        """The leader of the newest epoch that has one. A later one may have been claimed and left alone."""
        parts = (actor.participants.get(shard) for actor in self.world.actors.values() if actor.up)
        leaders = [part.leader for part in parts if part is not None and part.leader is not None]
        return max(leaders, key=lambda leader: leader.epoch, default=None)

    def _held_by_all(self, shard: str) -> bool:
        """Whether every member has caught up."""
        leader = self.leader(shard)
        return leader is not None and set(leader.ends().values()) == {leader.end}

    def _open(self, shard: str) -> bool:
        """Whether ``shard`` is led by a leader that has all the members that it should have."""
        leader = self.leader(shard)
        if leader is None:
            return False
        return {member.id for member in leader.members} >= {member.id for member in self.wished(shard)}

    def _operate(self, accepted: set[str]) -> None:
        """An operator looks at the shards that stay unavailable, and accepts the loss."""
        for shard in self.world.shards:
            state, _ = self.world.metadata.of.get(shard, (None, 0))
            if state is None or shard in accepted:
                continue
            alive = [member for member in state.members if not self.checker.is_lost(member.id)]
            if len(alive) >= seals_needed(len(state.members), state.quorum):
                continue
            if self._open(shard):
                raise Violation("SL-2", f"{shard} opened over {len(alive)} of {len(state.members)} members")
            accepted.add(shard)
            self.controllers[0].up = False  # who tries the same without the operator's word would be in the way
            self.loop.note(f"an operator accepts what {shard} lost")
            wished = self.wished(shard)
            candidate = self.world.actors[wished[0].actor]
            candidate.here(candidate.take_over, shard, wished, partial(self._accepted, accepted, shard), True)

    def _accepted(self, accepted: set[str], shard: str, answer: Leads | Retired | Outpaced) -> None:
        self.controllers[0].up = True
        if isinstance(answer, Outpaced):
            accepted.discard(shard)  # somebody was in between: try again


def simulate(seed: int, *, traced: bool = False, mix: Mix | None = None, beyond: bool | None = None) -> Report:
    """Run ``seed``. The same seed gives the same digest, and the same story, in every process."""
    simulation = Simulation(seed, traced=traced, mix=mix, beyond=beyond)
    violation = None
    try:
        simulation.run()
    except Violation as error:
        violation = str(error)
    loop = simulation.loop
    story = (*loop.story(), *(("…", *loop.story(40)) if violation else loop.story(10**9))) if traced else ()
    return Report(
        seed,
        loop.digest,
        loop.events,
        loop.now,
        simulation.hits.of,
        simulation.checker.counts,
        violation,
        story,
    )
