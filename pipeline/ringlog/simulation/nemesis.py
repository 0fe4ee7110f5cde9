"""How each kind of fault strikes a running simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ringlog.replication import Leads, Outpaced, Retired
from ringlog.simulation.cluster import Actor, places

if TYPE_CHECKING:
    from ringlog.simulation.run import Simulation


def _wipe(simulation: Simulation) -> None:
    actor = simulation.any_actor()
    if actor.up and simulation.may_lose(actor):
        simulation.hits.hit("wiped disk")
        actor.crash()
        actor.wipe()


def _flip(simulation: Simulation) -> None:
    actor = simulation.any_actor()
    if actor.up and simulation.may_lose(actor) and actor.disks:
        simulation.hits.hit("bit flip")
        actor.crash()
        for disk in actor.disks.values():
            disk.flipped = True
            simulation.checker.lost(disk.synced.id)


def _power(simulation: Simulation) -> None:
    actor = simulation.any_actor()
    if actor.up:
        actor.ends_in_write = lambda: simulation.world.fsync == "group" or simulation.may_lose(actor)


def _crash(simulation: Simulation) -> None:
    actor = simulation.any_actor()
    if actor.up:
        simulation.hits.hit("crash")
        actor.crash()


def _restart(simulation: Simulation) -> None:
    simulation.hits.hit("restart")
    for actor in simulation.world.actors.values():
        actor.crash()


def _pause(simulation: Simulation) -> None:
    simulation.any_actor().pause(simulation.loop.draw.choice((0.5, 4.0, 12.0)) * simulation.loop.draw.random())


def _block(simulation: Simulation, kind: str, pairs: Callable[[list[str], list[str]], list[tuple[str, str]]]) -> None:
    names = simulation.names()
    some = simulation.loop.draw.sample(names, simulation.loop.draw.randint(1, len(names) - 1))
    _cut(simulation, kind, pairs(some, [name for name in names if name not in some]))


def _cut(simulation: Simulation, kind: str, pairs: list[tuple[str, str]], lasts_s: float | None = None) -> None:
    blocked = simulation.world.network.blocked

    def mend() -> None:
        for pair in pairs:
            blocked.pop(pair, None)

    simulation.for_a_while(lambda: blocked.update(dict.fromkeys(pairs, kind)), mend, kind, lasts_s)
    if simulation.loop.draw.random() < 0.5:  # whoever is cut off may suspect all the others
        _suspect(simulation, simulation.any_actor())


def _split_brain(simulation: Simulation) -> None:
    """A leader and one client on one side, all others on the other: for so long that they go on without it.

    Then the client reads what its leader shows.
    """
    draw = simulation.loop.draw
    leader = simulation.leader(draw.choice(simulation.world.shards))
    if leader is None:
        return
    reader = draw.choice(simulation.readers)
    side = [simulation.world.actor_of(leader.own), reader.client.name]
    rest = [name for name in simulation.names() if name not in side]
    lasts_s = draw.uniform(4.0, 15.0)
    _cut(simulation, "partition", [pair for a in side for b in rest for pair in ((a, b), (b, a))], lasts_s)
    for _ in range(3):
        simulation.loop.after(lasts_s * draw.uniform(0.5, 1.0), "a read behind a partition", reader.read)


def _partition(simulation: Simulation) -> None:
    if simulation.loop.draw.random() < 0.5:
        _split_brain(simulation)
        return
    _block(simulation, "partition", lambda one, other: [pair for a in one for b in other for pair in ((a, b), (b, a))])


def _one_way(simulation: Simulation) -> None:
    _block(simulation, "one way", lambda one, other: [(other_name, one[0]) for other_name in [*one[1:], *other]])


def _isolate(simulation: Simulation) -> None:
    def pairs(one: list[str], other: list[str]) -> list[tuple[str, str]]:
        rest = [*one[1:], *other]
        return [pair for name in rest for pair in ((one[0], name), (name, one[0]))]

    _block(simulation, "isolation", pairs)


def _set(where: Callable[[Simulation], object], name: str, values: tuple[float, ...]) -> Callable[[Simulation], None]:
    """A fault that is a number somewhere, for a while."""

    def strike(simulation: Simulation) -> None:
        target = where(simulation)
        simulation.for_a_while(
            lambda: setattr(target, name, simulation.loop.draw.choice(values)), lambda: setattr(target, name, 0.0), name
        )

    return strike


def _full(simulation: Simulation) -> None:
    actor = simulation.any_actor()
    simulation.for_a_while(lambda: setattr(actor, "full", True), lambda: setattr(actor, "full", False), "full disk")


def _move(simulation: Simulation) -> None:
    """Other members, drawn from all actors; one of them leads."""
    world, draw = simulation.world, simulation.loop.draw
    chosen = draw.sample(list(world.actors), world.replicas)
    shard = draw.choice(world.shards)
    members = places(world, shard, chosen)
    if members:
        simulation.hits.hit("membership")
        candidate = world.actors[members[0].actor]
        candidate.here(candidate.take_over, shard, members, _ignore)


def _suspect(simulation: Simulation, actor: Actor) -> None:
    """``actor`` tries to lead a shard, for no good reason."""
    shard = simulation.loop.draw.choice(simulation.world.shards)
    wait = simulation.loop.draw.random() * 2
    simulation.loop.after(wait, "a suspicion", actor.here, actor.take_over, shard, simulation.wished(shard), _ignore)


def _duel(simulation: Simulation) -> None:
    world, draw = simulation.world, simulation.loop.draw
    shard = draw.choice(world.shards)
    members = simulation.wished(shard)
    if len(members) > 1:
        simulation.hits.hit("duel")
        for member in draw.sample(members, 2):
            candidate = world.actors[member.actor]
            simulation.loop.after(
                draw.random() * draw.choice((0.005, 0.05, 0.5)),
                "a duel",
                candidate.here,
                candidate.take_over,
                shard,
                members,
                _ignore,
            )


def _retire(simulation: Simulation) -> None:
    """One shard more, or one fewer, is wanted; controllers hear of it by and by."""
    decisions = simulation.world.decisions
    shard = simulation.loop.draw.choice(simulation.world.shards)
    decisions.decide(shard, shard in decisions.unwanted)
    simulation.loop.note(f"decision {decisions.version}: {shard} is {'not ' * (shard in decisions.unwanted)}wanted")


def _ignore(_: Leads | Retired | Outpaced) -> None:
    """Nobody waits for this takeover."""


def _controllers(simulation: Simulation) -> None:
    """None, the other one, or both."""
    simulation.hits.hit("controller")
    ups = simulation.loop.draw.choice(((False, False), (False, True), (True, True)))
    for controller, up in zip(simulation.controllers, ups, strict=True):
        controller.up = up


STRIKES: dict[str, Callable[[Simulation], None]] = {
    "crash": _crash,
    "power cut": _power,
    "wiped disk": _wipe,
    "bit flip": _flip,
    "pause": _pause,
    "partition": _partition,
    "one way": _one_way,
    "isolation": _isolate,
    "loss": _set(lambda one: one.world.network, "loss", (0.02, 0.2)),
    "duplication": _set(lambda one: one.world.network, "duplication", (0.05, 0.3)),
    "reordering": _set(lambda one: one.world.network, "reordering", (0.1, 0.5)),
    "delay": _set(lambda one: one.world.network, "delay_s", (0.1, 3.0)),
    "slow disk": _set(lambda one: one.any_actor(), "slow_s", (0.5, 4.0)),
    "full disk": _full,
    "metadata away": _set(lambda one: one.world.metadata, "away", (0.5, 1.0)),
    "metadata unknown": _set(lambda one: one.world.metadata, "unknown", (0.3, 1.0)),
    "table failing": _set(lambda one: one.world.table, "away", (0.5, 1.0)),
    "table slow": _set(lambda one: one.world.table, "slow_s", (1.0, 8.0)),
    "table unknown": _set(lambda one: one.world.table, "unknown", (0.3, 0.9)),
    "membership": _move,
    "duel": _duel,
    "controller": _controllers,
    "compaction": lambda one: one.world.table.compact(),
    "client crash": lambda one: one.loop.draw.choice(one.clients).crash(),
    "restart": _restart,
    "retirement": _retire,
}
"""How each kind strikes; clocks differ from the start."""
