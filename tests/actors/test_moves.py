"""An actor that moves to a node that joined: on real hosts and disks, with a controller, while records are acknowledged.

A node is a folder here. What is on which disk is looked at in the moment in which the actor ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from actors.test_recover import Remote, Router
from actors.test_shard import SHARD, TOKEN, WITHIN_S, Client, Trio, eventually
from ringlog.actors.controller import Controller
from ringlog.control import Plan
from ringlog.control.homes import Move, Node, next_move
from ringlog.errors import Unavailable
from ringlog.metadata import open_store, read_decided
from ringlog.wire import Acknowledged

A, B, C = (Node(name, f"host-{name}") for name in "abc")
ACTORS = ("shard-0", "shard-1", "shard-2")


class House:
    """Three actors on two nodes, and a third that joins. Journals that are taken away are noted with what they held."""

    def __init__(self, folder: Path) -> None:
        self.trio = Trio(folder)
        self.nodes = [A, B]
        self.homes = {"shard-0": A, "shard-1": B, "shard-2": B}
        self.moved: list[tuple[Move, dict[str, int]]] = []
        self.counted: set[str] = set()
        self.fails = 0
        self._store = open_store(self.trio.settings.root, {})

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> Remote:
        host = self.trio.hosts.get(actor)
        if host is None:
            raise Unavailable(f"{actor} is away")
        return Remote(host)

    def restart(self, actor: str) -> None:
        raise AssertionError(f"{actor} does not hang")

    def router(self) -> Router:
        return Router()

    def keep_housekeeper(self) -> None:
        """The table needs none here."""

    def lives(self, actor: str, node: str) -> None:
        assert node == "here"

    def leaving(self) -> Collection[str]:
        return ()

    def next_move(self, groups: Sequence[Collection[str]]) -> Move | None:
        return next_move(groups, self.homes, self.nodes, {node.id for node in self.nodes})

    def move(self, move: Move) -> Remote:
        decided, trouble = read_decided(self._store, ACTORS, WITHIN_S)
        assert trouble is None
        self.counted |= {m.id for state in decided.values() for m in state.members if m.actor == move.actor}
        if self.fails:
            self.fails -= 1
            raise Unavailable("the metadata store is away")
        self.moved.append((move, self.held()))
        self.trio.stop(move.actor)
        shutil.rmtree(self.trio.folder / "journals" / move.actor)
        self.homes[move.actor] = move.to
        self.trio.hosts[move.actor] = self.trio.host(move.actor)
        return Remote(self.trio.hosts[move.actor])

    def plan(self) -> Plan:
        return Plan(1, ACTORS)

    def held(self) -> dict[str, int]:
        """How many entries of the shard each actor has on its disk."""
        return {actor: len(self.trio.journal(actor)) for actor in ACTORS}


class Watched:
    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.controller = Controller(3, 2, self.house, TOKEN)
        self.controller.begin()

    def complete(self) -> bool:
        found = self.controller.status()
        return len(found["actors"]) == 3 and all(len(one.get("members", ())) == 3 for one in found["shards"].values())

    def submit(self, producer: str) -> int:
        """An acknowledged entry, wherever the shard is led now."""

        def acknowledged() -> bool:
            found = self.controller.status()["shards"][SHARD]
            if found["leader"] is None:
                return False
            client = Client(self.house.trio.hosts[found["leader"]], found["epoch"], producer)
            return isinstance(client.submit(0), Acknowledged)

        eventually(acknowledged)
        return 1

    def close(self) -> None:
        self.controller.leave()
        self.house.trio.close()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr("ringlog.actors.controller.PARTING_S", 0.3)
    monkeypatch.setattr("ringlog.control.reconcile.COMPLETING_S", 0.1)
    monkeypatch.setattr("ringlog.actors.controller.NODES_S", 0.1)
    made = Watched(tmp_path)
    eventually(made.complete)
    yield made
    made.close()


def test_the_actor_that_shared_a_node_moves_to_the_one_that_joined_and_nobody_counts_on_it_meanwhile(
    watched: Watched,
) -> None:
    house = watched.house
    assert house.moved == [], "there is nowhere to go"
    for number in range(5):
        watched.submit(f"before-{number}")
    ids = {shard: kept["id"] for shard, kept in watched.controller.status()["actors"]["shard-1"]["keeping"].items()}
    house.nodes.append(C)
    eventually(lambda: bool(house.moved))
    watched.submit("during")
    eventually(lambda: len(house.moved) == 1 and watched.complete() and watched.controller._move is None)
    ((move, held),) = house.moved
    assert move == Move("shard-1", C, parts=True)
    assert house.counted == set(), "no member of any shard was on the node that it left"
    assert held["shard-0"] == held["shard-2"] >= 5, "everything that was acknowledged is on two other disks"
    now = watched.controller.status()["actors"]["shard-1"]["keeping"]
    assert all(now[shard]["id"] != id for shard, id in ids.items()), "it does not vote for who it was"
    watched.submit("after")
    eventually(lambda: house.held()["shard-1"] >= 7)


def test_a_move_that_fails_changes_nothing_and_is_made_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    house = watched.house
    house.fails = 1
    monkeypatch.setattr("ringlog.actors.controller.MOVE_AGAIN_S", 0.5)
    house.nodes.append(C)
    eventually(lambda: len(house.moved) == 1 and watched.complete())
    assert house.fails == 0
    assert house.homes["shard-1"] == C


def test_while_somebody_is_away_nobody_moves(watched: Watched) -> None:
    house = watched.house
    house.trio.stop("shard-0")
    eventually(lambda: len(watched.controller.status()["actors"]) == 2)
    house.nodes.append(C)
    watched.submit("meanwhile")
    assert house.moved == []
    assert watched.controller._move is None
    house.trio.hosts["shard-0"] = house.trio.host("shard-0")
    eventually(lambda: len(house.moved) == 1 and watched.complete())


def test_a_move_is_given_up_where_somebody_goes_away_before_it_was_released(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched.controller._reconciler, "released", lambda *_: False)
    monkeypatch.setattr("ringlog.actors.controller.MOVE_S", 0.5)
    watched.house.nodes.append(C)
    eventually(lambda: watched.controller._move is not None)
    eventually(lambda: watched.controller._move is None)
    eventually(watched.complete)
    assert watched.house.moved == []
    assert watched.submit("goes on")


def test_who_has_a_node_for_itself_moves_only_once_all_has_been_calm_for_long(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, controller = watched.house, watched.controller
    house.homes = {"shard-0": A, "shard-1": B, "shard-2": C}
    elsewhere = Node("4", "10.0.0.4", "another zone")
    house.nodes = [A, B, C, elsewhere]
    eventually(lambda: controller._reconciler.calm(time.monotonic(), 0.3))
    assert controller._next_move(time.monotonic()) is None
    monkeypatch.setattr("ringlog.actors.controller.CALM_S", 0.3)
    eventually(lambda: bool(house.moved))
    ((move, _),) = house.moved
    assert (move.to, move.parts) == (elsewhere, False)
