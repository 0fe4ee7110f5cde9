"""Those who use the cluster: producers, with the client's own core, and readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ringlog.client.producer import Batch, Producer, Step
from ringlog.errors import OutcomeUnknown
from ringlog.replication import Answer, Confirmation, Entry, Submit, already_stored
from ringlog.simulation.checker import Acknowledged as Known
from ringlog.simulation.checker import Told
from ringlog.simulation.cluster import Actor, World
from ringlog.simulation.controllers import Controller
from ringlog.simulation.network import Stream
from ringlog.simulation.stores import TableVersion
from ringlog.wire import Acknowledged, answer_to

REFRESH_S = 0.7
DEADLINE_S = (2.0, 30.0)
READ_DEADLINE_S = 6.0
LEVELS = ("quorum", "quorum", "quorum", "leader", "stored")


class Client:
    """One client process: a producer for each shard, routes that may be old, and streams to the leaders they name."""

    def __init__(self, world: World, name: str, controllers: Sequence[Controller], until_s: float) -> None:
        self.world = world
        self.name = name
        self._controllers = controllers
        self._until_s = until_s
        self._submitted = 0
        self._leaders: dict[str, tuple[str, int]] = {}
        self._committed: dict[str, int] = {}
        self._streams: dict[str, tuple[Stream, int]] = {}
        self._incarnation = 0
        self._begin()

    @property
    def pending(self) -> int:
        """How many batches are not settled yet, told or not."""
        return sum(len(producer) for producer in self.producers.values())

    def crash(self) -> None:
        """The process ends; what it had not been told of is unknown to it. Another begins in its place."""
        self.world.hits.hit("client crash")
        for producer in self.producers.values():
            for batch in (*producer._pending, *producer._waiting):
                if not batch.told:
                    self.world.checker.told(producer.shard, batch.payload, "unknown")
        self._incarnation += 1
        for stream, _ in self._streams.values():
            stream.open = False
        self._streams = {}
        self._begin()

    def _begin(self) -> None:
        identity = self.world.unique(self.name)
        self.producers = {shard: Producer(shard, identity) for shard in self.world.shards}
        self._wakes: dict[str, float] = {}
        self._later(0.0, f"{self.name} asks for routes", self._refresh)
        self._later(0.1, f"{self.name} submits", self._submit)

    def _later(self, delay_s: float, what: str, event: Callable[..., None], *arguments: Any) -> None:
        incarnation = self._incarnation

        def happen() -> None:
            if incarnation == self._incarnation:
                event(*arguments)

        self.world.loop.after(delay_s, what, happen)

    def _submit(self) -> None:
        """One or several batches, to one shard."""
        loop = self.world.loop
        if loop.now >= self._until_s:
            return
        shard = loop.draw.choice(self.world.shards)
        for _ in range(loop.draw.choice((1, 1, 1, 2, 5))):
            self._submitted += 1
            payload = f"{self.name}-{self._submitted}".encode() + b"." * loop.draw.randrange(40)
            level: Any = loop.draw.choice(LEVELS)
            deadline = loop.now + loop.draw.uniform(*DEADLINE_S)
            batch = Batch(payload, loop.draw.randint(1, 3), level, deadline, (payload, level))
            self._do(shard, self.producers[shard].submit(batch, loop.now))
        self._later(loop.draw.expovariate(2.0), f"{self.name} submits", self._submit)

    def _refresh(self) -> None:
        """Ask a controller that is there for the routes; the answer may be lost."""
        loop, network = self.world.loop, self.world.network
        controllers = [controller for controller in self._controllers if controller.up]
        if controllers:
            controller = loop.draw.choice(controllers)
            network.send(self.name, controller.name, f"{self.name} asks for routes", self._asked, controller)
        self._later(REFRESH_S, f"{self.name} asks for routes", self._refresh)

    def _asked(self, controller: Controller) -> None:
        leaders, committed = dict(controller.leaders), dict(controller.committed)
        self.world.network.send(controller.name, self.name, "routes", self._take_routes, leaders, committed)

    def _take_routes(self, leaders: dict[str, tuple[str, int]], committed: dict[str, int]) -> None:
        for shard, (actor, epoch) in leaders.items():
            if epoch >= self._leaders.get(shard, ("", 0))[1]:
                self._leaders[shard] = (actor, epoch)
                self._committed[shard] = committed[shard]
        for shard, producer in self.producers.items():
            if (shard in self._leaders and (producer.leader_epoch or 0) < self._leaders[shard][1]) or (
                producer.leader_epoch is None and shard in self._leaders and len(producer)
            ):
                self._connect(shard)

    def _connect(self, shard: str) -> None:
        actor, epoch = self._leaders[shard]
        if shard in self._streams:
            self._streams[shard][0].open = False
        target = self.world.actors[actor]
        broken = partial(self._broken, shard, self._incarnation)
        self._streams[shard] = (
            Stream(self.world.network, self.world.loop, self.name, actor, broken),
            target.incarnation,
        )
        self._do(shard, self.producers[shard].connected(epoch, self._committed.get(shard, 0), self.world.loop.now))

    def _broken(self, shard: str, incarnation: int) -> None:
        if incarnation == self._incarnation and shard in self._streams and not self._streams[shard][0].open:
            del self._streams[shard]
            self._do(shard, self.producers[shard].disconnected())

    def _do(self, shard: str, step: Step) -> None:
        for submit in step.send:
            self._send(shard, submit)
        for (payload, level), result in step.results:
            if isinstance(result, Acknowledged):
                self.world.checker.told(shard, payload, "acknowledged", result.start, result.end, level)
            else:
                what: Told = "unknown" if isinstance(result, OutcomeUnknown) else "not stored"
                self.world.loop.note(f"{self.name} is told of {payload!r}: {result}")
                self.world.checker.told(shard, payload, what)
        self._wake(shard)

    def _send(self, shard: str, submit: Submit) -> None:
        if shard not in self._streams:
            return
        stream, incarnation = self._streams[shard]
        actor = self.world.actors[self._leaders[shard][0]]
        what = f"{submit.producer} sequence {submit.sequence} to {actor.name}"
        stream.to_server(what, actor.here, self._arrived, actor, incarnation, stream, submit)

    def _arrived(self, actor: Actor, incarnation: int, stream: Stream, submit: Submit) -> None:
        if actor.incarnation != incarnation:
            stream.cut()
        else:
            actor.submit(submit, partial(self._answered, stream, submit, self._incarnation))

    def _answered(self, stream: Stream, submit: Submit, incarnation: int, answer: Answer) -> None:
        message = answer_to(submit, answer)
        what = f"{type(message).__name__} of {submit.producer} sequence {submit.sequence}"
        stream.to_client(what, self._hear, submit.shard, incarnation, message)

    def _hear(self, shard: str, incarnation: int, message: Any) -> None:
        if incarnation != self._incarnation:
            return
        producer = self.producers[shard]
        handle: Any = producer.acknowledged if isinstance(message, Acknowledged) else producer.declined
        self._do(shard, handle(message, self.world.loop.now))

    def _wake(self, shard: str) -> None:
        wake = self.producers[shard].wake()
        if wake is None or self._wakes.get(shard) == wake:
            return
        self._wakes[shard] = wake
        self._later(max(0.0, wake - self.world.loop.now) + 1e-6, f"{self.name} ticks {shard}", self._tick, shard, wake)

    def _tick(self, shard: str, wake: float) -> None:
        if self._wakes.get(shard) == wake:
            del self._wakes[shard]
        # A stream to a process that has ended is noticed in the end.
        if shard in self._streams:
            stream, incarnation = self._streams[shard]
            if self.world.actors[self._leaders[shard][0]].incarnation != incarnation:
                stream.cut()
        self._do(shard, self.producers[shard].tick(self.world.loop.now))


@dataclass
class Reader:
    """Reads everything now and then: first every shard's unflushed part, then the table."""

    world: World
    client: Client

    def read(self) -> Read:
        """Begin one read."""
        begun = Read(self.world, self.client)
        begun.begin()
        return begun


