"""A node that joins gets an actor from one that has two; a node that dies takes no majority with it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import ringlog

pytestmark = pytest.mark.cluster

HEAD_IP = "127.0.0.2"
WITHIN_S = 90.0


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, ringlog.status()
        pause.wait(0.1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three raylets with quick health checks."""
    for name, value in {"period_ms": "500", "timeout_ms": "1000", "failure_threshold": "3"}.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    made = Cluster()
    try:
        for last in (2, 3, 4):
            made.add_node(node_ip_address=f"127.0.0.{last}", num_cpus=1, include_dashboard=False)
        ray.init(address=made.address, _node_ip_address=HEAD_IP, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@contextlib.contextmanager
def started(folder: Path, **settings: Any) -> Iterator[None]:
    ringlog.start(str(folder / "root"), journal_dir=str(folder / "journals"), **settings)
    try:
        yield
    finally:
        ringlog.stop()


def status() -> dict[str, Any]:
    return ringlog.status()


def complete() -> bool:
    found = status()
    return len(found["actors"]) == len(found["shards"]) and all(
        shard["condition"] == "complete" for shard in found["shards"].values()
    )


def by_node() -> Counter[str]:
    return Counter(actor["node"] for actor in status()["actors"].values())


def ids(actor: str) -> set[str]:
    return {kept["id"] for kept in status()["actors"][actor]["keeping"].values()}


def submit(first: int) -> None:
    ringlog.submit_logs([{"body": str(number), "service": f"s{number}"} for number in range(first, first + 200)])


def test_who_joins_gets_an_actor_and_the_death_of_any_node_takes_no_majority(cluster: Cluster, tmp_path: Path) -> None:
    with started(tmp_path, shards=4):
        eventually(complete)
        assert sorted(by_node().values()) == [1, 1, 2], "there is nowhere else"
        submit(0)
        before = {actor: (one["node"], ids(actor)) for actor, one in status()["actors"].items()}
        joined = cluster.add_node(node_ip_address="127.0.0.5", num_cpus=1, include_dashboard=False)
        eventually(lambda: set(by_node().values()) == {1} and len(by_node()) == 4 and complete())
        (moved,) = [actor for actor, (node, _) in before.items() if status()["actors"][actor]["node"] != node]
        assert status()["actors"][moved]["node"] == joined.node_id
        assert Counter(node for node, _ in before.values())[before[moved][0]] == 2, "of those that shared a node"
        assert not ids(moved) & before[moved][1], "it began anew"
        submit(200)

        raylet = joined.all_processes["raylet"][0].process
        os.kill(raylet.pid, signal.SIGKILL)
        submit(400)  # no shard lost more than one member
        raylet.wait()
        cluster.remove_node(joined, allow_graceful=False)
        eventually(complete)
        assert ringlog.sql("SELECT count(*), count(DISTINCT body) FROM logs").fetchall() == [(600, 600)]
