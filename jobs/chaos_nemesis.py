"""A small Ray cluster of its own on loopback with a pipeline in it, and who breaks it, from one seed."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import ray
from ray._private.state import state as ray_state
from ray.cluster_utils import Cluster

import ringlog
from chaos_history import Fault
from ringlog.actors import cluster as ringlog_cluster

HEAD_IP = "127.0.0.2"
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
SHARDS = REPLICAS = 3
DIES_WITHIN_S = 5.0
FILLS_WITHIN_S = 10.0
HEALS_WITHIN_S = 20.0
STOPPED_S = (1.0, 8.0)
POLL_S = 0.05


def eventually(holds: Callable[[], bool], within_s: float) -> bool:
    """Whether ``holds`` comes true in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def parent(pid: int) -> int | None:
    """The parent of a process that runs or is stopped; None where there is none (a zombie is none)."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(parent)


@dataclass(frozen=True)
class Actor:
    """A running actor of the pipeline."""

    name: str
    pid: int
    node: str


class Ground:
    """Raylets on 127.0.0.2, .3, …, of which the first is never hit: it is Ray's own single point."""

    def __init__(self, folder: Path, nodes: int) -> None:
        for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
            os.environ.pop(name, None)  # where this is itself a job: of another cluster
        os.environ.update(QUICK_HEALTH_CHECKS)
        self.root, self.journals = folder / "root", folder / "journals"
        self._addresses = iter(range(2, 255))
        self._cluster = Cluster()
        for _ in range(nodes):
            self.add_node()
        ray.init(address=self._cluster.address, _node_ip_address=HEAD_IP, log_to_driver=False, logging_level="WARNING")
        self.pipeline = ringlog.start(str(self.root), journal_dir=str(self.journals), shards=SHARDS, replicas=REPLICAS)
        self.control = ringlog_cluster.connect()
        self._leaders: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the GCS."""
        return str(self._cluster.address)

    @property
    def table(self) -> str:
        """The Delta table."""
        return f"{self.root}/logs"

    def add_node(self) -> None:
        """One more raylet."""
        self._cluster.add_node(node_ip_address=f"127.0.0.{next(self._addresses)}", num_cpus=1, include_dashboard=False)

    def nodes(self) -> list[Any]:
        """The raylets that may be hit."""
        return sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_ip_address))

    def actors(self) -> dict[str, Actor]:
        """The pipeline's actors that run, by name; only such that are children of a raylet of this cluster."""
        raylets = {raylet_pid(node) for node in (*self._cluster.worker_nodes, self._cluster.head_node)}
        return {
            one["Name"]: Actor(one["Name"], one["Pid"], one["Address"]["NodeID"])
            for one in ray_state.actor_table(None).values()
            if one["State"] == "ALIVE" and one["IsDetached"] and parent(one["Pid"]) in raylets
        }

    def leaders(self) -> dict[str, str]:
        """The actor that leads each shard; while the router is away, what it said before."""
        with contextlib.suppress(ringlog.Unavailable):
            leaders = self.control.routes({})["leaders"]
            self._leaders = {**self._leaders, **{shard: one["actor"] for shard, one in leaders.items()}}
        return self._leaders

    def whole(self) -> bool:
        """Whether every shard is led, with as many current members as wished."""
        try:
            status = self.control.status()
        except ringlog.Unavailable:
            return False
        actors = status["actors"]
        for shard, one in status["shards"].items():
            kept = {actor: said["keeping"].get(shard, {}).get("id") for actor, said in actors.items()}
            members = {actor: member["id"] for actor, member in one.get("members", {}).items()}
            current = sum(kept.get(actor) == id for actor, id in members.items())
            if one["leader"] is None or current < REPLICAS:
                return False
        return len(actors) == SHARDS

    def lose_node(self, node: Any) -> None:
        """Clean up after a raylet that is dead, and put another one there."""
        self._cluster.remove_node(node, allow_graceful=False)
        self.add_node()

    def journals_of(self, actor: str) -> Path:
        """The folder of an actor's journals."""
        (folder,) = self.journals.glob(f"*/{actor}")
        return folder

    def close(self) -> None:
        """End everything that was started here."""
        pids = [actor.pid for actor in self.actors().values()]
        try:
            self.pipeline.stop()
        except ringlog.RinglogError as error:
            print(f"the pipeline did not stop by itself: {error}", file=sys.stderr)
        finally:
            ray.shutdown()
            self._cluster.shutdown()
            if not eventually(lambda: not any(parent(pid) for pid in pids), DIES_WITHIN_S):
                for pid in pids:
                    kill(pid, signal.SIGKILL)


