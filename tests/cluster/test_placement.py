"""A node that joins gets an actor from one that has two; a node that dies takes no majority with it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ringlog
from ringlog.actors.cluster import _record
from ringlog.actors.homes import alive_nodes
from ringlog.actors.household import Household
from ringlog.actors.remote import RemoteActor
from ringlog.control.homes import Move
from ringlog.settings import Settings
from waiting import eventually

pytestmark = pytest.mark.cluster

HEAD_IP = "127.0.0.2"
WITHIN_S = 90.0


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
    return whole(status())


def whole(found: dict[str, Any]) -> bool:
    return len(found["actors"]) == len(found["shards"]) and all(
        shard["condition"] == "complete" for shard in found["shards"].values()
    )


def homes() -> dict[str, tuple[str, set[str]]]:
    """The node of each actor, and the ids of its journals, once all is complete: by one look."""
    found: dict[str, Any] = {}

    def look() -> bool:
        found.update(status())
        return whole(found)

    eventually(look)
    return {
        actor: (one["node"], {kept["id"] for kept in one["keeping"].values()}) for actor, one in found["actors"].items()
    }


def by_node() -> Counter[str]:
    return Counter(actor["node"] for actor in status()["actors"].values())


def apart() -> bool:
    """Whether every shard has three members, each on a node of its own."""
    found = status()
    nodes = {actor: one["node"] for actor, one in found["actors"].items()}
    return all(len({nodes.get(actor) for actor in one.get("members", ())}) == 3 for one in found["shards"].values())


def submit(first: int) -> None:
    ringlog.submit_logs([{"body": str(number), "service": f"s{number}"} for number in range(first, first + 200)])


def answers(actor: RemoteActor, other_than: int) -> bool:
    """Whether it is there, in another process."""
    try:
        return bool(actor.call("status", {}, timeout_s=1.0)["pid"] != other_than)
    except ringlog.Unavailable:
        return False


def test_an_actor_for_which_a_node_has_no_room_any_more_stays_or_goes_to_another(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path / "root"), journal_dir=str(tmp_path / "journals"))
    room = settings.shard_buffer_bytes_max * 3 // 2
    made = Cluster()
    try:
        for last in (2, 3):
            made.add_node(node_ip_address=f"127.0.0.{last}", num_cpus=1, memory=room, include_dashboard=False)
        ray.init(address=made.address, _node_ip_address=HEAD_IP, log_to_driver=False)
        household = Household(settings, _record(settings).id, settings.public())
        free, full = alive_nodes()
        there = NodeAffinitySchedulingStrategy(full.id, soft=False)
        other = ray.remote(Counter).options(memory=room, num_cpus=0, scheduling_strategy=there).remote()
        ray.get(other.total.remote())
        eventually(lambda: not household._homes.has_room(full))
        with pytest.raises(ringlog.Unavailable, match=r"stays where it is: 127\.0\.0\.3 has no room"):
            household.move(Move("shard-0", full, parts=False))

        household._begin("shard-0", household._homes.settle("shard-0", full))  # it was full a moment later
        assert household.summon("shard-0", False, ()) is None, "it is Ray's to begin it there"
        begun = household.summon("shard-0", True, ())
        assert begun is not None
        found = begun.call("status", {}, timeout_s=WITHIN_S)
        assert found["node"] == free.id
        household.lives("shard-0", free.id)
        assert household.summon("shard-0", True, ()) is None, "it was there"

        os.kill(found["pid"], signal.SIGSTOP)
        household.restart("shard-0")
        eventually(lambda: answers(begun, other_than=found["pid"]))
    finally:
        ray.shutdown()
        made.shutdown()


def test_who_joins_gets_an_actor_and_the_death_of_any_node_takes_no_majority(cluster: Cluster, tmp_path: Path) -> None:
    with started(tmp_path, shards=4):
        eventually(complete)
        eventually(lambda: sorted(by_node().values()) == [1, 1, 2])  # there is nowhere else
        eventually(apart)
        submit(0)
        before = homes()
        joined = cluster.add_node(node_ip_address="127.0.0.5", num_cpus=1, include_dashboard=False)
        eventually(lambda: set(by_node().values()) == {1} and len(by_node()) == 4 and complete())
        after = homes()
        (moved,) = [actor for actor, (node, _) in before.items() if after[actor][0] != node]
        assert after[moved][0] == joined.node_id
        assert Counter(node for node, _ in before.values())[before[moved][0]] == 2, "of those that shared a node"
        assert not after[moved][1] & before[moved][1], "it began anew"
        submit(200)

        raylet = joined.all_processes["raylet"][0].process
        os.kill(raylet.pid, signal.SIGKILL)
        submit(400)  # no shard lost more than one member
        raylet.wait()
        cluster.remove_node(joined, allow_graceful=False)
        eventually(complete)
        assert ringlog.sql("SELECT count(*), count(DISTINCT body) FROM logs").fetchall() == [(600, 600)]
