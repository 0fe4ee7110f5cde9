"""Controllers: they watch the actors and decide with the real `Reconciler`. Safety needs nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ringlog.control import Reconciler, TakeOver
from ringlog.control.reconcile import leader_of
from ringlog.replication import Leads, Outpaced, Retired
from ringlog.simulation.cluster import Actor, World, places

HEARTBEAT_S = 1.0


@dataclass
class Controller:
    """Watches the actors and decides with the real `Reconciler`; there may be several, or none."""

    world: World
    name: str
    up: bool = True
    leaders: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What clients are told: who leads which shard in which epoch."""
    committed: dict[str, int] = field(default_factory=dict)
    _statuses: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _reconciler: Reconciler | None = None
    _known: tuple[dict[str, int], dict[str, int]] = ({}, {})
    _beats: int = 0
    hears_every: int = 1
    """How many beats pass until it hears of new decisions."""

    def __str__(self) -> str:
        return self.name

    def begin(self) -> None:
        """Start with no memory."""
        world = self.world
        self._reconciler = Reconciler(world.shards, tuple(world.actors), world.replicas, world.quorum)
        self._beat()

    def _beat(self) -> None:
        world = self.world
        if self._beats % self.hears_every == 0:
            self._known = dict(world.decisions.wanted), dict(world.decisions.unwanted)
        self._beats += 1
        if self.up:
            self._decide()
            self._statuses = {}
            for actor in world.actors.values():
                world.network.send(
                    self.name, actor.name, f"{self.name} asks {actor.name}", actor.here, self._ask, actor
                )
        world.loop.after(HEARTBEAT_S, f"{self.name} looks", self._beat)

    def _ask(self, actor: Actor) -> None:
        status = actor.status()
        self.world.network.send(actor.name, self.name, f"status of {actor.name}", self._heard, actor.name, status)

    def _heard(self, actor: str, status: Mapping[str, Any]) -> None:
        self._statuses[actor] = status

    def _decide(self) -> None:
        world, statuses = self.world, self._statuses
        for shard in world.shards:
            leader = leader_of(shard, statuses)
            if leader is not None:
                led = statuses[leader]["leading"][shard]
                if led["epoch"] >= self.leaders.get(shard, ("", 0))[1]:
                    self.leaders[shard] = (leader, led["epoch"])
                    self.committed[shard] = led["committed"]
        assert self._reconciler is not None
        for wanted in self._reconciler.decide(statuses, world.loop.now):
            self._take_over(wanted, self._known[0][wanted.shard])
        for name, shard, epoch in self._reconciler.superfluous(statuses):
            actor = world.actors[name]
            what = f"{self.name} lets {name} forget {shard}"
            world.network.send(self.name, name, what, actor.here, actor.forget, shard, epoch)
        for shard, decision in self._known[1].items():
            leader = leader_of(shard, statuses)
            alive = (actor for actor in self._reconciler.wished(shard) if actor in statuses and actor != leader)
            if leader is not None:
                self._take_over(TakeOver(shard, leader, (leader, *alive)), decision, retire=True)

    def _take_over(self, wanted: TakeOver, decision: int, retire: bool = False) -> None:
        world = self.world
        candidate = world.actors[wanted.candidate]
        members = places(world, wanted.shard, wanted.members)
        world.network.send(
            self.name,
            candidate.name,
            f"{self.name} wants {candidate.name} to lead {wanted.shard}",
            candidate.here,
            candidate.take_over,
            wanted.shard,
            members,
            partial(self._took_over, wanted.shard),
            False,
            decision,
            retire,
        )

    def _took_over(self, shard: str, answer: Leads | Retired | Outpaced) -> None:
        if isinstance(answer, Outpaced) and self._reconciler is not None:
            self._reconciler.failed(shard, self.world.loop.now)