def raylet_pid(node: Any) -> int:
    """The process of a node that Ray calls raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def kill(pid: int, signal_number: int) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


class Crowd:
    """The client processes. One that is killed is followed by another, under a name of its own."""

    def __init__(self, ground: Ground, folder: Path, clients: int, draw: random.Random) -> None:
        self._ground = ground
        self._folder = folder
        self._draw = draw
        self._names = (f"client-{number}" for number in range(10_000))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.reader = self._begin("read", "reader")
        for _ in range(clients):
            self.begin()

    def begin(self) -> None:
        """One more client."""
        name = next(self._names)
        self._running[name] = self._begin("submit", name)

    def writing(self) -> list[str]:
        """Those that have begun to submit."""
        return [name for name in self._running if (self._folder / f"{name}.jsonl").exists()]

    def kill(self, name: str) -> None:
        """SIGKILL it; another takes its place."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        self.begin()

    def finish(self, within_s: float) -> list[str]:
        """Let all of them come to their end; what did not."""
        running = {"reader": self.reader, **self._running}
        for process in running.values():
            if process.stdin:
                process.stdin.close()
        deadline = time.monotonic() + within_s
        failed = []
        for name, process in running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                failed.append(f"{name} ended with {code}: {(self._folder / f'{name}.err').read_text()[-2000:]}")
        return failed

    def close(self) -> None:
        """End whoever still runs."""
        for process in (self.reader, *self._running.values()):
            process.kill()
            process.wait()

    def _begin(self, role: str, name: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("chaos_client.py")
        given = {
            "address": self._ground.address,
            "node-ip": HEAD_IP,
            "table": self._ground.table,
            "history": self._folder / f"{name}.jsonl",
            "name": name,
            "seed": self._draw.getrandbits(32),
        }
        options = [f"--{option}={value}" for option, value in given.items()]
        with (self._folder / f"{name}.err").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, str(script), role, *options], stdin=subprocess.PIPE, stdout=errors, stderr=errors
            )


