"""A shard that lost a majority of its journals, under a controller: it says so, waits, and opens when the loss is accepted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from actors.test_shard import SHARD, TOKEN, WITHIN_S, Client, Trio, eventually
from ringlog.actors import controller as controllers
from ringlog.actors.controller import Controller
from ringlog.actors.shard import Place, ShardHost
from ringlog.control import Plan, condition_of
from ringlog.errors import ConfigurationError, Conflict, Unavailable
from ringlog.metadata import open_store, read_decided
from ringlog.query.search import Filter
from ringlog.query.tail import Followed, tail
from ringlog.wire import Acknowledged, follow


class Remote:
    """A host of this process, called as an actor elsewhere is."""

    def __init__(self, host: ShardHost) -> None:
        self._host = host
        self.tries: list[bool] = []

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        if method == "take_over":
            shard, places, locations, accept_loss, decision, retire = arguments
            self.tries.append(accept_loss)
            members = [Place(*place) for place in places]
            return self._host.take_over(shard, members, locations, accept_loss, decision, retire)
        answer = getattr(self._host, method)(*arguments)
        return {**answer, "node": "here"} if method == "status" else answer


class Router:
    """Nobody asks for routes here."""

    def call(self, method: str, *arguments: Any, timeout_s: float) -> None:
        assert method == "publish"


class Household:
    """Everybody is at home, but for those whose nodes are ``away``: they begin anew, with empty journals, or wait."""

    def __init__(self, trio: Trio, away: Collection[str]) -> None:
        self._trio = trio
        self.away = set(away)
        self.remotes = {actor: Remote(host) for actor, host in trio.hosts.items()}
        self.began_anew: list[str] = []

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> Remote:
        if actor in self.away:
            if not anywhere:
                raise Unavailable(f"{actor} waits for its journals")
            self.away.remove(actor)
            self.began_anew.append(actor)
            shutil.rmtree(self._trio.folder / "journals" / actor)
            self._trio.hosts[actor] = self._trio.host(actor)
            self.remotes[actor] = Remote(self._trio.hosts[actor])
        return self.remotes[actor]

    def restart(self, actor: str) -> None:
        raise AssertionError(f"{actor} does not hang")

    def router(self) -> Remote:
        return Router()

    def keep_housekeeper(self) -> None:
        """The table needs none here."""

    def lives(self, actor: str, node: str) -> None:
        assert node == "here"

    def leaving(self) -> Collection[str]:
        return ()

    def next_move(self, groups: Sequence[Collection[str]]) -> None:
        """There is one node."""

    def move(self, move: Any) -> Remote:
        raise AssertionError("nothing moves")

    def plan(self) -> Plan:
        return Plan(1, ("shard-0", "shard-1", "shard-2"))


class Watched:
    """Three hosts under a controller, with what an operator sees of them."""

    def __init__(self, folder: Path, away: Collection[str] = ()) -> None:
        self.trio = Trio(folder)
        for actor in away:
            self.trio.stop(actor)
        self.household = Household(self.trio, away)
        self.controller = Controller(3, 2, self.household, TOKEN)
        self.controller.begin()

    def status(self, shard: str = SHARD) -> dict[str, Any]:
        found = self.controller.status()
        store = open_store(self.trio.settings.root, {})
        decided, trouble = read_decided(store, found["shards"], WITHIN_S)
        assert trouble is None
        return {**found["shards"][shard], **condition_of(shard, found["actors"], decided.get(shard), 3)}

    def await_condition(self, condition: str, shard: str = SHARD) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def holds() -> bool:
            found.update(self.status(shard))
            return bool(found["condition"] == condition)

        eventually(holds)
        return found

    def leader(self) -> ShardHost:
        return self.trio.hosts[self.status()["leader"]]

    def submits(self) -> bool:
        """Whether the leader of the moment has acknowledged ten records."""
        status = self.status()
        client = Client(self.trio.hosts[status["leader"]], status["epoch"]) if status["leader"] else None
        return client is not None and isinstance(client.submit(0), Acknowledged)

    def close(self) -> None:
        self.controller.leave()
        self.trio.close()


class Following:
    """The source of a `tail` that follows one shard of these hosts from its first record on."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def shards(self) -> tuple[str, ...]:
        return (SHARD,)

    def follow(self, shard: str, start: int | None) -> Followed:
        reply, stop = follow(self._watched.leader().location, "token", shard, start or 0)
        return Followed(reply.base, reply.batches, stop)

    def archived(self, shard: str, start: int, end: int) -> Iterator[Any]:
        raise AssertionError("nothing is archived before it is read here")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long, but for members that may answer, twice in a takeover."""
    monkeypatch.setattr("ringlog.actors.shard.TAKEOVER_DEADLINE_S", 3.0)
    monkeypatch.setattr("ringlog.replication.takeover.LOSS_GRACE_S", 1.0)
    monkeypatch.setattr("ringlog.control.reconcile.BACKOFF_S", (0.1, 0.1))


def acknowledged(folder: Path) -> None:
    """Three complete shards; ten records of one are acknowledged; then every process ends."""
    first = Watched(folder)
    for shard in ("shard-0", "shard-1", "shard-2"):
        first.await_condition("complete", shard)
    eventually(first.submits)
    eventually(lambda: all(first.trio.journal(actor) for actor in first.trio.hosts))  # also the one that is not needed
    first.close()


@pytest.fixture
def lost(tmp_path: Path, quick: None) -> Iterator[Watched]:
    """Two of the three journals of the shard are gone."""
    acknowledged(tmp_path)
    for actor in ("shard-0", "shard-1"):
        shutil.rmtree(tmp_path / "journals" / actor / SHARD)
    second = Watched(tmp_path)
    yield second
    second.close()


def test_without_a_word_of_the_operator_it_stays_unavailable_and_says_why(lost: Watched) -> None:
    lost.await_condition("unavailable")
    strangers = [("shard-0", "another journal"), ("shard-1", "another journal")]
    # Until every actor has answered for the first time, some of the missing are only silent.
    eventually(lambda: [(one["actor"], one["why"]) for one in lost.status()["missing"]] == strangers)
    found = lost.status()
    assert (found["leader"], found["answering"], found["needed"], found["gaps"]) == (None, 1, 2, [])
    eventually(lambda: "1 of 2 needed seals; no answer from shard-0, shard-1" in (lost.status()["waits_for"] or ""))
    eventually(lambda: "1 of 2 needed seals" in (lost.status()["trouble"] or ""))
    assert lost.await_condition("complete", "shard-1")["gaps"] == [], "the others are as they were"


def test_an_accepted_loss_opens_it_with_a_gap_that_every_reader_shows(lost: Watched) -> None:
    lost.await_condition("unavailable")
    epoch = lost.controller.accept_loss(SHARD)
    found = lost.await_condition("complete")
    assert (found["epoch"], found["gaps"], found["trouble"]) == (epoch, [[epoch, 10]], None)
    with pytest.raises(Conflict, match="nothing was given up"):
        lost.controller.accept_loss(SHARD)

    live = tail(Following(lost), Filter(None, None, None, None, None, None, {}))
    rows = [row for batch in (next(live), next(live)) for row in batch.to_pylist()]
    live.close()  # type: ignore[attr-defined]
    below, (gap,) = rows[:10], rows[10:]
    assert [row["record_offset"] for row in below] == list(range(10)), "what was acknowledged and is still there"
    assert (gap["event_name"], gap["record_offset"], gap["shard"]) == ("ringlog.gap", 10, SHARD)

    leader = lost.leader()
    assert Client(leader, epoch, producer="q").submit(0, since=11).start == 11, "it goes on above the gap"
    assert leader.flush(WITHIN_S)[SHARD] == 21
    columns = ["record_offset", "event_name", "severity_text"]
    stored = DeltaTable(lost.trio.settings.table_url).to_pyarrow_table(columns=columns).to_pylist()
    gaps = [(row["record_offset"], row["severity_text"]) for row in stored if row["event_name"] == "ringlog.gap"]
    assert gaps == [(10, "FATAL")]
    assert sorted(row["record_offset"] for row in stored) == list(range(21))


def test_where_nodes_are_gone_no_more_actors_begin_anew_than_it_takes(tmp_path: Path, quick: None) -> None:
    acknowledged(tmp_path)
    lost = Watched(tmp_path, away=("shard-0", "shard-1"))
    silent = [("shard-0", "no answer"), ("shard-1", "no answer")]
    eventually(lambda: [(one["actor"], one["why"]) for one in lost.status()["missing"]] == silent)
    assert lost.status()["condition"] == "unavailable"
    assert lost.household.began_anew == [], "not on its own"
    epoch = lost.controller.accept_loss(SHARD)
    assert lost.household.began_anew == ["shard-0"]
    assert lost.await_condition("incomplete")["gaps"] == [[epoch, 10]]
    other = lost.status("shard-1")
    assert (other["condition"], other["answering"], other["gaps"]) == ("unavailable", 1, []), "it was not asked about"
    lost.close()


def test_only_one_try_runs_at_a_time(lost: Watched) -> None:
    """The controller goes on trying meanwhile; its tries and the operator's do not outrun one another."""
    lost.await_condition("unavailable")
    eventually(lambda: SHARD in lost.controller._tries)
    epoch = lost.controller.accept_loss(SHARD)
    tries = [accepted for remote in lost.household.remotes.values() for accepted in remote.tries if accepted]
    assert tries == [True], "it was tried once, and nothing came in between"
    lost.await_condition("complete")
    assert lost.status()["gaps"] == [[epoch, 10]]


