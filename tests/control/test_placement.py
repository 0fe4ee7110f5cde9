"""Which shards there should be, and what is left of others, from the pipeline's record and what is decided of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringlog.control import Plan, Reconciler, plan_of, shard_names
from ringlog.control.draining import LEFT_S, QUIET_S, Draining
from ringlog.control.reconcile import CALM_S
from ringlog.replication import Member, ShardState


def state(shard: str, state: str, *actors: str, retired: int = 0) -> ShardState:
    members = tuple(Member(f"id of {actor}", actor) for actor in actors)
    return ShardState(shard, 3, state, "shard-0", "nonce", members, 2, retired=retired)  # type: ignore[arg-type]


OPEN = {
    "shard-0": state("shard-0", "open", "shard-0", "shard-1", "shard-2"),
    "shard-1": state("shard-1", "open", "shard-1", "shard-2", "shard-3"),
    "shard-2": state("shard-2", "open", "shard-2", "shard-0", "shard-1"),
}


def test_a_shard_above_the_number_is_led_until_it_is_retired_with_the_members_that_it_had() -> None:
    plan = plan_of(7, 3, 4, {**OPEN, "shard-3": state("shard-3", "claimed", "shard-3", "shard-0", "shard-1")})
    assert (plan.shards, plan.retiring, plan.lingering, plan.gone) == (shard_names(3), ("shard-3",), (), ())
    assert plan.led == plan.actors == shard_names(4)
    assert plan.members("shard-3", 3) == ("shard-3", "shard-0", "shard-1")
    assert plan.members("shard-1", 3) == ("shard-1", "shard-2", "shard-0"), "its own are those of the shards that stay"
    assert not plan.settled


def test_its_actor_runs_as_long_as_another_shard_counts_on_a_journal_that_it_has() -> None:
    retired = state("shard-3", "retired", retired=7)
    plan = plan_of(7, 3, 4, {**OPEN, "shard-3": retired})
    assert (plan.led, plan.actors, plan.lingering, plan.gone) == (shard_names(3), shard_names(4), ("shard-3",), ())
    moved = state("shard-1", "open", "shard-1", "shard-2", "shard-0")
    over = plan_of(7, 3, 4, {**OPEN, "shard-1": moved, "shard-3": retired})
    assert (over.actors, over.lingering, over.gone, over.settled) == (shard_names(3), (), ("shard-3",), True)
    assert over.retired == {"shard-3": 3}, "in this epoch"


def test_one_that_an_earlier_decision_may_still_open_is_not_gone_before_this_one_has_retired_it() -> None:
    never, claimed = plan_of(4, 3, 5, {}), plan_of(4, 3, 4, {"shard-3": state("shard-3", "claimed", retired=2)})
    assert never == Plan(4, shard_names(3), unled=("shard-3", "shard-4"))
    assert claimed == Plan(4, shard_names(3), unled=("shard-3",))
    assert not never.settled
    assert plan_of(4, 3, 4, {"shard-3": state("shard-3", "retired", retired=3)}).unled == ("shard-3",)
    assert plan_of(4, 3, 4, {"shard-3": state("shard-3", "retired", retired=4)}).unled == ()
    assert plan_of(4, 3, 4, {"shard-3": state("shard-3", "open", "shard-3", retired=2)}).retiring == ("shard-3",)


@given(st.integers(3, 12), st.integers(1, 4))
def test_whoever_adds_shards_changes_few_neighbourhoods(shards: int, more: int) -> None:
    before, after = plan_of(1, shards, shards, {}), plan_of(2, shards + more, shards + more, {})
    changed = [shard for shard in before.shards if before.members(shard, 3) != after.members(shard, 3)]
    assert len(changed) == 2, "those of which a member was beyond the end"
    assert plan_of(3, shards, shards + more, {}).members("shard-0", 3) == before.members("shard-0", 3)


def test_a_reconciler_that_follows_another_plan_leads_what_it_says() -> None:
    one = Reconciler((), (), 3, 2)
    assert one.decide({}, 0.0) == []
    one.follow(plan_of(1, 3, 3, {}))
    nothing = {actor: {"leading": {}, "keeping": {}} for actor in shard_names(4)}
    assert [takeover.shard for takeover in one.decide(nothing, 0.0)] == list(shard_names(3))
    one.follow(plan_of(2, 4, 4, {}))
    found = one.decide(nothing, 100.0)
    assert [takeover.members for takeover in found if takeover.shard == "shard-3"] == [
        ("shard-3", "shard-0", "shard-1")
    ]


def test_while_shards_come_or_go_nothing_else_moves() -> None:
    one = Reconciler((), (), 3, 2)
    one.follow(Plan(2, (), lingering=("shard-3",)))
    there = {"shard-3": {"leading": {}, "keeping": {}}}
    for now in (0.0, 100.0):
        one.decide(there, now)
        assert not one.calm(now, CALM_S)


def test_a_shard_is_left_once_clients_know_and_nothing_was_appended_for_a_while() -> None:
    one = Draining()
    assert not one.over("s", 5, 0.0)
    assert not one.over("s", 5, 100.0), "nobody was told"
    one.told(("s",), 100.0)
    one.told(("s",), 100.0 + LEFT_S - 1)
    assert not one.over("s", 5, 100.0 + LEFT_S - 1)
    assert not one.over("s", 6, 100.0 + LEFT_S), "somebody still wrote"
    assert not one.over("s", 6, 100.0 + LEFT_S + QUIET_S / 2)
    assert one.over("s", 6, 100.0 + LEFT_S + QUIET_S)
    one.told((), 200.0)
    one.told(("s",), 300.0)
    assert not one.over("s", 6, 300.0), "it is retired for another time"
