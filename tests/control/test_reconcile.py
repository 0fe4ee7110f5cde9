from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ringlog.control import Plan, Reconciler, TakeOver, members_of, shard_names
from ringlog.control.reconcile import (
    BACKOFF_S,
    CALM_S,
    COMPLETING_S,
    LEADERLESS_S,
    PATIENCE_S,
    RETURNING_S,
    SUBSTITUTE_S,
    leader_of,
)

ACTORS = shard_names(3)
ALL = set(ACTORS)


def statuses(alive: set[str], **leading: tuple[str, int, set[str]]) -> dict[str, dict[str, Any]]:
    """``shard_0=("shard-1", 4, members)``: shard-1 leads shard-0 in epoch 4. Each journal has its actor's name as id."""
    found: dict[str, dict[str, Any]] = {
        actor: {"leading": {}, "keeping": {shard: {"id": actor, "promised": 1, "log_epoch": 1} for shard in ACTORS}}
        for actor in alive
    }
    for name, (actor, epoch, members) in leading.items():
        opened = {"epoch": epoch, "members": {member: {"id": member} for member in members}}
        found[actor]["leading"][name.replace("_", "-")] = opened
    return found


def led(members: set[str] = ALL) -> dict[str, tuple[str, int, set[str]]]:
    return {f"shard_{number}": (f"shard-{number}", 1, members) for number in range(3)}


def reconciler() -> Reconciler:
    return Reconciler(ACTORS, ACTORS, 3, 2)


def test_every_shard_is_opened_by_the_actor_of_its_name_once_all_are_there() -> None:
    takeovers = reconciler().decide(statuses(ALL), 0.0)
    assert takeovers == [TakeOver(shard, shard, members_of(shard, ACTORS, ACTORS, 3)) for shard in ACTORS]


def test_a_led_and_complete_cluster_is_left_alone() -> None:
    assert reconciler().decide(statuses(ALL, **led()), 0.0) == []


def test_a_missing_actor_is_waited_for_but_not_for_ever() -> None:
    one = reconciler()
    alive = {"shard-0", "shard-1"}
    assert one.decide(statuses(alive), 0.0) == []
    takeovers = one.decide(statuses(alive), PATIENCE_S)
    assert {takeover.shard: takeover.candidate for takeover in takeovers} == {
        "shard-0": "shard-0",
        "shard-1": "shard-1",
        "shard-2": "shard-0",
    }


def test_without_a_quorum_nothing_is_tried() -> None:
    one = reconciler()
    one.decide(statuses({"shard-0"}), 0.0)
    assert one.decide(statuses({"shard-0"}), 100.0) == []


def test_a_leader_that_died_is_replaced() -> None:
    one = reconciler()
    left = {name: value for name, value in led().items() if name != "shard_2"}
    alive = {"shard-0", "shard-1"}
    one.decide(statuses(alive, **left), 0.0)
    assert one.decide(statuses(alive, **left), PATIENCE_S) == [TakeOver("shard-2", "shard-0", ("shard-0", "shard-1"))]


def test_a_shard_that_opened_with_fewer_members_is_completed_by_its_leader() -> None:
    one = reconciler()
    short = led({"shard-0", "shard-1"})
    assert one.decide(statuses(ALL, **short), 0.0) == []
    takeovers = one.decide(statuses(ALL, **short), PATIENCE_S)
    assert [takeover.candidate for takeover in takeovers] == list(ACTORS)
    assert all(set(takeover.members) == ALL for takeover in takeovers)


def test_an_actor_that_lost_its_journal_is_no_member_any_more_and_is_made_one_again() -> None:
    one = reconciler()
    found = statuses(ALL, **led())
    found["shard-2"]["keeping"]["shard-0"]["id"] = "a new journal"
    assert one.decide(found, 0.0) == []
    assert one.decide(found, PATIENCE_S) == [TakeOver("shard-0", "shard-0", ACTORS)]
    found["shard-2"]["keeping"]["shard-0"]["id"] = "shard-2"
    assert one.decide(found, 100.0) == []


def test_failed_takeovers_are_tried_ever_more_rarely() -> None:
    one = reconciler()
    tries = []
    now = 0.0
    for _ in range(2000):
        now += 0.1
        if one.decide(statuses({"shard-0", "shard-1"}), now):
            tries.append(now)
            for shard in ACTORS:
                one.failed(shard, now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] < 2.0
    assert gaps[-1] > 10.0


def test_who_comes_or_goes_makes_a_failed_takeover_worth_a_try_soon() -> None:
    one = reconciler()
    now = 0.0
    for _ in range(6):
        one.decide(statuses(ALL), now)
        one.failed("shard-0", now)
        now += BACKOFF_S[1] + 1
    one.decide(statuses(ALL), now)
    one.failed("shard-0", now)
    later = now + 2 * BACKOFF_S[0]
    assert "shard-0" not in {takeover.shard for takeover in one.decide(statuses(ALL), later)}
    one.decide(statuses({"shard-0", "shard-1"}), later)
    tried = one.decide(statuses({"shard-0", "shard-1"}), later + BACKOFF_S[0])
    assert "shard-0" in {takeover.shard for takeover in tried}