def test_a_try_that_never_ends_is_told(lost: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "ACCEPT_LOSS_DEADLINE_S", 0.0)
    lost.await_condition("unavailable")
    eventually(lambda: SHARD in lost.controller._tries)
    with pytest.raises(Unavailable, match="does not come to its end"):
        lost.controller.accept_loss(SHARD)


def test_a_shard_that_is_led_or_unknown_is_left_alone(tmp_path: Path) -> None:
    well = Watched(tmp_path)
    well.await_condition("complete")
    epoch = well.status()["epoch"]
    with pytest.raises(Conflict, match="nothing was given up"):
        well.controller.accept_loss(SHARD)
    with pytest.raises(ConfigurationError, match="there is no shard-7: the shards are shard-0, shard-1, shard-2"):
        well.controller.accept_loss("shard-7")
    assert (well.status()["epoch"], well.status()["gaps"]) == (epoch, [])
    well.close()


def test_a_store_that_is_away_is_told_and_holds_nobody_up() -> None:
    class Away:
        def __init__(self) -> None:
            self.back = threading.Event()

        def get(self, key: str) -> None:
            if key.endswith("shard-0"):
                raise Unavailable("no route")
            assert self.back.wait(WITHIN_S)

    store: Any = Away()
    decided, trouble = read_decided(store, ["shard-0", "shard-1"], 0.1)
    assert (decided, trouble) == ({}, "the metadata store gives no answer in 0.1 s")
    store.back.set()
    assert read_decided(store, ["shard-0"], WITHIN_S) == ({}, "the metadata store cannot be read: no route")


