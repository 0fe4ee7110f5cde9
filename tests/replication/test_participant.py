"""What a replica, a leader and a takeover in one process owe one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ringlog.replication import (
    NO_PRODUCERS,
    Accepted,
    Append,
    Appended,
    CompareAndSet,
    Confirmed,
    Deposed,
    Fenced,
    Join,
    Joined,
    Leads,
    Member,
    NotLeading,
    Outpaced,
    Output,
    Participant,
    Promise,
    ReadState,
    ReadStored,
    Replace,
    ReplicaState,
    Request,
    Seal,
    Sealed,
    ShardState,
    Standing,
    Stored,
    Submit,
    Trim,
    Unanswered,
    Violation,
)
from ringlog.replication.takeover import LOSS_GRACE_S, RESEND_S

SHARD = "shard-0"
A, B, C = Member("a", "x"), Member("b", "y"), Member("c", "z")


def take_over(one: Participant, caller: str, nonce: str, found: ShardState | None = None, version: int = 0) -> Output:
    return one.take_over(caller, found, version, (A, B, C), 2, nonce, 0.0, b"lost")


def opening(epoch: int = 1, caller: str = "controller") -> tuple[Participant, ShardState]:
    """``x`` on the way to open ``epoch`` of an empty shard, and the state that it asks the store for."""
    one = Participant("x", ReplicaState(SHARD, "a"), 1000)
    found = ShardState(SHARD, epoch - 1, "open", "y", "before", (), 2) if epoch > 1 else None
    (claim,) = take_over(one, caller, "mine", found, epoch - 1).send
    assert one.answer(Standing(SHARD, "mine", claim.state, epoch), 0.0).send == (ReadStored(SHARD, "mine"),)
    joins = one.answer(Stored(SHARD, "mine", 0), 0.0).send
    (joined,) = one.request(joins[0]).send
    one.answer(joined, 0.0)
    one.answer(Joined(SHARD, "b", epoch, 0), 0.0)
    (change,) = one.answer(Joined(SHARD, "c", epoch, 0), 0.0).send
    assert isinstance(change, CompareAndSet)
    return one, change.state


def leading(epoch: int = 1) -> Participant:
    one, state = opening(epoch)
    output = one.answer(Standing(SHARD, "mine", state, 9), 0.0)
    assert output.reply == (("controller", Leads(epoch)),)
    assert (one.takeover, one.leader is not None) == (None, True)
    return one


def append(to: Participant, caller: str = "writer", epoch: int = 1, sequence: int = 0) -> Output:
    return to.append(caller, Submit(SHARD, epoch, "p", 0, sequence, 0, 10, "quorum", b"payload"), 0.0)


def test_an_opened_epoch_is_led_here_and_its_own_replica_counts() -> None:
    one = leading()
    sent = append(one).send
    (answer,) = one.request(sent[0]).send
    assert answer == Appended(SHARD, "a", 1, 10)
    one.answer(answer, 0.0)
    assert one.answer(Appended(SHARD, "c", 1, 10), 0.0).reply == (("writer", Accepted(1, 0, 10)),)


def test_only_the_epoch_that_is_led_here_is_served() -> None:
    idle = Participant("x", ReplicaState(SHARD, "a"), 1000)
    assert append(idle).reply == (("writer", NotLeading(0)),)
    assert idle.read("reader", 0.0).reply == (("reader", NotLeading(0)),)
    assert not idle.stored(10, fence=0)
    assert not idle.tick(1.0)
    for epoch in (1, 3):
        assert append(leading(2), epoch=epoch).reply == (("writer", NotLeading(2)),)


HIGHER: list[Callable[[str, int], Request]] = [
    lambda id, epoch: Seal(SHARD, id, epoch),
    lambda id, epoch: Append(SHARD, id, epoch, 0, (), 0, 0),
    lambda id, epoch: Join(SHARD, id, epoch, 0, 0, ((epoch, 0),), (), NO_PRODUCERS),
    lambda id, epoch: Trim(SHARD, id, epoch, 0),
]


@pytest.mark.parametrize("message", HIGHER)
def test_any_message_of_a_higher_epoch_ends_the_leadership(message: Callable[[str, int], Request]) -> None:
    one = leading()
    append(one)
    one.read("reader", 0.0)
    output = one.request(message("a", 4))
    assert output.reply == (("writer", Deposed(1, 4)), ("reader", Deposed(1, 4)))
    assert one.leader is None
    assert append(one, "later").reply == (("later", NotLeading(0)),)


@pytest.mark.parametrize("message", HIGHER)
def test_any_message_of_a_higher_epoch_ends_a_takeover(message: Callable[[str, int], Request]) -> None:
    """Also one that is opening: whoever sent it has claimed since, so the open was done before that or never will be."""
    one, state = opening()
    assert one.request(message("a", 2)).reply == (("controller", Outpaced(1)),)
    assert one.takeover is None
    assert not one.answer(Standing(SHARD, "mine", state, 9), 0.0)
    assert one.leader is None


def test_a_message_of_ones_own_epoch_or_for_another_journal_ends_nothing() -> None:
    one = leading(3)
    assert one.request(Seal(SHARD, "a", 2)).send == (Fenced(SHARD, "a", 2, 3),)
    one.request(Seal(SHARD, "a", 3))
    assert not one.request(Seal(SHARD, "the journal that was here before", 9))
    assert one.leader is not None


def test_what_leads_has_ended_before_the_new_promise_is_stored() -> None:
    """In one output: callers hear that the outcome is unknown only once the replica is fenced."""
    one = leading()
    append(one)
    output = one.request(Seal(SHARD, "a", 2))
    assert output.store == (Promise(2),)
    assert output.send == (Sealed(SHARD, "a", 2, 1, ((1, 0),), 0, 0),)
    assert output.reply == (("writer", Deposed(1, 2)),)


def test_a_fence_ends_the_leadership_and_a_takeover_that_it_is_above() -> None:
    one = leading()
    append(one)
    assert one.answer(Fenced(SHARD, "b", 1, 2), 0.0).reply == (("writer", Deposed(1, 2)),)
    assert one.leader is None
    one, _ = opening()
    assert one.answer(Fenced(SHARD, "b", 1, 2), 0.0).reply == (("controller", Outpaced(1)),)
    assert one.takeover is None


def test_a_leader_takes_over_its_own_shard_and_is_ended_by_that() -> None:
    one = leading()
    append(one)
    found = ShardState(SHARD, 1, "open", "x", "mine", (A, B, C), 2)
    (claim,) = take_over(one, "mover", "second", found, 9).send
    seals = one.answer(Standing(SHARD, "second", claim.state, 10), 0.0).send
    assert one.leader is not None, "until its replica has promised, nothing is decided"
    output = one.request(next(seal for seal in seals if seal.receiver == "a"))
    assert output.reply == (("writer", Deposed(1, 2)),)
    assert (one.leader, one.takeover is not None) == (None, True)


def test_a_try_gives_way_to_the_next_one() -> None:
    one = Participant("x", ReplicaState(SHARD, "a"), 1000)
    (claim,) = take_over(one, "first", "first").send
    output = take_over(one, "second", "second")
    assert output.reply == (("first", Outpaced(1)),)
    assert not one.answer(Standing(SHARD, "first", claim.state, 1), 0.0), "an answer to the first is none to the second"
    lost = one.answer(Standing(SHARD, "second", claim.state, 1), 0.0)
    assert lost.reply == (("second", Outpaced(1)),)


def test_an_open_is_not_walked_away_from() -> None:
    one, state = opening()
    assert take_over(one, "second", "second") == Output(reply=(("second", Outpaced(1)),))
    one.answer(Unanswered(SHARD, "mine"), 0.0)
    assert take_over(one, "third", "third").reply == (("third", Outpaced(1)),)
    assert one.tick(RESEND_S).send == (ReadState(SHARD, "mine"),)
    assert one.answer(Standing(SHARD, "mine", state, 9), 1.0).reply == (("controller", Leads(1)),)


def test_an_open_that_somebody_overtook_is_over() -> None:
    one, state = opening()
    overtaken = replace(state, epoch=2, state="claimed", nonce="theirs")
    assert one.answer(Standing(SHARD, "mine", overtaken, 9), 0.0).reply == (("controller", Outpaced(1)),)
    assert (one.leader, one.takeover) == (None, None)


def test_a_table_beyond_what_is_committed_ends_the_leadership() -> None:
    one = leading()
    append(one)
    assert one.stored(10, fence=0).reply == (("writer", Deposed(1, 2)),)
    assert one.leader is None


def committed_ten() -> Participant:
    one = leading()
    append(one)
    for id in "ab":
        one.answer(Appended(SHARD, id, 1, 10), 0.0)
    assert one.leader is not None
    assert one.leader.committed == 10
    return one


@pytest.mark.parametrize("end", [0, 4, 10, 30])
def test_a_table_that_is_closed_to_it_ends_the_leadership_wherever_it_ends(end: int) -> None:
    """A loss was accepted: offsets mean something else there, and may lie inside an entry that this leader holds."""
    one = committed_ten()
    append(one, "waiting", sequence=1)
    output = one.stored(end, fence=3)
    assert output == Output(reply=(("waiting", Deposed(1, 3)),))
    assert one.leader is None
    assert (one.replica.trimmed, one.replica.promised) == (0, 1), "its replica has promised nothing by that"


@pytest.mark.parametrize("fence", [0, 1])
def test_a_table_that_is_closed_to_others_is_none_of_its_business(fence: int) -> None:
    one = committed_ten()
    assert one.stored(10, fence).send == tuple(Trim(SHARD, id, 1, 10) for id in "abc")
    assert one.leader is not None
    with pytest.raises(Violation, match="SL-3"):
        committed_ten().stored(4, fence)


def test_a_takeover_is_not_ended_by_a_fence_that_it_may_have_asked_for() -> None:
    one = committed_ten()
    take_over(one, "mover", "second", ShardState(SHARD, 1, "open", "x", "mine", (A, B, C), 2), 9)
    one.stored(4, fence=2)
    assert (one.leader, one.takeover is not None) == (None, True)


def test_a_try_that_decides_on_a_loss_gives_way_to_the_next_one() -> None:
    """Its compare-and-set is done or is not; the next one finds out which when it reads the state, or loses its claim."""
    one = Participant("x", ReplicaState(SHARD, "a"), 1000)
    found = ShardState(SHARD, 1, "open", "y", "before", (B, C), 2)
    (claim,) = one.take_over("operator", found, 2, (A, B, C), 2, "mine", 0.0, b"lost", accept_loss=True).send
    one.answer(Standing(SHARD, "mine", claim.state, 3), 0.0)
    (acceptance,) = one.tick(LOSS_GRACE_S).send
    assert (acceptance.state.members, acceptance.state.accepted) == ((), 2)
    output = take_over(one, "second", "second", claim.state, 3)
    assert output.reply == (("operator", Outpaced(2)),)
    assert not one.answer(Standing(SHARD, "mine", acceptance.state, 4), 11.0)
    assert one.answer(Standing(SHARD, "second", acceptance.state, 4), 11.0).reply == (("second", Outpaced(3)),)


def test_answers_of_the_stores_are_not_for_the_leader() -> None:
    one = leading()
    assert not one.answer(Stored(SHARD, "mine", 10), 0.0)
    assert not one.answer(Unanswered(SHARD, "mine"), 0.0)
    assert one.leader is not None


def test_both_a_leader_and_a_takeover_are_woken() -> None:
    one = leading()
    one.read("reader", 0.0)
    found = ShardState(SHARD, 1, "open", "x", "mine", (A, B, C), 2)
    take_over(one, "mover", "second", found, 9)
    one.answer(Unanswered(SHARD, "second"), 0.0)
    kinds = [type(message).__name__ for message in one.tick(RESEND_S).send]
    assert kinds == ["ReadState", "Confirm", "Confirm", "Confirm"]
    one.answer(Confirmed(SHARD, "b", 1, 1), 1.0)
    answered: list[Any] = [caller for caller, _ in one.answer(Confirmed(SHARD, "c", 1, 1), 1.0).reply]
    assert answered == ["reader"]


def test_a_participant_begins_again_from_what_its_replica_stored() -> None:
    one = leading()
    output = one.request(append(one).send[0])
    assert not any(isinstance(op, Replace) for op in output.store)
    again = Participant("x", one.replica.state(), 1000)
    assert (again.leader, again.takeover) == (None, None)
    assert (again.replica.end, again.replica.log_epoch) == (10, 1)