def test_a_leader_whose_node_is_about_to_end_hands_over_at_once_and_stays_a_member() -> None:
    one = reconciler()
    found = statuses(ALL, **led())
    assert one.decide(found, 0.0, leaving={"shard-1"}) == [
        TakeOver("shard-1", "shard-2", members_of("shard-1", ACTORS, ACTORS, 3))
    ]
    assert one.decide(found, 0.1, leaving={"shard-1"}) == [], "the first try is under way"
    moved = statuses(ALL, **{**led(), "shard_1": ("shard-2", 2, ALL)})
    assert one.decide(moved, 1.0, leaving={"shard-1"}) == []


def test_who_is_about_to_end_is_not_chosen_to_lead_while_another_can() -> None:
    one = reconciler()
    without = {"shard_0": ("shard-0", 1, ALL), "shard_2": ("shard-2", 1, ALL)}
    alive = {"shard-0", "shard-2"}
    one.decide(statuses(alive, **without), 0.0, leaving={"shard-0"})
    (takeover, *_) = [
        takeover
        for takeover in one.decide(statuses(alive, **without), LEADERLESS_S, leaving={"shard-0"})
        if takeover.shard == "shard-1"
    ]
    assert (takeover.candidate, takeover.members) == ("shard-2", ("shard-2", "shard-0"))


def test_where_every_node_is_about_to_end_all_stays_as_it_is() -> None:
    assert reconciler().decide(statuses(ALL, **led()), 0.0, leaving=ALL) == []


def test_while_a_node_is_about_to_end_nothing_goes_back_for_balance() -> None:
    one = reconciler()
    crowded = statuses(ALL, **{f"shard_{number}": ("shard-2", 2, ALL) for number in range(3)})
    for now in (0.0, CALM_S + 1, 3 * CALM_S):
        assert one.decide(crowded, now, leaving={"shard-0"}) == []


def test_where_most_were_away_the_others_are_waited_for_a_moment_not_from_when_they_left() -> None:
    one = reconciler()
    for now in (0.0, 100.0):
        one.decide(statuses({"shard-0"}), now)
    back = statuses({"shard-0", "shard-1"})
    assert one.decide(back, 100.0) == [], "the third is about to come"
    assert one.decide(back, 100.0 + LEADERLESS_S) == []
    assert {takeover.shard for takeover in one.decide(back, 100.0 + RETURNING_S)} == set(ACTORS)
    all_at_once = reconciler()
    all_at_once.decide(statuses({"shard-0"}), 100.0)
    assert len(all_at_once.decide(statuses(ALL), 100.0)) == 3


def test_whoever_has_the_newest_epoch_leads_rather_than_who_leads_least() -> None:
    one = reconciler()
    found = statuses(ALL, shard_1=("shard-1", 1, ALL), shard_2=("shard-2", 1, ALL))
    found["shard-0"]["keeping"]["shard-0"]["log_epoch"] = 0
    found["shard-1"]["keeping"]["shard-0"]["log_epoch"] = 0
    (takeover,) = one.decide(found, 0.0)
    assert (takeover.shard, takeover.candidate) == ("shard-0", "shard-2")


def test_whoever_a_quorum_answers_without_may_begin_anew_and_nobody_else() -> None:
    """A leader that has lost its quorum still says that it leads; the journals of the others may be all there is."""
    one = reconciler()
    two = statuses({"shard-0", "shard-1"}, shard_0=("shard-0", 1, ALL), shard_1=("shard-1", 1, ALL))
    assert not one.dispensable("shard-2", two), "shard-2 has no leader"
    two["shard-0"]["leading"]["shard-2"] = two["shard-0"]["leading"]["shard-0"]
    assert one.dispensable("shard-2", two)
    two["shard-1"]["keeping"]["shard-0"]["id"] = "a new journal"
    assert not one.dispensable("shard-2", two)
    alone = statuses({"shard-0"}, shard_0=("shard-0", 1, ALL))
    for shard in ("shard-1", "shard-2"):
        alone["shard-0"]["leading"][shard] = alone["shard-0"]["leading"]["shard-0"]
    assert not one.dispensable("shard-2", alone)


def test_of_two_that_say_they_lead_the_higher_epoch_counts() -> None:
    found = statuses(ALL, shard_0=("shard-1", 4, ALL))
    found["shard-2"]["leading"]["shard-0"] = {"epoch": 5, "members": {}}
    assert leader_of("shard-0", found) == "shard-2"
    assert leader_of("shard-1", found) is None


