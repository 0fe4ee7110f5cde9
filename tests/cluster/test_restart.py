"""Everything dies at once, or the metadata store does, under load; what was acknowledged is there once afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import ray
from deltalake import DeltaTable
from typer.testing import CliRunner

import ringlog
from conftest import local_ray
from etcd import Etcd
from own_cluster import OwnCluster
from ringlog.actors import cluster
from ringlog.cli import app
from waiting import eventually

pytestmark = pytest.mark.cluster

SUBMITTER = Path(__file__).with_name("submitter.py")
SHARDS = ["shard-0", "shard-1", "shard-2"]
WITHIN_S = 90.0


class History:
    """What a client was told, as far as it is written down."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acknowledged(self) -> list[tuple[int, int, float, float]]:
        """`submitter.py` says what each is."""
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    def within(self, begin: float, end: float) -> int:
        """How many submits both began and were acknowledged in that time."""
        return sum(begin < began and ended < end for _, _, began, ended in self.acknowledged())


def check(root: Path, histories: dict[str, History]) -> None:
    """Read the table alone: every record that was acknowledged is there, none is twice, and no offset is missing."""
    table = DeltaTable(f"{root}/logs").to_pyarrow_table(columns=["body", "shard", "record_offset"])
    bodies = Counter(table["body"].to_pylist())
    told = {
        f"{name} {number}"
        for name, history in histories.items()
        for first, count, _, _ in history.acknowledged()
        for number in range(first, first + count)
    }
    assert len(told) > 500, "the load was too low"
    assert told <= bodies.keys()
    assert set(bodies.values()) == {1}
    offsets: dict[str, list[int]] = defaultdict(list)
    for shard, offset in zip(table["shard"].to_pylist(), table["record_offset"].to_pylist(), strict=True):
        offsets[shard].append(offset)
    assert sorted(offsets) == SHARDS
    for found in offsets.values():
        assert sorted(found) == list(range(len(found)))


def archived(status: dict) -> bool:  # type: ignore[type-arg]
    shards = status["shards"].values()
    return all(shard["leader"] and shard["archived"] == shard["committed"] for shard in shards)


def test_a_sigkill_of_every_process_under_load_loses_nothing(tmp_path: Path) -> None:
    """GCS, raylets, dashboard, agents, actors and clients, at once; then `ringlog up` in a new Ray cluster."""
    root, journals = tmp_path / "root", tmp_path / "journals"
    up = ("up", "--root", str(root), "--journal-dir", str(journals))
    histories = {name: History(tmp_path / name) for name in ("one", "two")}
    with OwnCluster(port=6431, nodes=2, variables={"RINGLOG_FLUSH_AGE_S": "2"}) as own:
        own.start()
        first = own.ringlog(*up, timeout_s=WITHIN_S)
        assert first.returncode == 0, first.stderr
        assert "recovered" not in first.stdout, "there was nothing"
        clients = [
            own.begin(sys.executable, SUBMITTER, name, tmp_path / name, "20", stdin=subprocess.PIPE)
            for name in histories
        ]
        # Some of it is in the table by then, and some is not.
        eventually(lambda: (root / "logs").exists() and DeltaTable(f"{root}/logs").version() >= 3)
        eventually(lambda: all(len(history.acknowledged()) > 200 for history in histories.values()))
        for client in clients:
            assert client.poll() is None
        assert own.kill(*clients) > 10
        before = {name: history.acknowledged() for name, history in histories.items()}

        own.start()
        again = own.ringlog(*up, timeout_s=WITHIN_S)
        assert again.returncode == 0, again.stderr
        assert re.search("recovered [1-3] of 3 shards, with [1-9][0-9,]* records that only", again.stdout)
        eventually(lambda: archived(json.loads(own.ringlog("status", "--json", timeout_s=WITHIN_S).stdout)))
        assert "recovered" not in own.ringlog(*up, timeout_s=WITHIN_S).stdout, "it runs already"
    assert {name: history.acknowledged() for name, history in histories.items()} == before
    check(root, histories)


@pytest.fixture
def three_journals(tmp_path: Path) -> Path:
    """A root with 600 acknowledged records that only the journals of three shard actors hold; no Ray runs."""
    with local_ray():
        running = ringlog.start(str(tmp_path / "root"), journal_dir=str(tmp_path / "journals"))
        running.submit_logs([{"body": f"record {number}", "service": f"s{number}"} for number in range(600)])
        eventually(caught_up)
        kill_shard_actors()
        running.close()
    return tmp_path


def kill_shard_actors() -> None:
    for actor in ringlog.status()["actors"].values():
        os.kill(actor["pid"], signal.SIGKILL)


def leader_of(shard: str) -> tuple[int, int]:
    """The epoch in which it is led, and the pid of who leads it."""
    found: list[tuple[int, int]] = []

    def led() -> bool:
        status = ringlog.status()
        one = status["shards"][shard]
        found.append((one["epoch"], status["actors"][one["leader"]]["pid"]))
        return True

    eventually(led)
    return found[-1]


