"""A small Ray cluster of its own on loopback with a pipeline in it, and the servers that it leans on."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray._private.state import state as ray_state
from ray.cluster_utils import Cluster

import ringlog
from chaos_network import Network
from etcd import Etcd
from local_server import free_ports
from ringlog.actors import cluster as ringlog_cluster
from seaweed import SeaweedFS

QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
PATIENT_HEALTH_CHECKS = {"RAY_health_check_failure_threshold": "20"}
"""A node that was cut off is the same when it is back: clients are on it, and Ray would end them with it."""
FAIR_SHARE = {"RAY_worker_niceness": "0"}
"""All nodes and clients share the cores of one machine here: actors must not wait for whoever else is busy."""
GCS_COMES_BACK = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_rpc_server_connect_timeout_s": "60"}
"""Whoever joins while it is away waits for it; the default would be 5 s."""
NODES = SHARDS = 4
REPLICAS = 3
DIES_WITHIN_S = 5.0
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


class Server(Protocol):
    """One that the pipeline leans on. Killed, it keeps its data; frozen, its connections."""

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass(frozen=True)
class Stores:
    """Where the pipeline keeps what outlives it; ``servers``, by name, are those that may be hit."""

    root: str
    metadata: str | None
    servers: Mapping[str, Server]
    environment: Mapping[str, str]

    @property
    def table(self) -> str:
        """The Delta table."""
        return f"{self.root}/logs"


@contextlib.contextmanager
def stores(folder: Path, root: str, metadata: str, host: str) -> Iterator[Stores]:
    """A ``root`` that is a folder or s3, ``metadata`` beside it (root) or in etcd; their servers end with the block.

    The etcd server is reached at ``host``, from every node; the S3 server only on loopback.
    """
    with contextlib.ExitStack() as running:
        url, place, servers, environment = str(folder / "root"), None, dict[str, Server](), dict[str, str]()
        if root == "s3":
            s3 = running.enter_context(SeaweedFS(folder / "s3"))
            url, environment, servers["s3"] = s3.root("chaos"), s3.environment, s3
        if metadata == "etcd":
            etcd = running.enter_context(Etcd(folder / "etcd", host=host))
            place, servers["etcd"] = etcd.url("chaos"), etcd
        yield Stores(url, place, servers, environment)


class Ground:
    """Raylets, of which the first, the head, is never killed: its GCS alone may be stopped.

    They are on 127.0.0.2, .3, …, or each on its own node of ``network``; this process is then on the head's.
    """

    def __init__(self, folder: Path, stores: Stores, network: Network | None) -> None:
        for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
            os.environ.pop(name, None)  # where this is itself a job: of another cluster
        os.environ.update(PATIENT_HEALTH_CHECKS if network else QUICK_HEALTH_CHECKS)
        os.environ.update(stores.environment)
        os.environ.update({**FAIR_SHARE, **GCS_COMES_BACK}, RAY_gcs_storage_path=str(folder / "gcs"))
        self._gcs_port = free_ports(1)[0]
        self.stores, self.network, self.journals = stores, network, folder / "journals"
        self._addresses = (f"127.0.0.{number}" for number in itertools.cycle(range(2, 255)))
        self._cluster = Cluster()
        for _ in range(NODES):
            self.add_node()
        ray.init(address=self.address, _node_ip_address=self.head_ip, log_to_driver=False, logging_level="WARNING")
        self.pipeline = ringlog.start(
            stores.root, metadata=stores.metadata, journal_dir=str(self.journals), shards=SHARDS, replicas=REPLICAS
        )
        self.control = ringlog_cluster.connect()
        self._leaders: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the GCS."""
        return str(self._cluster.address)

    @property
    def head_ip(self) -> str:
        """Of the head."""
        return str(self._cluster.head_node.node_ip_address)

    def stop_gcs(self, seconds: float) -> Callable[[], object]:
        """SIGSTOP of Ray's control store, and SIGCONT so much later; waits for that.

        Another process sees to it: a call of Ray that waits for the store may hold up all threads of this one.
        """
        pid = self._gcs().pid
        kill(pid, signal.SIGSTOP)
        return subprocess.Popen(["sh", "-c", 'sleep "$0"; kill -CONT "$1"', f"{seconds:.2f}", str(pid)]).wait

    def kill_gcs(self, seconds: float) -> None:
        """SIGKILL of Ray's control store, which begins again so much later, at the same port, with what is on disk."""
        gcs = self._gcs()
        command, environment = (
            Path(f"/proc/{gcs.pid}/{name}").read_bytes().split(b"\0")[:-1] for name in ("cmdline", "environ")
        )
        gcs.kill()
        gcs.wait()
        again = subprocess.Popen(
            ["sh", "-c", 'sleep "$0"; exec "$@"', f"{seconds:.2f}", *command],
            env=dict(pair.split(b"=", 1) for pair in environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes = self._cluster.head_node.all_processes["gcs_server"]
        processes[0] = processes[0]._replace(process=again)

    def _gcs(self) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self._cluster.head_node.all_processes["gcs_server"][0].process
        return process

    @property
    def logs(self) -> Path:
        """Where Ray's processes and the actors write their logs."""
        return Path(self._cluster.head_node.get_session_dir_path()) / "logs"

    def add_node(self) -> str:
        """One more raylet, at the next address of loopback or the first of the network that has none; its address."""
        taken = {str(node.node_ip_address) for node in self.all_nodes()}
        if self.network is None:
            return self._add_node(next(ip for ip in self._addresses if ip not in taken))
        node = next(node for node in self.network.nodes if self.network.address(node) not in taken)
        with self.network.inside(node):
            return self._add_node(self.network.address(node))

    def _add_node(self, address: str) -> str:
        options = {} if self.all_nodes() else {"gcs_server_port": self._gcs_port}
        self._cluster.add_node(node_ip_address=address, num_cpus=1, include_dashboard=False, **options)
        return address

    def nodes(self) -> list[Any]:
        """The raylets that may be hit: those that live, but for the head's."""
        return [node for node in self._workers() if parent(raylet_pid(node))]

    def dead_nodes(self) -> list[Any]:
        """The raylets that have died, and have not been replaced yet."""
        return [node for node in self._workers() if not parent(raylet_pid(node))]

    def _workers(self) -> list[Any]:
        return sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_ip_address))

    def all_nodes(self) -> list[Any]:
        """All raylets, the head's too."""
        return list(self._cluster.list_all_nodes())

    def actors(self) -> dict[str, Actor]:
        """The pipeline's actors that run, by name; only such that are children of a raylet of this cluster."""
        raylets = {raylet_pid(node) for node in self.all_nodes()}
        return {
            one["Name"]: Actor(one["Name"], one["Pid"], one["Address"]["NodeID"])
            for one in ray_state.actor_table(None).values()
            if one["State"] == "ALIVE" and one["IsDetached"] and parent(one["Pid"]) in raylets
        }

    def leaders(self) -> dict[str, str]:
        """The actor that leads each shard; while the router is away, what it said before."""
        with contextlib.suppress(ringlog.Unavailable):
            routes = self.control.routes({})
            known = {**self._leaders, **{shard: one["actor"] for shard, one in routes["leaders"].items()}}
            self._leaders = {shard: actor for shard, actor in known.items() if shard in routes["shards"]}
        return self._leaders

    def whole(self) -> bool:
        """Whether every shard is led, with as many current members as wished, and none is about to be retired."""
        try:
            status = self.control.status()
        except ringlog.Unavailable:
            return False
        actors = status["actors"]
        for shard, one in status["shards"].items():
            kept = {actor: said["keeping"].get(shard, {}).get("id") for actor, said in actors.items()}
            members = {actor: member["id"] for actor, member in one.get("members", {}).items()}
            current = sum(kept.get(actor) == id for actor, id in members.items())
            if one["leader"] is None or one["retiring"] or current < REPLICAS:
                return False
        return len(actors) == len(status["shards"]) and not status["lingering"]

    def change_shards(self) -> int:
        """Want one shard more than at first, or no longer; how many. Raises `RinglogError`."""
        taking = sum(not shard["retiring"] for shard in self.control.status()["shards"].values())
        number = SHARDS if taking > SHARDS else SHARDS + 1
        self.control.change_shards(number)
        return number

    def told(self) -> dict[str, Any]:
        """What the pipeline says of itself, for whoever must find out why it is not whole."""
        try:
            return dict(self.control.status())
        except ringlog.Unavailable as error:
            return {"error": str(error)}

    def lose_node(self, node: Any) -> None:
        """Clean up after a raylet that is dead, and put another one there, unless there are more than at first."""
        self._cluster.remove_node(node, allow_graceful=False)
        if len(self.all_nodes()) < NODES:
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