def test_a_leader_whose_epoch_is_below_a_promise_is_over_though_nobody_has_told_it() -> None:
    """Its former members went on without it, their leader died, and nothing reaches the one that was left behind."""
    found = statuses(ALL, shard_0=("shard-1", 1, ALL))
    assert leader_of("shard-0", found) == "shard-1"
    found["shard-2"]["keeping"]["shard-0"]["promised"] = 5
    assert leader_of("shard-0", found) is None
    assert TakeOver("shard-0", "shard-0", ACTORS) in reconciler().decide(found, 0.0)


def test_a_failure_of_a_shard_that_is_well_again_is_no_error() -> None:
    one = reconciler()
    one.failed("shard-0", 0.0)
    assert one.decide(statuses(ALL, **led()), 10.0) == []


def test_a_leader_that_is_no_wished_member_does_not_go_on() -> None:
    actors = shard_names(4)
    one = Reconciler(actors, actors, 3, 2)
    found = statuses(set(actors), shard_0=("shard-3", 2, {"shard-3"}))
    one.decide(found, 0.0)
    (again,) = [takeover for takeover in one.decide(found, PATIENCE_S) if takeover.shard == "shard-0"]
    assert again == TakeOver("shard-0", "shard-0", ("shard-0", "shard-1", "shard-2"))


def test_a_shard_that_was_led_before_hardly_waits_for_a_missing_member() -> None:
    one = reconciler()
    found = statuses({"shard-0", "shard-1"})
    assert one.decide(found, 0.0) == []
    assert {takeover.shard for takeover in one.decide(found, LEADERLESS_S)} == ALL


def test_a_leader_whose_quorum_is_gone_hardly_waits_either() -> None:
    one = reconciler()
    pair = {"shard-0", "shard-1"}
    short = {"shard_0": ("shard-0", 2, pair), "shard_2": ("shard-2", 1, ALL)}
    assert "shard-0" not in {takeover.shard for takeover in one.decide(statuses(ALL, **short), 0.0)}
    found = statuses({"shard-0", "shard-2"}, **short)  # the other of the pair died before the third could join
    (takeover,) = [takeover for takeover in one.decide(found, LEADERLESS_S) if takeover.shard == "shard-0"]
    assert takeover == TakeOver("shard-0", "shard-0", ("shard-0", "shard-2"))
    assert "shard-2" not in {takeover.shard for takeover in one.decide(found, LEADERLESS_S)}, "that one has a quorum"


def test_a_leader_without_a_quorum_is_kept_while_too_few_answer_for_another() -> None:
    one = reconciler()
    found = statuses({"shard-0", "shard-1"}, shard_0=("shard-0", 2, ALL))
    found["shard-1"]["keeping"]["shard-0"]["id"] = "somebody new"  # its journal was lost
    one.decide(found, 0.0)
    assert "shard-0" not in {takeover.shard for takeover in one.decide(found, PATIENCE_S - 0.1)}


def test_a_shard_that_was_never_led_waits_for_all_of_its_members_to_begin() -> None:
    one = reconciler()
    found = statuses({"shard-0", "shard-1"})
    for status in found.values():
        for kept in status["keeping"].values():
            kept["promised"] = 0
    one.decide(found, 0.0)
    assert one.decide(found, LEADERLESS_S) == []
    assert {takeover.shard for takeover in one.decide(found, PATIENCE_S)} == ALL


def test_shards_without_a_leader_go_to_those_that_lead_least() -> None:
    one = reconciler()
    found = statuses({"shard-1", "shard-2"}, shard_1=("shard-1", 1, ALL), shard_2=("shard-1", 1, ALL))
    one.decide(found, 0.0)
    assert one.decide(found, LEADERLESS_S)[0] == TakeOver("shard-0", "shard-2", ("shard-1", "shard-2"))


def test_when_all_is_calm_one_shard_at_a_time_goes_back_to_where_it_belongs() -> None:
    one = reconciler()
    found = statuses(ALL, shard_0=("shard-1", 4, ALL), shard_1=("shard-1", 1, ALL), shard_2=("shard-2", 1, ALL))
    assert one.decide(found, 0.0) == []
    assert one.decide(found, CALM_S - 1) == [], "not before it has been calm for a while"
    (move,) = one.decide(found, CALM_S)
    assert move == TakeOver("shard-0", "shard-0", ACTORS)
    balanced = statuses(ALL, shard_0=("shard-0", 5, ALL), shard_1=("shard-2", 1, ALL), shard_2=("shard-1", 1, ALL))
    assert one.decide(balanced, CALM_S + 1) == []
    assert one.decide(balanced, 3 * CALM_S) == [], "each leads one: nothing is to be gained"


FOUR = shard_names(4)