def caught_up() -> bool:
    shards = ringlog.status()["shards"].values()
    return all(
        len(shard.get("members", ())) == 3
        and all(member["end"] == shard["committed"] for member in shard["members"].values())
        for shard in shards
    )


def bodies() -> list[str]:
    return sorted(body for (body,) in ringlog.sql("SELECT body FROM logs").fetchall())


def up(folder: Path) -> tuple[int, str]:
    """`ringlog up` in the Ray of this process: its exit code, and what it prints."""
    done = CliRunner().invoke(app, ["up", "--root", str(folder / "root"), "--journal-dir", str(folder / "journals")])
    error = "" if done.exception is None else str(done.exception)
    return done.exit_code, " ".join((done.stdout + done.stderr + error).split())


def test_a_node_that_never_comes_back_and_too_few_journals(
    three_journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three, one may be gone for good; with two gone, nothing is guessed, and coming back loses nothing."""
    monkeypatch.setenv("COLUMNS", "250")
    (pipeline,) = (three_journals / "journals").iterdir()
    away = three_journals / "away"
    away.mkdir()
    expected = sorted(f"record {number}" for number in range(600))
    for lost in ("shard-1", "shard-2"):
        shutil.move(pipeline / lost, away / lost)
    told = ""

    def tells_what_is_missing() -> bool:
        """Until the actor that is there has answered, and it is known why the others do not, some of it is not known."""
        nonlocal told
        code, told = up(three_journals)
        assert code == 1
        known_why = re.findall(r"shard-1 waits for its journals, on [^(]*\(journal ", told)
        return told.count(" is UNAVAILABLE: 1 of the 2 journals") == len(known_why) == 3

    with local_ray():
        with monkeypatch.context() as hasty:
            hasty.setattr(cluster, "START_DEADLINE_S", 12.0)
            eventually(tells_what_is_missing)
        for shard in SHARDS:
            assert f"{shard} is UNAVAILABLE: 1 of the 2 journals that it needs can be read" in told
            assert f"ringlog recover --accept-loss {shard}" in told
        assert "look again with `ringlog recover`" in told
        assert (pipeline / "shard-1").exists() is False, "nobody begins anew where it may be needed as who it was"
        shutil.move(away / "shard-1", pipeline / "shard-1")
        eventually(lambda: all(one["leader"] for one in cluster.connect().status()["shards"].values()))
        assert up(three_journals)[0] == 0
        assert bodies() == expected
        kill_shard_actors()
        ringlog.connect().close()
    with local_ray():
        code, told = up(three_journals)
        assert code == 0, told
        assert "recovered 3 of 3 shards, with 600 records that only the journals had" in told
        assert bodies() == expected
        # No epoch that opened counts on the one that is gone: it begins anew, and is given everything.
        eventually(lambda: all(one["condition"] == "complete" for one in ringlog.status()["shards"].values()))
        assert bodies() == expected
        ringlog.flush()
        ringlog.stop()
    assert sorted(DeltaTable(f"{three_journals}/root/logs").to_pyarrow_table()["body"].to_pylist()) == expected


@pytest.mark.etcd
def test_etcd_killed_and_restarted_under_load_loses_nothing_and_stops_no_append(tmp_path: Path) -> None:
    root, journals = tmp_path / "root", tmp_path / "journals"
    history = History(tmp_path / "client")
    with Etcd(tmp_path / "etcd") as etcd, local_ray():
        ringlog.start(str(root), journal_dir=str(journals), metadata=etcd.url("logs"), flush_age_s=2.0)
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        client = subprocess.Popen(
            [sys.executable, str(SUBMITTER), "client", str(tmp_path / "client"), "60"],
            env=environment,
            stdin=subprocess.PIPE,
        )
        try:
            eventually(lambda: len(history.acknowledged()) > 100)
            etcd.kill()
            away_from = time.monotonic()
            version = DeltaTable(f"{root}/logs").version()
            eventually(lambda: history.within(away_from, time.monotonic()) > 300)
            eventually(lambda: "etcd" in str(ringlog.status()["metadata_trouble"]))
            eventually(lambda: DeltaTable(f"{root}/logs").version() > version)
            etcd.start()
            away_until = time.monotonic()
            etcd.wait()
            assert history.within(away_from, away_until) > 300, "each began and was acknowledged while etcd was away"

            epoch, pid = leader_of("shard-0")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: (ringlog.status()["shards"]["shard-0"].get("epoch") or 0) > epoch)
            led_again = time.monotonic()
            eventually(lambda: history.within(led_again, time.monotonic()) > 100)
            eventually(lambda: all(s["condition"] == "complete" for s in ringlog.status()["shards"].values()))
            eventually(lambda: ringlog.status()["metadata_trouble"] is None)
            client.communicate(timeout=WITHIN_S)
            assert client.returncode == 0
        finally:
            client.kill()
            client.wait()
        ringlog.flush()
        ringlog.stop()
    check(root, {"client": history})
    assert (
        sum(count for _, count, _, _ in history.acknowledged())
        == DeltaTable(f"{root}/logs").to_pyarrow_table().num_rows
    )
