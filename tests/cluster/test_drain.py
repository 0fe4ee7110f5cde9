"""A node that is told to end: its leaders move away before, and its actors are replaced without waiting for it after."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import ringlog
from ringlog.actors.controller import REPLACE_S
from waiting import eventually

pytestmark = pytest.mark.cluster

HEAD_IP = "127.0.0.2"


def test_a_node_that_is_told_to_end_leads_nothing_any_more_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"period_ms": "500", "timeout_ms": "1000", "failure_threshold": "3"}.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    cluster, running = Cluster(), None
    try:
        for last in (2, 3, 4):
            cluster.add_node(node_ip_address=f"127.0.0.{last}", num_cpus=1, include_dashboard=False)
        ray.init(address=cluster.address, _node_ip_address=HEAD_IP, log_to_driver=False)
        running = ringlog.start(str(tmp_path / "root"), journal_dir=str(tmp_path / "journals"))
        eventually(whole, 60)
        actors = ringlog.status()["actors"]
        homes = {actor["node"]: name for name, actor in actors.items()}
        node = next(one for one in cluster.worker_nodes if one.node_id in homes)
        on_it = {name for name, actor in actors.items() if actor["node"] == node.node_id}
        ringlog.submit_logs([{"body": str(number), "service": f"s{number}"} for number in range(100)])

        drain = ["drain-node", "--address", cluster.address, "--node-id", node.node_id]
        reason = [
            "--reason",
            "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message",
            "spot",
            "--deadline-remaining-seconds",
        ]
        script = str(Path(sys.executable).with_name("ray"))
        subprocess.run([sys.executable, script, *drain, *reason, "600"], check=True, env=os.environ, timeout=60)
        eventually(lambda: led_by_others(on_it), 30)
        ringlog.submit_logs([{"body": str(number), "service": f"s{number}"} for number in range(100, 200)])

        began = time.monotonic()
        cluster.remove_node(node, allow_graceful=False)
        eventually(lambda: whole() and moved(on_it, node.node_id), REPLACE_S * 0.9)
        assert time.monotonic() - began < REPLACE_S, "it was not waited for"
        assert ringlog.sql("SELECT count(*), count(DISTINCT body) FROM logs").fetchall() == [(200, 200)]
    finally:
        if running is not None:  # never one that was there already
            ringlog.stop()
        ray.shutdown()
        cluster.shutdown()


def whole() -> bool:
    shards = ringlog.status()["shards"].values()
    return all(shard["condition"] == "complete" for shard in shards)


def led_by_others(actors: set[str]) -> bool:
    status = ringlog.status()
    leaders = {shard["leader"] for shard in status["shards"].values()}
    return None not in leaders and not leaders & actors and actors <= set(status["actors"])


def moved(actors: set[str], node: str) -> bool:
    found = ringlog.status()["actors"]
    return all(actor in found and found[actor]["node"] != node for actor in actors)