def four(members: dict[str, set[str]] | None = None, away: str = "", **leaders: str) -> dict[str, dict[str, Any]]:
    """Four shards, each led by the actor of its name and kept by the two after it, but for what is said."""
    kept = {shard: set(members_of(shard, FOUR, FOUR, 3)) for shard in FOUR}
    leading = {
        shard.replace("-", "_"): (leaders.get(shard.replace("-", "_"), shard), 1, {**kept, **(members or {})}[shard])
        for shard in FOUR
    }
    found = statuses(set(FOUR), **leading)
    for one in found.values():
        one["keeping"] = {shard: {"id": "none", "promised": 1, "log_epoch": 0} for shard in FOUR}
    for shard in FOUR:
        for actor in kept[shard]:
            found[actor]["keeping"][shard] = {"id": actor, "promised": 1, "log_epoch": 1}
    found.pop(away, None)
    return found


def test_whoever_moves_hands_over_and_is_a_member_of_nothing_any_more() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    wanted = one.decide(four(), 0.0, moving="shard-1")
    assert {(takeover.shard, takeover.members) for takeover in wanted} == {
        ("shard-1", ("shard-2", "shard-3", "shard-0")),
        ("shard-0", ("shard-0", "shard-2", "shard-3")),
        ("shard-3", ("shard-3", "shard-0", "shard-2")),
    }, "others keep what it kept: the next failure finds as many copies"
    led = {takeover.shard: takeover.candidate for takeover in wanted}
    assert (led["shard-0"], led["shard-3"]) == ("shard-0", "shard-3"), "those who lead go on"
    assert led["shard-1"] in ("shard-2", "shard-3")
    assert not one.released("shard-1", four())


def test_it_is_released_once_a_quorum_leads_every_shard_that_it_kept_without_it() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    without = {
        "shard-0": {"shard-0", "shard-2"},
        "shard-1": {"shard-2", "shard-3"},
        "shard-3": {"shard-3", "shard-0"},
    }
    moved = four(without, shard_1="shard-2")
    assert one.released("shard-1", moved)
    assert one.decide(moved, 0.0, moving="shard-1") == []
    assert not one.released(
        "shard-1", four({**without, "shard-3": {"shard-3", "shard-0", "shard-1"}}, shard_1="shard-2")
    )
    assert not one.released("shard-1", four(without, away="shard-3", shard_1="shard-2")), "shard-3 has no leader"
    assert not one.released("shard-0", moved)


def test_who_is_away_for_long_is_replaced_until_it_is_back() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    away = four(away="shard-2", shard_2="shard-3")
    assert one.decide(away, 0.0) == []
    assert one.decide(away, SUBSTITUTE_S - 0.1) == [], "it may only have been restarted"
    assert one.decide(away, SUBSTITUTE_S) == []
    wanted = one.decide(away, SUBSTITUTE_S + COMPLETING_S)
    assert {(takeover.shard, takeover.candidate, takeover.members) for takeover in wanted} == {
        ("shard-0", "shard-0", ("shard-0", "shard-1", "shard-3")),
        ("shard-1", "shard-1", ("shard-1", "shard-3", "shard-0")),
        ("shard-2", "shard-3", ("shard-3", "shard-0", "shard-1")),
    }
    replaced = four({takeover.shard: {*takeover.members} for takeover in wanted}, shard_2="shard-3")
    for takeover in wanted:
        replaced[takeover.members[-1]]["keeping"][takeover.shard]["id"] = takeover.members[-1]
    del replaced["shard-2"]
    assert one.decide(replaced, 20.0) == []
    back = {**replaced, "shard-2": four()["shard-2"] | {"leading": {}}}
    assert one.decide(back, 21.0) == []
    again = one.decide(back, 21.0 + COMPLETING_S)
    assert {(takeover.shard, takeover.members) for takeover in again} == {
        (shard, members_of(shard, FOUR, FOUR, 3)) for shard in ("shard-0", "shard-1", "shard-2")
    }


def test_who_keeps_a_shard_in_anothers_place_counts_when_its_leader_dies() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    members = {"shard-0": {"shard-0", "shard-1", "shard-3"}}
    found = four(members, away="shard-2", shard_2="shard-3")
    found["shard-3"]["keeping"]["shard-0"] = {"id": "shard-3", "promised": 1, "log_epoch": 1}
    one.decide(found, 0.0)
    del found["shard-0"]
    one.decide(found, 1.0)
    assert TakeOver("shard-0", "shard-1", ("shard-1", "shard-3")) in one.decide(found, 1.1 + LEADERLESS_S)
    anew = Reconciler(FOUR, FOUR, 3, 2)  # a controller that has not heard who kept it goes by whose log is the newest
    anew.decide(found, 0.0)
    assert TakeOver("shard-0", "shard-1", ("shard-1", "shard-3")) in anew.decide(found, 0.1 + LEADERLESS_S)
    found["shard-3"]["keeping"]["shard-0"]["log_epoch"] = 0
    older = Reconciler(FOUR, FOUR, 3, 2)
    older.decide(found, 0.0)
    assert not [takeover for takeover in older.decide(found, 100.0) if takeover.shard == "shard-0"], "it has nothing"