class Nemesis:
    """Deals faults at times of its own choice. A fault counts only when its effect was seen."""

    def __init__(self, ground: Ground, crowd: Crowd, draw: random.Random, history: Path) -> None:
        self._ground = ground
        self._crowd = crowd
        self._draw = draw
        self._history = history
        self._stopped: dict[int, threading.Timer] = {}  # by pid: who lets it go on
        self.faults: list[Fault] = []
        self.skipped: Counter[str] = Counter()

    def run(self, until: float, kinds: Sequence[str], every_s: float) -> None:
        """Every kind in turn, in an order drawn anew each time round. When the time is over, nothing stays stopped."""
        dealt = self._deal(kinds)
        next_at = time.monotonic() + self._draw.uniform(0.5, 1.5) * every_s
        while (now := time.monotonic()) < until:
            self._replace_dead_nodes()
            if now >= next_at:
                self.strike(next(dealt))
                next_at = time.monotonic() + self._draw.uniform(0.5, 1.5) * every_s
            time.sleep(POLL_S)
        for pid in list(self._stopped):
            self._go_on(pid)
        self._replace_dead_nodes()

    def strike(self, kind: str) -> None:
        """One fault of ``kind``, if there is something to hit just now."""
        leaders = self._ground.leaders()
        at = time.monotonic_ns()
        hit = FAULTS[kind](self)
        if hit is None:
            self.skipped[kind] += 1
            return
        target, actors = hit
        every_shard = kind in ("kill_router", "kill_controller")
        shards = tuple(shard for shard, actor in leaders.items() if every_shard or actor in actors)
        self.faults.append(Fault(kind, at, target, shards))
        with self._history.open("ab") as file:
            file.write(orjson.dumps(asdict(self.faults[-1])) + b"\n")

    def _deal(self, kinds: Sequence[str]) -> Iterator[str]:
        while True:
            yield from self._draw.sample(kinds, len(kinds))

    def _replace_dead_nodes(self) -> None:
        """A raylet that Ray gave up while it was stopped ends itself when it goes on."""
        for node in self._ground.nodes():
            if parent(raylet_pid(node)) is None:
                self._ground.lose_node(node)

    def _stop(self, pid: int) -> bool:
        if pid in self._stopped or not kill(pid, signal.SIGSTOP):
            return False
        self._stopped[pid] = threading.Timer(self._draw.uniform(*STOPPED_S), self._go_on, [pid])
        self._stopped[pid].start()
        return True

    def _go_on(self, pid: int) -> None:
        timer = self._stopped.pop(pid, None)
        if timer is not None:
            timer.cancel()
            kill(pid, signal.SIGCONT)

    # The faults. Each gives what it hit and the shard actors that are hit with it; None where it could not.

    def _shard_actor(self) -> Actor | None:
        """One that is not stopped; the more it leads, the more likely."""
        actors = self._ground.actors()
        names = [name for name in sorted(actors) if name.startswith("shard-") and actors[name].pid not in self._stopped]
        names += [name for name in self._ground.leaders().values() if name in names]
        return actors[self._draw.choice(names)] if names else None

    def kill_shard(self) -> tuple[str, set[str]] | None:
        """SIGKILL of a shard actor."""
        actor = self._shard_actor()
        return self._killed(actor)

    def kill_router(self) -> tuple[str, set[str]] | None:
        """SIGKILL of the router."""
        return self._killed(self._ground.actors().get("router"))

    def kill_controller(self) -> tuple[str, set[str]] | None:
        """SIGKILL of the controller."""
        return self._killed(self._ground.actors().get("controller"))

    def kill_all(self) -> tuple[str, set[str]] | None:
        """SIGKILL of every shard actor at once."""
        actors = [actor for name, actor in self._ground.actors().items() if name.startswith("shard-")]
        for actor in actors:
            kill(actor.pid, signal.SIGKILL)
        gone = eventually(lambda: not any(parent(actor.pid) for actor in actors), DIES_WITHIN_S)
        return ("every shard actor", {actor.name for actor in actors}) if gone and actors else None

    def stop_shard(self) -> tuple[str, set[str]] | None:
        """SIGSTOP of a shard actor, which comes back as a zombie."""
        actor = self._shard_actor()
        if actor is None or not self._stop(actor.pid):
            return None
        return actor.name, {actor.name}

    def kill_client(self) -> tuple[str, set[str]] | None:
        """SIGKILL of a client."""
        writing = self._crowd.writing()
        if not writing:
            return None
        name = self._draw.choice(writing)
        self._crowd.kill(name)
        return name, set()

    def kill_node(self) -> tuple[str, set[str]] | None:
        """SIGKILL of a raylet; its actors die of it, and begin again elsewhere. A new raylet joins."""
        node = self._draw.choice(self._ground.nodes())
        on_it = self._on(node)
        pid = raylet_pid(node)
        if not kill(pid, signal.SIGKILL):
            return None
        self._ground.lose_node(node)
        return str(node.node_ip_address), on_it

    def stop_node(self) -> tuple[str, set[str]] | None:
        """SIGSTOP of a raylet: for long, and Ray gives it up while its actors still run."""
        node = self._draw.choice(self._ground.nodes())
        if not self._stop(raylet_pid(node)):
            return None
        return str(node.node_ip_address), self._on(node)

    def wipe(self) -> tuple[str, set[str]] | None:
        """A shard actor dies and its disk with it; only where every shard can bear the loss of one."""
        bears_it = eventually(lambda: not self._stopped and self._ground.whole(), HEALS_WITHIN_S)
        actor = self._shard_actor()
        if actor is None or not bears_it or not kill(actor.pid, signal.SIGSTOP):
            return None
        folder = self._ground.journals_of(actor.name)
        folder.rename(folder.with_name(f"{actor.name}-wiped-{time.monotonic_ns()}"))
        return self._killed(actor)

    def disk_full(self) -> tuple[str, set[str]] | None:
        """No file of a shard actor can grow any more: its next write fails, and it ends rather than to lie."""
        actor = self._shard_actor()
        if actor is None:
            return None
        try:
            _, hard = resource.prlimit(actor.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(actor.pid, resource.RLIMIT_FSIZE, (1, hard))
        except ProcessLookupError:
            return None
        gone = eventually(lambda: parent(actor.pid) is None, FILLS_WITHIN_S)
        return (actor.name, {actor.name}) if gone else None

    def _killed(self, actor: Actor | None) -> tuple[str, set[str]] | None:
        if actor is None or not kill(actor.pid, signal.SIGKILL):
            return None
        gone = eventually(lambda: parent(actor.pid) is None, DIES_WITHIN_S)
        return (actor.name, {actor.name}) if gone else None

    def _on(self, node: Any) -> set[str]:
        return {name for name, actor in self._ground.actors().items() if actor.node == node.node_id}


FAULTS: dict[str, Callable[[Nemesis], tuple[str, set[str]] | None]] = {
    "kill_shard": Nemesis.kill_shard,
    "stop_shard": Nemesis.stop_shard,
    "kill_all": Nemesis.kill_all,
    "kill_router": Nemesis.kill_router,
    "kill_controller": Nemesis.kill_controller,
    "kill_client": Nemesis.kill_client,
    "kill_node": Nemesis.kill_node,
    "stop_node": Nemesis.stop_node,
    "wipe": Nemesis.wipe,
    "disk_full": Nemesis.disk_full,
}
