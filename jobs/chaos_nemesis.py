"""Who breaks the cluster of a chaos run, from one seed."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

import ringlog
from chaos_crowd import Crowd
from chaos_ground import DIES_WITHIN_S, NODES, POLL_S, Actor, Ground, eventually, kill, parent, raylet_pid
from chaos_history import Fault

FILLS_WITHIN_S = 10.0
HEALS_WITHIN_S = 20.0
STOPPED_S = (1.0, 8.0)
CUT_S = (1.0, 15.0)
AWAY_S = {"etcd": (1.0, 10.0), "s3": (2.0, 60.0)}
"""How long a server is away; an S3 server for up to a minute, which the archive waits for."""


@dataclass(frozen=True)
class Hit:
    """What was hit, when, and for how long it is away, where that is known; the shard actors that are hit with it."""

    target: str
    at: int
    actors: frozenset[str] = frozenset()
    seconds: float = 0.0


class Nemesis:
    """Deals faults at times of its own choice. A fault counts only when its effect was seen."""

    def __init__(self, ground: Ground, crowd: Crowd, draw: random.Random, history: Path) -> None:
        self._ground = ground
        self._crowd = crowd
        self._draw = draw
        self._history = history
        self._away: dict[Hashable, tuple[threading.Timer, Callable[[], object]]] = {}  # and how each comes back
        self.faults: list[Fault] = []
        self.skipped: Counter[str] = Counter()

    def run(
        self,
        until: float,
        kinds: Sequence[str],
        every_s: float,
        meanwhile: Sequence[Callable[[], None]],
        kinds_min: int = 0,
        at_latest: float = 0.0,
    ) -> None:
        """Every kind in turn, in an order drawn anew each time round. When the time is over, nothing stays away.

        It is not over before so many kinds have taken effect, or it is ``at_latest``.
        """
        dealt = self._deal(kinds)
        next_at = time.monotonic() + self._draw.uniform(0.5, 1.5) * every_s
        while (now := time.monotonic()) < until or (now < at_latest and self._kinds() < kinds_min):
            self._replace_dead_nodes()
            if now >= next_at:
                self.strike(next(dealt))
                next_at = time.monotonic() + self._draw.uniform(0.5, 1.5) * every_s
            for step in meanwhile:
                step()
            time.sleep(POLL_S)
        for what in list(self._away):
            self._come_back(what)
        self._replace_dead_nodes()

    def strike(self, kind: str) -> None:
        """One fault of ``kind``, if there is something to hit just now."""
        leaders = self._ground.leaders()
        hit = FAULTS[kind](self)
        if hit is None:
            self.skipped[kind] += 1
            return
        shards = tuple(shard for shard, actor in leaders.items() if kind in OF_EVERY_SHARD or actor in hit.actors)
        self.faults.append(Fault(kind, hit.at, hit.target, shards, round(hit.seconds, 1)))
        with self._history.open("ab") as file:
            file.write(orjson.dumps(asdict(self.faults[-1])) + b"\n")

    def _kinds(self) -> int:
        return len({fault.kind for fault in self.faults})

    def _deal(self, kinds: Sequence[str]) -> Iterator[str]:
        while True:
            yield from self._draw.sample(kinds, len(kinds))

    def _replace_dead_nodes(self) -> None:
        """Put others in the place of raylets that are dead: killed, or given up by Ray while they were stopped."""
        if "GCS" in self._away:
            return  # nobody could join
        for node in self._ground.dead_nodes():
            self._ground.lose_node(node)

    def _some(self, span_s: tuple[float, float]) -> float:
        """A time within the span, more often a short one than a long one."""
        least, most = span_s
        return float(least * (most / least) ** self._draw.random())

    def _take_away(self, what: Hashable, seconds: float, back: Callable[[], object]) -> float:
        """Note that ``what`` is away; ``back`` brings it back. Returns ``seconds``."""
        timer = threading.Timer(seconds, self._come_back, [what])
        self._away[what] = timer, back
        timer.start()
        return seconds

    def _come_back(self, what: Hashable) -> None:
        timer, back = self._away.pop(what, (None, None))
        if timer is not None and back is not None:
            timer.cancel()
            back()

    def _stop(self, pid: int, target: str, actors: frozenset[str] = frozenset()) -> Hit | None:
        at = time.monotonic_ns()
        if pid in self._away or not kill(pid, signal.SIGSTOP):
            return None
        seconds = self._take_away(pid, self._some(STOPPED_S), lambda: kill(pid, signal.SIGCONT))
        return Hit(target, at, actors, seconds)

    def _killed(self, actor: Actor | None) -> Hit | None:
        at = time.monotonic_ns()
        if actor is None or not self._dies(actor.pid):
            return None
        return Hit(actor.name, at, frozenset({actor.name}))

    def _dies(self, *pids: int) -> bool:
        """SIGKILL; whether anybody was there, and all are gone."""
        there = [kill(pid, signal.SIGKILL) for pid in pids]
        return any(there) and eventually(lambda: not any(parent(pid) for pid in pids), DIES_WITHIN_S)

    # The faults. None where there was nothing to hit.

    def _shard_actor(self) -> Actor | None:
        """One that is not stopped; the more it leads, the more likely."""
        actors = self._ground.actors()
        names = [name for name in sorted(actors) if name.startswith("shard-") and actors[name].pid not in self._away]
        names += [name for name in self._ground.leaders().values() if name in names]
        return actors[self._draw.choice(names)] if names else None

    def kill_shard(self) -> Hit | None:
        """SIGKILL of a shard actor."""
        return self._killed(self._shard_actor())

    def kill_router(self) -> Hit | None:
        """SIGKILL of the router."""
        return self._killed(self._ground.actors().get("router"))

    def kill_controller(self) -> Hit | None:
        """SIGKILL of the controller."""
        return self._killed(self._ground.actors().get("controller"))

    def kill_all(self) -> Hit | None:
        """SIGKILL of every shard actor at once."""
        actors = [actor for name, actor in self._ground.actors().items() if name.startswith("shard-")]
        at = time.monotonic_ns()
        died = self._dies(*(actor.pid for actor in actors))
        return Hit("every shard actor", at, frozenset(actor.name for actor in actors)) if died else None

    def stop_shard(self) -> Hit | None:
        """SIGSTOP of a shard actor, which comes back as a zombie."""
        actor = self._shard_actor()
        return None if actor is None else self._stop(actor.pid, actor.name, frozenset({actor.name}))

    def kill_client(self) -> Hit | None:
        """SIGKILL of a client."""
        writing = self._crowd.writing()
        if not writing:
            return None
        at, name = time.monotonic_ns(), self._draw.choice(writing)
        self._crowd.kill(name)
        return Hit(name, at)

    def kill_node(self) -> Hit | None:
        """SIGKILL of a raylet; its actors die of it, and begin again elsewhere. A new raylet joins later."""
        nodes = self._ground.nodes()
        if not nodes:
            return None
        node = self._draw.choice(nodes)
        on_it = frozenset(self._on(node))
        at = time.monotonic_ns()
        return Hit(str(node.node_ip_address), at, on_it) if self._dies(raylet_pid(node)) else None

    def stop_node(self) -> Hit | None:
        """SIGSTOP of a raylet: for long, and Ray gives it up while its actors still run."""
        nodes = self._ground.nodes()
        if not nodes:
            return None
        node = self._draw.choice(nodes)
        return self._stop(raylet_pid(node), str(node.node_ip_address), frozenset(self._on(node)))

    def join_node(self) -> Hit | None:
        """One more raylet joins, and gets an actor once all is calm; the next one that dies is not replaced."""
        if "GCS" in self._away or len(self._ground.all_nodes()) > NODES:
            return None
        at = time.monotonic_ns()
        return Hit(self._ground.add_node(), at)

    def change_shards(self) -> Hit | None:
        """One shard more is wanted, or one fewer: it is added, or retired for good."""
        at = time.monotonic_ns()
        try:
            return Hit(f"{self._ground.change_shards()} shards", at)
        except ringlog.RinglogError:
            return None  # whoever decides it is away

    def wipe(self) -> Hit | None:
        """A shard actor dies and its disk with it; only where every shard can bear the loss of one."""
        if not self._bears_a_loss():
            return None
        actor = self._shard_actor()
        if actor is None or not self._wiped(actor):
            return None
        return self._killed(actor)

    def wipe_node(self) -> Hit | None:
        """A raylet dies, and its shard actor with its disk: that begins anew elsewhere, with nothing."""
        if not self._bears_a_loss():
            return None
        homes = [
            (node, [actor for name, actor in self._on(node).items() if name.startswith("shard-")])
            for node in self._ground.nodes()
        ]
        alone = [(node, actors[0]) for node, actors in homes if len(actors) == 1]
        if not alone:
            return None
        node, actor = self._draw.choice(alone)
        on_it = frozenset(self._on(node))
        at = time.monotonic_ns()
        if not self._wiped(actor):
            return None
        died = self._dies(raylet_pid(node), actor.pid)
        return Hit(f"{node.node_ip_address} with {actor.name}", at, on_it) if died else None

    def disk_full(self) -> Hit | None:
        """No file of a shard actor can grow any more: its next write fails, and it ends rather than to lie."""
        actor = self._shard_actor()
        if actor is None:
            return None
        at = time.monotonic_ns()
        try:
            _, hard = resource.prlimit(actor.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(actor.pid, resource.RLIMIT_FSIZE, (1, hard))
        except ProcessLookupError:
            return None
        gone = eventually(lambda: parent(actor.pid) is None, FILLS_WITHIN_S)
        return Hit(actor.name, at, frozenset({actor.name})) if gone else None

    def stop_gcs(self) -> Hit | None:
        """SIGSTOP of Ray's control store: nothing restarts and nobody is found meanwhile."""
        if "GCS" in self._away:
            return None
        at, seconds = time.monotonic_ns(), self._some(STOPPED_S)
        self._take_away("GCS", seconds, self._ground.stop_gcs(seconds))
        return Hit("GCS", at, seconds=seconds)

    def kill_gcs(self) -> Hit | None:
        """SIGKILL of Ray's control store; it begins again with what it has on disk."""
        if "GCS" in self._away:
            return None
        at, seconds = time.monotonic_ns(), self._some(STOPPED_S)
        self._ground.kill_gcs(seconds)
        self._take_away("GCS", seconds, lambda: None)
        return Hit("GCS", at, seconds=seconds)

    def kill_etcd(self) -> Hit | None:
        """SIGKILL of the metadata store; it begins again on its data."""
        return self._kill_server("etcd")

    def stop_etcd(self) -> Hit | None:
        """SIGSTOP of the metadata store."""
        return self._stop_server("etcd")

    def kill_s3(self) -> Hit | None:
        """SIGKILL of the object store; it begins again on its data."""
        return self._kill_server("s3")

    def stop_s3(self) -> Hit | None:
        """SIGSTOP of the object store."""
        return self._stop_server("s3")

    def cut_node(self) -> Hit | None:
        """A node is cut off from all others: what it leads has no majority, and does not know it yet."""
        network = self._ground.network
        if network is None:
            return None
        node = self._draw.choice(network.nodes)
        homes = {str(one.node_ip_address): one for one in self._ground.all_nodes()}
        return self._cut(network.link_of(node), frozenset(self._on(homes[network.address(node)])))

    def cut_half(self) -> Hit | None:
        """The one half of the nodes is cut off from the other."""
        network = self._ground.network
        return None if network is None else self._cut(network.link_between, frozenset(self._ground.actors()))

    def _cut(self, link: str, actors: frozenset[str]) -> Hit | None:
        network = self._ground.network
        if network is None or link in self._away:
            return None
        at = time.monotonic_ns()
        network.cut(link)
        return Hit(link, at, actors, self._take_away(link, self._some(CUT_S), lambda: network.mend(link)))

    def _kill_server(self, name: str) -> Hit | None:
        server = self._ground.stores.servers.get(name)
        if server is None or name in self._away:
            return None
        at = time.monotonic_ns()
        server.kill()
        return Hit(name, at, seconds=self._take_away(name, self._some(AWAY_S[name]), server.start))

    def _stop_server(self, name: str) -> Hit | None:
        server = self._ground.stores.servers.get(name)
        if server is None or name in self._away:
            return None
        at = time.monotonic_ns()
        server.freeze()
        return Hit(name, at, seconds=self._take_away(name, self._some(AWAY_S[name]), server.thaw))

    def _bears_a_loss(self) -> bool:
        """Whether every shard can bear the loss of one disk, or can so soon; servers may be away."""
        return eventually(lambda: set(self._away) <= set(AWAY_S) and self._ground.whole(), HEALS_WITHIN_S)

    def _wiped(self, actor: Actor) -> bool:
        """Stop ``actor`` for good, so that it writes nothing more, and take its journals away."""
        if not kill(actor.pid, signal.SIGSTOP):
            return False
        shutil.rmtree(self._ground.journals_of(actor.name))
        return True

    def _on(self, node: Any) -> dict[str, Actor]:
        return {name: actor for name, actor in self._ground.actors().items() if actor.node == node.node_id}