SIX = shard_names(6)


def six(members: set[str], alive: Collection[str] = SIX, **nodes: str) -> dict[str, dict[str, Any]]:
    """Shard-0 alone, led by shard-0 with ``members``; each actor on a node of its own but for what is said."""
    found = statuses({*SIX}, shard_0=("shard-0", 1, members))
    for actor, status in found.items():
        kept = {"id": actor, "promised": 1, "log_epoch": 1}
        status.update(
            keeping={"shard-0": kept} if actor in members else {}, node=nodes.get(actor.replace("-", "_"), actor)
        )
    return {actor: status for actor, status in found.items() if actor in alive}


def of_shard_0(one: Reconciler, found: dict[str, dict[str, Any]], now: float) -> list[tuple[str, ...]]:
    return [takeover.members for takeover in one.decide(found, now)]


def alone() -> Reconciler:
    return Reconciler(("shard-0",), SIX, 3, 2)


def test_the_next_on_the_ring_stands_in_and_nobody_on_the_node_of_another_member() -> None:
    members, rest = {"shard-0", "shard-1", "shard-2"}, {*SIX} - {"shard-2"}
    for nodes, stands_in in (
        ({}, "shard-3"),
        ({"shard_3": "shard-1"}, "shard-4"),
        ({"shard_3": "shard-0", "shard_4": "shard-1", "shard_5": "shard-1"}, None),
    ):
        one, found = alone(), six(members, rest, **nodes)
        one.decide(found, 0.0)
        one.decide(found, SUBSTITUTE_S)
        wanted = of_shard_0(one, found, SUBSTITUTE_S + COMPLETING_S)
        assert wanted == ([] if stands_in is None else [("shard-0", "shard-1", stands_in)]), nodes


def keeping(found: dict[str, dict[str, Any]], *actors: str) -> dict[str, dict[str, Any]]:
    """The same, where shard-0 was opened with these."""
    for actor in actors:
        found[actor]["keeping"] = {"shard-0": {"id": actor, "promised": 1, "log_epoch": 1}}
    return found


def test_whoever_comes_back_on_the_node_of_a_member_is_none_and_another_takes_its_place() -> None:
    """Two of a quorum of two on one disk would be one."""
    one = alone()
    pair = six({"shard-1", "shard-2"}, {*SIX} - {"shard-0"})
    pair["shard-1"]["leading"] = six({"shard-1", "shard-2"})["shard-0"]["leading"]
    back = six({"shard-1", "shard-2"}, shard_0="shard-1")
    back["shard-0"]["leading"], back["shard-1"]["leading"] = {}, pair["shard-1"]["leading"]
    keeping(back, "shard-0")
    assert one.decide(pair, 0.0) == []
    assert one.decide(back, 1.0) == []
    assert one.decide(back, 1.0 + COMPLETING_S) == [
        TakeOver("shard-0", "shard-1", ("shard-1", "shard-2", "shard-3")),
    ]
    assert one.crowded("shard-0", back) == ["shard-0"], "until another has its place"

    three = six({"shard-1", "shard-2"}, {"shard-0", "shard-1", "shard-2"}, shard_0="shard-1")
    three["shard-0"]["leading"], three["shard-1"]["leading"] = {}, pair["shard-1"]["leading"]
    again = Reconciler(("shard-0",), SIX[:3], 3, 2)
    for now in range(20):
        assert again.decide(three, now) == [], "nobody else is there: two copies on two nodes are what can be had"
    assert again.calm(19.0, CALM_S)

    apart = {**three, "shard-0": {**three["shard-0"], "node": "another"}}
    assert again.decide(apart, 20.0) == []
    assert again.decide(apart, 20.0 + COMPLETING_S) == [
        TakeOver("shard-0", "shard-1", ("shard-0", "shard-1", "shard-2")),
    ]


def opened(found: dict[str, dict[str, Any]], *members: str) -> dict[str, dict[str, Any]]:
    """The same, where shard-0 was opened with these by the leader that it has."""
    found["shard-0"]["leading"]["shard-0"]["members"] = {member: {"id": member} for member in members}
    return keeping(found, *members)


def test_a_shard_of_one_node_gets_the_newcomer_first_and_gives_a_member_up_when_that_has_everything() -> None:
    """Led by the leader and the newcomer alone, it would stand still until that has the whole tail."""
    one = Reconciler(("shard-0",), SIX[:3], 3, 2)
    found = six({"shard-0", "shard-1"}, SIX[:3], shard_1="shard-0")
    one.decide(found, 0.0)
    assert one.decide(found, COMPLETING_S) == [TakeOver("shard-0", "shard-0", ("shard-0", "shard-1", "shard-2"))]
    opened(found, "shard-0", "shard-1", "shard-2")
    one.decide(found, 10.0)
    assert one.decide(found, 10.0 + COMPLETING_S) == [TakeOver("shard-0", "shard-0", ("shard-0", "shard-2"))]
    opened(found, "shard-0", "shard-2")
    assert one.decide(found, 20.0) == []
    assert one.crowded("shard-0", found) == ["shard-1"]


