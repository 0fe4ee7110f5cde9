"""Heartbeats of real hosts over real connections. Silence would tell nothing here before the test is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from actors.test_shard import SHARD, TOKEN, WITHIN_S, Trio, eventually
from ringlog.actors import heartbeats
from ringlog.actors.heartbeats import Heartbeats
from ringlog.actors.shard import ShardHost
from ringlog.errors import Unavailable
from ringlog.wire import Pulse

LONG_S = 600.0


class Remote:
    """A host of this process as an actor elsewhere: found while it is there."""

    def __init__(self, trio: Trio, actor: str) -> None:
        self._trio, self._actor = trio, actor
        self.asked = 0

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        self.asked += 1
        host: ShardHost | None = self._trio.hosts.get(self._actor)
        if host is None:
            raise Unavailable("its process has ended")
        return {**getattr(host, method)(*arguments), "node": "here"}


class Heard:
    def __init__(self, trio: Trio) -> None:
        self.changed = threading.Event()
        self.heartbeats = Heartbeats(self.changed, TOKEN)
        self.remotes = {actor: Remote(trio, actor) for actor in trio.hosts}
        for actor, remote in self.remotes.items():
            self.heartbeats.watch(actor, remote)

    def leading(self) -> dict[str, dict[str, int]]:
        return {
            actor: {shard: led["epoch"] for shard, led in status["leading"].items()}
            for actor, status in self.heartbeats.statuses().items()
        }


@pytest.fixture
def heard(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(heartbeats, "SILENCE_S", LONG_S)
    made = Heard(trio)
    eventually(lambda: len(made.heartbeats.statuses()) == 3)
    yield made
    monkeypatch.undo()
    trio.close()  # ends the beats that are waited for
    made.heartbeats.close()


@pytest.fixture
def trio(tmp_path: Any) -> Trio:
    return Trio(tmp_path)


def test_the_end_of_a_process_is_heard_without_waiting_for_its_silence(trio: Trio, heard: Heard) -> None:
    heard.changed.clear()
    trio.stop("shard-1")
    eventually(lambda: set(heard.heartbeats.statuses()) == {"shard-0", "shard-2"})
    assert heard.changed.wait(WITHIN_S)


def test_one_that_begins_again_elsewhere_is_found_and_the_others_hear_where(trio: Trio, heard: Heard) -> None:
    trio.stop("shard-1")
    eventually(lambda: "shard-1" not in heard.heartbeats.statuses())
    trio.hosts["shard-1"] = trio.host("shard-1")
    eventually(lambda: "shard-1" in heard.heartbeats.statuses())
    location = trio.hosts["shard-1"].location
    assert heard.heartbeats.statuses()["shard-1"]["location"] == location
    eventually(lambda: all(trio.hosts[one]._locations.get("shard-1") == location for one in ("shard-0", "shard-2")))


def test_a_new_leader_is_heard_of_before_the_next_beat_is_due(
    trio: Trio, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", LONG_S)
    epoch = trio.open("shard-2")
    eventually(lambda: heard.leading()["shard-2"] == {SHARD: epoch})
    assert trio.open("shard-0") == epoch + 1
    eventually(lambda: heard.leading() == {"shard-0": {SHARD: epoch + 1}, "shard-1": {}, "shard-2": {}})


def test_what_the_first_call_told_stays_known(trio: Trio, heard: Heard) -> None:
    epoch = trio.open("shard-2")
    eventually(lambda: heard.leading()["shard-2"] == {SHARD: epoch})
    assert heard.heartbeats.statuses()["shard-2"]["node"] == "here"
    assert [remote.asked for remote in heard.remotes.values()] == [1, 1, 1], "by a call each is only found"


def test_a_stranger_hears_nothing(trio: Trio) -> None:
    pulse = Pulse(trio.hosts["shard-0"].location, "another token")
    with pytest.raises(Unavailable, match="wants its own token"):
        pulse.beat({}, None, 0.0, 5.0)
    pulse.close()
    trio.close()
