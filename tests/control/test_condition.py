from __future__ import annotations

from typing import Any

import pytest

from control.test_reconcile import ACTORS, ALL, led, statuses
from ringlog.control import Reconciler, TakeOver, condition_of
from ringlog.errors import Unavailable
from ringlog.replication import Member, ShardState

SHARD = "shard-0"


def decided(gaps: tuple[tuple[int, int], ...] = ()) -> ShardState:
    members = tuple(Member(actor, actor) for actor in ACTORS)
    return ShardState(SHARD, 4, "claimed", "shard-0", "nonce", members, 2, 0, gaps)


def condition(found: dict[str, Any], state: ShardState | None = None) -> dict[str, Any]:
    return condition_of(SHARD, found, state, 3)


def test_led_with_all_its_members() -> None:
    found = statuses(ALL, **led())
    for one in found.values():
        for opened in one["leading"].values():
            opened["quorum"] = 2
    well = condition(found, decided(gaps=((3, 10),)))
    assert (well["condition"], well["missing"], well["waits_for"], well["gaps"]) == ("complete", [], None, [[3, 10]])
    assert condition(found)["gaps"] is None, "the metadata store was not asked, or gave no answer"
    del found["shard-2"]
    short = condition(found, decided())
    assert (short["condition"], short["answering"], short["needed"]) == ("incomplete", 2, 2)
    assert short["missing"] == [{"actor": "shard-2", "id": "shard-2", "why": "no answer"}]
    found["shard-1"]["keeping"][SHARD]["id"] = "new"
    lonely = condition(found, decided())
    assert (lonely["condition"], lonely["answering"]) == ("unavailable", 1), "it leads, but nothing can be acknowledged"
    assert {"actor": "shard-1", "id": "shard-1", "why": "another journal"} in lonely["missing"]


def test_led_with_fewer_members_than_wished() -> None:
    found = statuses(ALL, shard_0=("shard-0", 1, {"shard-0", "shard-1"}))
    found["shard-0"]["leading"][SHARD]["quorum"] = 2
    assert condition(found, decided())["condition"] == "incomplete"


def test_not_led_but_enough_answer() -> None:
    found = statuses({"shard-0", "shard-2"})
    found["shard-0"]["taking_over"] = {SHARD: {"epoch": 4, "waits_for": "an older one"}}
    found["shard-2"]["taking_over"] = {SHARD: {"epoch": 5, "waits_for": "the table"}}
    opening = condition(found, decided())
    assert (opening["condition"], opening["waits_for"]) == ("opening", "the table")


def test_not_led_and_too_few_answer() -> None:
    gone = condition(statuses({"shard-1"}), decided())
    assert (gone["condition"], gone["answering"], gone["needed"], gone["waits_for"]) == ("unavailable", 1, 2, None)
    assert [one["actor"] for one in gone["missing"]] == ["shard-0", "shard-2"]
    found = statuses(ALL)
    del found["shard-0"]["keeping"][SHARD]
    found["shard-1"]["keeping"][SHARD]["id"] = "new"
    assert [one["why"] for one in condition(found, decided())["missing"]] == ["another journal", "another journal"]


def test_a_shard_of_which_nothing_is_known_is_about_to_be_opened() -> None:
    assert condition(statuses(set()))["condition"] == "opening"


def test_an_operator_needs_enough_actors_too() -> None:
    one = Reconciler(ACTORS, ACTORS, 3, 2)
    assert one.forced(SHARD, statuses({"shard-1", "shard-2"})) == TakeOver(SHARD, "shard-1", ("shard-1", "shard-2"))
    with pytest.raises(Unavailable, match="needs 2 of shard-0, shard-1, shard-2 to go on with, and 1 of them answer"):
        one.forced(SHARD, statuses({"shard-1"}))