def test_where_a_node_leaves_those_that_share_another_count_before_it_has_ended() -> None:
    one = Reconciler(("shard-0",), SIX[:3], 3, 2)
    found = opened(six(set(), SIX[:3], shard_2="shard-1"), "shard-0", "shard-1")
    assert one.decide(found, 0.0) == []
    leaves = one.decide(found, 1.0, leaving={"shard-0"})
    assert leaves == [TakeOver("shard-0", "shard-1", ("shard-0", "shard-1", "shard-2"))]


def test_whose_place_is_taken_again_while_its_substitute_restarts_is_followed_by_nobody_else() -> None:
    one = alone()
    led_by_two = six(set(), {*SIX} - {"shard-0"})
    led_by_two["shard-1"]["leading"] = {"shard-0": {"epoch": 1, "members": {}}}
    members = ("shard-1", "shard-2", "shard-3")
    led_by_two["shard-1"]["leading"]["shard-0"]["members"] = {member: {"id": member} for member in members}
    keeping(led_by_two, *members)
    one.decide(led_by_two, 0.0)
    back = {**led_by_two, "shard-0": six(set())["shard-0"] | {"leading": {}}}
    del back["shard-3"]
    one.decide(back, 10.0)
    assert one.decide(back, 10.0 + COMPLETING_S) == [TakeOver("shard-0", "shard-1", ("shard-0", "shard-1", "shard-2"))]


def test_where_one_of_two_is_left_another_takes_the_place_at_once_wherever_it_is() -> None:
    """Nothing is acknowledged until somebody does."""
    for node in ("shard-3", "shard-2"):
        one = Reconciler(("shard-0",), SIX[:4], 3, 2)
        found = opened(six(set(), SIX[:4], shard_1="shard-0", shard_3=node), "shard-0", "shard-2")
        assert one.decide(found, 0.0) == [], "shard-1 shares the node of shard-0"
        left = {actor: found[actor] for actor in ("shard-2", "shard-3")}
        wanted = one.decide(left, 0.5) or one.decide(left, 0.5 + 2 * LEADERLESS_S)
        assert wanted == [TakeOver("shard-0", "shard-2", ("shard-2", "shard-3"))], node


def test_a_member_that_shares_a_node_with_the_leader_gives_its_place_up() -> None:
    one = alone()
    found = six({"shard-0", "shard-1", "shard-2"}, shard_1="shard-0")
    assert one.decide(found, 0.0) == []
    assert one.decide(found, COMPLETING_S) == [TakeOver("shard-0", "shard-0", ("shard-0", "shard-2", "shard-3"))]


def test_where_a_member_ends_who_shared_its_node_counts_in_its_place() -> None:
    one = alone()
    found = six({"shard-1", "shard-2"}, {"shard-0", "shard-1", "shard-2"}, shard_0="shard-1")
    found["shard-2"]["leading"] = found["shard-0"]["leading"]
    found["shard-0"]["leading"] = {}
    assert one.decide(found, 0.0) == []
    del found["shard-1"]
    assert one.decide(found, 1.0) == []
    assert one.decide(found, 1.0 + 2 * LEADERLESS_S) == [TakeOver("shard-0", "shard-2", ("shard-0", "shard-2"))]


def test_on_one_node_all_are_members_and_of_five_no_node_has_three() -> None:
    here = dict.fromkeys(("shard_0", "shard_1", "shard_2", "shard_3", "shard_4"), "one")
    assert alone().decide(six({"shard-0", "shard-1", "shard-2"}, {"shard-0", "shard-1", "shard-2"}, **here), 0.0) == []
    five = Reconciler(("shard-0",), SIX[:5], 5, 3)
    on_two = {**here, "shard_3": "two", "shard_4": "two"}
    found = six({*SIX[:5]}, SIX[:5], **on_two)
    five.decide(found, 0.0)
    assert five.decide(found, COMPLETING_S) == [
        TakeOver("shard-0", "shard-0", ("shard-0", "shard-1", "shard-3", "shard-4"))
    ]


def test_no_shard_goes_back_to_who_shares_a_node_with_a_member() -> None:
    one = Reconciler(("shard-0", "shard-1", "shard-2"), SIX, 3, 2)
    members = {"shard-1", "shard-2", "shard-3"}
    found = statuses(
        {*SIX},
        shard_0=("shard-1", 1, members),
        shard_1=("shard-1", 1, members),
        shard_2=("shard-2", 1, {"shard-2", "shard-3", "shard-4"}),
    )
    for actor, status in found.items():
        status["node"] = "shard-1" if actor == "shard-0" else actor
    one.decide(found, 0.0)
    for now in range(1, 30):
        assert one.decide(found, now) == []
    found["shard-0"]["node"] = "shard-0"
    assert any(takeover.members[0] == "shard-0" for now in range(30, 60) for takeover in one.decide(found, now))