def test_a_router_that_is_away_keeps_no_shard_without_a_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the router gave no answer")

    monkeypatch.setattr(Router, "call", away)
    watched = Watched(tmp_path)
    for shard in ("shard-0", "shard-1", "shard-2"):
        watched.await_condition("complete", shard)
    watched.close()


def test_a_candidate_that_falls_silent_is_not_waited_for(tmp_path: Path, quick: None) -> None:
    """Its process ends in the middle of its takeover; the call that it owes an answer to is still open."""
    watched = Watched(tmp_path)
    for shard in ("shard-0", "shard-1", "shard-2"):
        watched.await_condition("complete", shard)
    answers = threading.Event()
    silent = watched.household.remotes["shard-1"]

    def take_over(*_: Any, **__: Any) -> int:
        answers.wait(WITHIN_S)
        raise Unavailable("its process has ended")

    silent.call = lambda method, *a, timeout_s: (  # type: ignore[method-assign]
        take_over() if method == "take_over" else Remote.call(silent, method, *a, timeout_s=timeout_s)
    )
    # shard-0's leader goes; of the two that are left, each leads one, and the first in order is asked.
    watched.trio.stop("shard-0")
    eventually(
        lambda: (SHARD, "shard-1") in {(one.what, one.candidate) for one in watched.controller._tries.under_way()}
    )
    watched.trio.hosts["shard-0"] = watched.trio.host("shard-0")
    watched.household.remotes["shard-0"]._host = watched.trio.hosts["shard-0"]
    watched.trio.stop("shard-1")
    eventually(lambda: watched.status()["leader"] in ("shard-0", "shard-2"))
    answers.set()
    watched.close()


def test_a_member_that_ends_before_it_says_who_it_is_keeps_no_shard_without_a_leader(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Remote.call

    def ends(remote: Remote, method: str, *arguments: Any, timeout_s: float) -> Any:
        if method == "replica_id" and remote._host.actor == "shard-2":
            raise Unavailable("its process has ended")
        return whole(remote, method, *arguments, timeout_s=timeout_s)

    monkeypatch.setattr(Remote, "call", ends)
    watched = Watched(tmp_path)
    short = watched.await_condition("incomplete")
    assert set(short["members"]) == {"shard-0", "shard-1"}
    eventually(lambda: "its process has ended" in (watched.status()["trouble"] or ""))
    assert watched.status()["epoch"] == short["epoch"], "whoever leads goes on"
    monkeypatch.setattr(Remote, "call", whole)
    watched.await_condition("complete")
    watched.close()
