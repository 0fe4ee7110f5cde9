"""What a controller says and does while it does not know, or while somebody does not answer: on real hosts and disks."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.test_recover import Household, Remote, Router, Watched
from actors.test_shard import WITHIN_S, eventually
from actors.test_shards import Racing
from ringlog.actors.household import change_shards, read_plan
from ringlog.control import Plan
from ringlog.errors import OutcomeUnknown, Unavailable
from ringlog.metadata import Versioned
from ringlog.metadata.records import PIPELINE_KEY, PipelineRecord, pipeline_to_bytes


def test_while_nobody_knows_which_shards_there_are_nothing_is_said_to_be_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = threading.Event()

    def plan(household: Household) -> Plan:
        if not known.is_set():
            raise Unavailable("no credentials for the bucket")
        return Plan(1, ("shard-0", "shard-1", "shard-2"))

    monkeypatch.setattr(Household, "plan", plan)
    watched = Watched(tmp_path)
    eventually(lambda: watched.controller.status()["plan_trouble"] == "no credentials for the bucket")
    assert watched.controller.status()["shards"] == {}
    with pytest.raises(Unavailable, match="is not known yet: no credentials for the bucket"):
        watched.controller.flush(0.2)
    known.set()
    assert set(watched.controller.flush(WITHIN_S)) == {"shard-0", "shard-1", "shard-2"}
    assert watched.controller.status()["plan_trouble"] is None
    watched.close()


class Hanging(Household):
    """The node of an actor is there, and what runs on it answers nothing, until it is started again."""

    hangs: frozenset[str] = frozenset()
    restarts: tuple[float, ...] = ()

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> Remote:
        return super().summon(actor, anywhere, groups) if actor not in self.hangs else None  # type: ignore[return-value]

    def restart(self, actor: str) -> None:
        assert actor in self.hangs
        self.restarts = (*self.restarts, time.monotonic())
        if len(self.restarts) == 3:
            self.hangs = frozenset()


def test_who_hangs_is_started_again_each_time_later_and_it_is_said_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.test_recover.Household", Hanging)
    monkeypatch.setattr("ringlog.actors.controller.HANGS_S", 0.5)
    monkeypatch.setattr("ringlog.actors.controller.ABSENT_S", (0.05, 0.05))
    watched = Watched(tmp_path)
    household = watched.household
    assert isinstance(household, Hanging)
    watched.await_condition("complete")
    household.hangs = frozenset({"shard-1"})
    watched.trio.stop("shard-1")
    eventually(lambda: "shard-1" in watched.controller.status()["away"])
    assert "shard-1 does not answer, on a node that is there" in watched.controller.status()["away"]["shard-1"]
    eventually(lambda: len(household.restarts) == 3)
    first, second, third = household.restarts
    assert third - second > second - first, "one that only takes long comes to its end"
    watched.trio.hosts["shard-1"] = watched.trio.host("shard-1")
    household.remotes["shard-1"] = Remote(watched.trio.hosts["shard-1"])
    eventually(lambda: "shard-1" in watched.controller.status()["actors"])
    eventually(lambda: watched.controller.status()["away"] == {})
    watched.close()


def test_who_cannot_be_brought_says_why(tmp_path: Path) -> None:
    watched = Watched(tmp_path, away=["shard-2"])
    eventually(lambda: watched.controller.status()["away"] == {"shard-2": "shard-2 waits for its journals"})
    watched.household.away.clear()
    watched.trio.hosts["shard-2"] = watched.trio.host("shard-2")
    watched.household.remotes["shard-2"] = Remote(watched.trio.hosts["shard-2"])
    watched.await_condition("complete")
    assert watched.controller.status()["away"] == {}
    watched.close()


def test_a_router_that_has_ended_for_good_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Router] = []

    class Ending(Router):
        def call(self, method: str, *arguments: Any, timeout_s: float) -> None:
            if self not in told:
                told.append(self)
            if len(told) == 1:
                raise Unavailable("it has ended")

    monkeypatch.setattr(Household, "router", lambda _: Ending())
    watched = Watched(tmp_path)
    eventually(lambda: len(told) == 2)
    watched.await_condition("complete")
    assert len(told) == 2, "the one that answers is kept"
    watched.close()


def test_of_a_decision_whose_answer_is_lost_and_that_nobody_can_look_up_it_is_said_that_it_may_stand() -> None:
    class Lost(Racing):
        written = False

        def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
            self.written = expected > 0
            return super().compare_and_set(key, value, expected)

        def get(self, key: str) -> Versioned | None:
            if self.written:
                raise Unavailable("the metadata store is away")
            return super().get(key)

    store = Lost(0)
    store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(PipelineRecord.new(3)), 0)
    with pytest.raises(OutcomeUnknown, match="the answer was lost"):
        change_shards(store, 4, 3)


def test_a_root_that_was_begun_anew_is_no_longer_that_of_who_runs() -> None:
    store = Racing(0)
    record = PipelineRecord.new(3)
    store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(record), 0)
    assert read_plan(store, record.id, None).shards == ("shard-0", "shard-1", "shard-2")
    with pytest.raises(Unavailable, match="begun anew since this pipeline started: end that with `ringlog down`"):
        read_plan(store, PipelineRecord.new(3).id, None)