FAULTS: dict[str, Callable[[Nemesis], Hit | None]] = {
    "kill_shard": Nemesis.kill_shard,
    "stop_shard": Nemesis.stop_shard,
    "kill_all": Nemesis.kill_all,
    "kill_router": Nemesis.kill_router,
    "kill_controller": Nemesis.kill_controller,
    "kill_client": Nemesis.kill_client,
    "kill_node": Nemesis.kill_node,
    "stop_node": Nemesis.stop_node,
    "join_node": Nemesis.join_node,
    "change_shards": Nemesis.change_shards,
    "wipe": Nemesis.wipe,
    "wipe_node": Nemesis.wipe_node,
    "disk_full": Nemesis.disk_full,
    "stop_gcs": Nemesis.stop_gcs,
    "kill_gcs": Nemesis.kill_gcs,
    "kill_etcd": Nemesis.kill_etcd,
    "stop_etcd": Nemesis.stop_etcd,
    "kill_s3": Nemesis.kill_s3,
    "stop_s3": Nemesis.stop_s3,
    "cut_node": Nemesis.cut_node,
    "cut_half": Nemesis.cut_half,
}
SERVER_OF = {"kill_etcd": "etcd", "stop_etcd": "etcd", "kill_s3": "s3", "stop_s3": "s3"}
OF_NODES = {"kill_node", "stop_node", "join_node", "wipe_node"}
"""Not where clients are on those nodes: Ray would end them too."""
OF_NETWORK = {"cut_node", "cut_half"}
OF_EVERY_SHARD = {"kill_router", "kill_controller", "stop_gcs", "kill_gcs", *SERVER_OF}
"""Faults of what all shards lean on: the next acknowledgement of each is waited for."""
