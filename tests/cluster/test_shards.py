"""Shards are added and retired while somebody writes; what was acknowledged is there once, and nobody waits for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import ringlog
from cluster.test_operating import environment, run
from conftest import local_ray
from ringlog.actors.remote import NAMESPACE
from waiting import eventually

pytestmark = pytest.mark.cluster

WITHIN_S = 120.0


class Writer:
    """Submits ten records of ten services at a time, all the time, and knows what was acknowledged and where."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()
        self.shards: Counter[str] = Counter()
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            bodies = [str(number + more) for more in range(10)]
            number += 10
            try:
                ack = ringlog.submit_logs([{"body": body, "service": f"s{int(body) % 97}"} for body in bodies])
                self.acknowledged.update(bodies)
                self.shards.update(part.shard for part in ack.parts)
            except ringlog.OutcomeUnknown:
                self.unknown.update(bodies)
            except ringlog.RinglogError as error:
                self.failed.append(str(error))
            self._stop.wait(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with local_ray():
        ringlog.start(str(tmp_path / "root"), journal_dir=str(tmp_path / "journals"))
        made = Writer()
        yield made
        made.stop()
        ringlog.stop()


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("ringlog")), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())


def kill(name: str) -> None:
    actors = ray._private.state.state.actor_table(None).values()
    (pid,) = [one["Pid"] for one in actors if one["Name"] == name and one["State"] == "ALIVE"]
    os.kill(pid, signal.SIGKILL)


def test_shards_are_added_and_retired_under_load_whatever_becomes_of_the_controller(
    writer: Writer, tmp_path: Path
) -> None:
    root = str(tmp_path / "root")
    eventually(lambda: len(writer.shards) == 3)
    code, told = run("shards", "4", "--json")
    assert (code, json.loads(told.splitlines()[-1])) == (0, {"shards": 4, "to_do": []}), told
    eventually(lambda: writer.shards["shard-3"] > 20)

    refused = run("up", "--root", root, "--shards", "3")
    assert refused[0] == 1
    assert "has shards=4, not 3" in refused[1]
    assert "ringlog shards 3" in refused[1]

    changing = begin("shards", "3")
    eventually(lambda: ringlog.status()["shards"]["shard-3"]["retiring"])
    kill("controller")
    told, _ = changing.communicate(timeout=WITHIN_S)
    assert changing.returncode == 0, told
    assert told.splitlines()[-1] == "3 shards take records"
    with pytest.raises(ValueError, match="shard-3"):
        ray.get_actor("shard-3", namespace=NAMESPACE)
    before = writer.shards.copy()
    eventually(lambda: sum(writer.shards.values()) > sum(before.values()) + 100)
    assert writer.shards["shard-3"] == before["shard-3"]
    eventually(lambda: not list((tmp_path / "journals").glob("*/shard-3/*/state.json")))
    assert not list((tmp_path / "journals").glob("*/*/shard-3"))

    assert run("shards", "4")[0] == 0
    eventually(lambda: writer.shards["shard-3"] > before["shard-3"] + 20)
    writer.stop()
    assert writer.failed == []
    bodies = [body for (body,) in ringlog.sql("SELECT body FROM logs").fetchall()]
    assert writer.acknowledged <= set(bodies) <= writer.acknowledged | writer.unknown
    assert len(set(bodies)) == len(bodies)
    ringlog.flush()
    offsets = ringlog.sql("SELECT record_offset FROM logs WHERE shard = 'shard-3' ORDER BY 1").fetchall()
    assert [offset for (offset,) in offsets] == list(range(len(offsets))), "it went on where it ended"


def test_a_root_comes_up_with_the_shards_that_it_has(tmp_path: Path) -> None:
    root, journals = str(tmp_path / "root"), str(tmp_path / "journals")
    with local_ray():
        ringlog.start(root, journal_dir=journals)
        assert run("shards", "5")[0] == 0
        ringlog.submit_logs([{"body": str(number), "service": f"s{number}"} for number in range(200)])
        ringlog.stop()
        ringlog.start(root, journal_dir=journals)
        assert len(ringlog.status()["shards"]) == 5
        assert ringlog.sql("SELECT count(*) FROM logs").fetchall() == [(200,)]
        ringlog.stop()
        with pytest.raises(ringlog.ConfigurationError, match="has shards=5, not 3: leave the setting out"):
            ringlog.start(root, journal_dir=journals, shards=3)