@dataclass
class Read:
    """One read; ``shown`` are the shards that it has shown by now, each checked."""

    world: World
    client: Client
    shown: set[str] = field(default_factory=set)
    _expected: dict[str, tuple[Known, ...]] = field(default_factory=dict)
    _tails: dict[str, Confirmation | None] = field(default_factory=dict)

    def begin(self) -> None:
        """Note what must be shown, and ask for every shard."""
        world = self.world
        self._deadline = world.loop.now + READ_DEADLINE_S
        for shard in world.shards:
            self._expected[shard] = world.checker.acknowledged(shard)
            self._ask(shard)

    def _ask(self, shard: str) -> None:
        """Ask whoever leads by now, until one answers or time runs out: then the shard is missing in the result."""
        world = self.world
        if shard in self._tails:
            return
        if world.loop.now >= self._deadline:
            self._take(shard, None)
            return
        if shard in self.client._leaders:
            actor = world.actors[self.client._leaders[shard][0]]
            answer = partial(self._answered, actor, shard)
            world.network.send(
                self.client.name, actor.name, f"a read asks {actor.name}", actor.here, actor.read, shard, answer
            )
        world.loop.after(0.5, f"a read asks again for {shard}", self._ask, shard)

    def _answered(self, actor: Actor, shard: str, answer: Answer) -> None:
        if isinstance(answer, Confirmation):
            what = f"{actor.name} shows {shard} [{answer.base}, {answer.committed})"
            self.world.network.send(actor.name, self.client.name, what, self._take, shard, answer)

    def _take(self, shard: str, tail: Confirmation | None) -> None:
        if shard in self._tails:
            return
        self._tails[shard] = tail
        if len(self._tails) == len(self.world.shards):
            self.world.table.snapshot(self._show)

    def _show(self, version: TableVersion | None) -> None:
        """One cut: the table's rows, and of the tails what the table does not have."""
        if version is None:
            return
        for shard, tail in self._tails.items():
            if tail is None:
                self.world.checker.counts["missing shards"] += 1
                continue
            hidden = already_stored(shard, tail.base, version.stored.get(shard, 0))
            rows: list[Entry] = list(version.rows.get(shard, ()))
            rows += [entry for entry in tail.entries if entry.start >= tail.base + hidden]
            self.world.checker.read(shard, self._expected[shard], rows)
            self.shown.add(shard)