def test_nobody_new_stands_in_while_too_few_answer_for_a_takeover() -> None:
    one, found = alone(), six({"shard-0", "shard-1", "shard-2"}, {*SIX} - {"shard-1", "shard-2"})
    for now in range(100):
        assert of_shard_0(one, found, now) == [], "it would only stop who leads"
    single = Reconciler(("shard-0",), SIX, 1, 1)
    single.decide(six({"shard-0"}), 0.0)
    for now in range(100):
        assert of_shard_0(single, six({"shard-0"}, {*SIX[1:]}), now) == []


def test_a_leaderless_shard_of_which_enough_answer_goes_on_with_somebody_new() -> None:
    one = alone()
    one.decide(six({"shard-0", "shard-1"}, {*SIX} - {"shard-2"}), 0.0)
    found = six({"shard-0", "shard-1"}, {*SIX} - {"shard-0", "shard-2"})
    for now in (1.0, SUBSTITUTE_S, SUBSTITUTE_S + RETURNING_S):
        wanted = of_shard_0(one, found, now)
    assert wanted == [("shard-1", "shard-3", "shard-4")]


def test_who_stands_in_and_only_restarts_keeps_its_place() -> None:
    members = {"shard-0", "shard-1", "shard-4"}
    one, without = alone(), six(members, {*SIX} - {"shard-2"})
    one.decide(without, 0.0)
    assert of_shard_0(one, without, 20.0) == [], "another is nearer on the ring, and has nothing"
    restarting = six(members, {*SIX} - {"shard-2", "shard-4"})
    for now in (20.5, 21.5, 24.0):
        assert of_shard_0(one, restarting, now) == []
    for now in (26.0, 28.0):
        wanted = of_shard_0(one, restarting, now)
    assert wanted == [("shard-0", "shard-1", "shard-3")]


def test_who_does_not_become_a_member_is_tried_ever_more_rarely() -> None:
    one, found = alone(), six({"shard-0", "shard-1"})
    tries = [now / 10 for now in range(300) if of_shard_0(one, found, now / 10)]
    assert len(tries) < 8, "each is a pause for callers"


def test_an_operator_goes_on_with_whoever_answers() -> None:
    found = six({"shard-0", "shard-1", "shard-2"}, {"shard-1", "shard-3", "shard-4"}, shard_3="shard-1")
    assert alone().lacking("shard-0", found) == 0
    assert alone().forced("shard-0", found).members == ("shard-1", "shard-4", "shard-3")
    assert alone().lacking("shard-0", six({"shard-0"}, {"shard-5"})) == 1


def test_who_kept_a_shard_in_anothers_place_need_not_once_all_that_should_keep_it_do() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    found = four()
    for shard in FOUR:
        for actor in set(FOUR) - set(members_of(shard, FOUR, FOUR, 3)) - {"shard-3"}:
            del found[actor]["keeping"][shard]
    assert one.superfluous(found) == [("shard-3", "shard-0", 1)]
    filling = six({"shard-0", "shard-1"}, {*SIX} - {"shard-2"})
    filling["shard-3"]["keeping"]["shard-0"] = {"id": "shard-3", "promised": 1, "log_epoch": 0}
    assert alone().superfluous(filling) == [], "it is about to be a member"
    assert one.superfluous({**found, "shard-2": four()["shard-2"] | {"keeping": {}}}) == [], "it lost its journals"
    assert one.superfluous({actor: status for actor, status in found.items() if actor != "shard-1"}) == []
    found["shard-0"]["leading"]["shard-0"]["members"]["shard-3"] = {"id": "shard-3"}
    assert one.superfluous(found) == [], "it is counted on"


def test_an_actor_whose_own_shard_is_retired_stands_in_for_nobody() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    one.follow(Plan(2, FOUR[:3], retiring=("shard-3",)))
    found = four(away="shard-2", shard_2="shard-3")
    one.decide(found, 0.0)
    wanted = one.decide(found, 2 * SUBSTITUTE_S)
    assert wanted
    assert not any("shard-3" in takeover.members for takeover in wanted if takeover.shard != "shard-3")


def test_whose_node_is_about_to_end_is_replaced_where_anybody_can() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    one.decide(four(), 0.0, leaving={"shard-1"})
    wanted = {takeover.shard: takeover for takeover in one.decide(four(), COMPLETING_S, leaving={"shard-1"})}
    assert wanted["shard-0"] == TakeOver("shard-0", "shard-0", ("shard-0", "shard-2", "shard-3"))
    assert "shard-1" not in wanted["shard-1"].members
    two = {takeover.shard: takeover for takeover in one.decide(four(), 3.0, leaving={"shard-1", "shard-3"})}
    assert two["shard-1"] == TakeOver("shard-1", "shard-2", ("shard-1", "shard-2", "shard-0")), (
        "one stays for lack of any"
    )
    assert "shard-0" not in two, "nobody is there for it"


def test_where_a_move_is_given_up_it_is_made_a_member_again() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    found = four({"shard-0": {"shard-0", "shard-2"}})
    one.decide(found, 0.0, moving="shard-1")
    one.decide(found, 1.0)
    (again,) = one.decide(found, 1.0 + COMPLETING_S)
    assert again == TakeOver("shard-0", "shard-0", ("shard-0", "shard-1", "shard-2"))


def test_calm_is_when_all_has_been_complete_for_a_while_and_nobody_moves() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    assert not one.calm(CALM_S, CALM_S)
    one.decide(four(), 0.0)
    assert not one.calm(CALM_S - 1, CALM_S)
    one.decide(four(), CALM_S)
    assert one.calm(CALM_S, CALM_S)
    assert one.calm(2 * CALM_S, CALM_S), "also when nothing is to be balanced"
    one.decide(four(), CALM_S, moving="shard-1")
    assert not one.calm(CALM_S, CALM_S)
    one.decide(four(), CALM_S)
    one.decide(four(away="shard-3"), CALM_S + 1)
    one.decide(four(), CALM_S + 2)
    assert not one.calm(2 * CALM_S + 1, CALM_S)
    assert one.calm(2 * CALM_S + 2, CALM_S)


def test_without_one_to_spare_nobody_may_move() -> None:
    assert Reconciler(FOUR, FOUR, 3, 2).spares_one()
    assert not Reconciler(FOUR, FOUR, 2, 2).spares_one()
    assert not Reconciler(FOUR, FOUR, 1, 1).spares_one()


def test_a_shard_is_completed_soon_once_all_answer_and_waits_longer_for_one_that_does_not() -> None:
    one = reconciler()
    short = led({"shard-0", "shard-1"})
    one.decide(statuses(ALL, **short), 0.0)
    assert one.decide(statuses(ALL, **short), COMPLETING_S - 0.1) == []
    assert len(one.decide(statuses(ALL, **short), COMPLETING_S)) == 3


def test_whoever_should_keep_nothing_any_more_begins_anew_only_while_every_shard_is_led_without_it() -> None:
    """Its actor lingers, since some shard still counts on a journal that it has: perhaps the one without a leader."""
    one = Reconciler((), (), 3, 2)
    one.follow(Plan(2, ACTORS, lingering=("shard-3",)))
    found = statuses(ALL, **led())
    assert one.dispensable("shard-3", found)
    del found["shard-1"]["leading"]["shard-1"]
    assert not one.dispensable("shard-3", found)


def test_whoever_is_still_a_member_of_a_shard_that_it_should_not_keep_is_needed_there() -> None:
    one = Reconciler(FOUR, FOUR, 3, 2)
    found = four({"shard-1": {"shard-0", "shard-1", "shard-2"}})
    for actor in ("shard-0", "shard-1"):
        found[actor]["keeping"]["shard-1"]["id"] = actor
    assert one.dispensable("shard-0", found)
    found["shard-2"]["keeping"]["shard-1"]["id"] = "a new journal"
    assert not one.dispensable("shard-0", found)


SOME = st.sets(st.sampled_from(SIX))
LIVES = st.fixed_dictionaries({actor: st.sampled_from("xyz") for actor in SIX})


@given(
    st.lists(st.tuples(SOME, SOME, SOME, LIVES), min_size=1, max_size=6),
    st.sampled_from([(1, 1), (2, 2), (3, 2), (5, 3)]),
)
def test_whatever_is_heard_whoever_is_named_answers_and_they_are_no_more_than_wished(
    heard: list[tuple[set[str], set[str], set[str], dict[str, str]]], copies: tuple[int, int]
) -> None:
    replicas, quorum = copies
    one = Reconciler(("shard-0", "shard-1"), SIX, replicas, quorum)
    for number, (alive, members, leaving, nodes) in enumerate(heard):
        kept = members or {"shard-0"}
        found = six(kept, alive)
        for actor, status in found.items():
            status.update(leading={}, node=nodes[actor])
        for leader in sorted(kept & alive)[:1]:
            found[leader]["leading"] = six(kept)["shard-0"]["leading"]
        for now in (100.0 * number, 100.0 * number + 50):
            for takeover in one.decide(found, now, leaving):
                assert quorum <= len(takeover.members) == len({*takeover.members}) <= replicas
                assert takeover.candidate in takeover.members
                assert {*takeover.members} <= alive
