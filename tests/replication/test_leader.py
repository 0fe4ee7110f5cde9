from __future__ import annotations

from typing import Any

import pytest

from ringlog.replication import (
    NO_PRODUCERS,
    Accepted,
    Append,
    Appended,
    Confirm,
    Confirmation,
    Confirmed,
    Deposed,
    Entry,
    Fenced,
    Full,
    Leader,
    Member,
    Output,
    Refused,
    Submit,
    Trim,
    Violation,
)
from ringlog.replication.leader import RESEND_S

SHARD = "shard-0"
MEMBERS = [Member("a", "shard-0"), Member("b", "shard-1"), Member("c", "shard-2")]


def leader(entries: tuple[Entry, ...] = (), trimmed: int = 0, buffer_bytes_max: int = 1000) -> Leader:
    return Leader(SHARD, 5, MEMBERS, 2, "a", trimmed, entries, NO_PRODUCERS, buffer_bytes_max)


def submit(
    to: Leader, sequence: int, caller: str = "caller", acks: Any = "quorum", size: int = 10, now: float = 0.0
) -> Output:
    return to.append(caller, Submit(SHARD, 5, "p", 0, sequence, 0, 10, acks, b"x" * size), now)


def appended(id: str, end: int, epoch: int = 5) -> Appended:
    return Appended(SHARD, id, epoch, end)


def test_an_append_is_answered_once_a_quorum_has_it() -> None:
    one = leader()
    output = submit(one, 0)
    assert [message.receiver for message in output.send] == ["a", "b", "c"]
    assert output.reply == ()
    assert one.handle(appended("b", 10), 0.0).reply == ()
    assert one.handle(appended("b", 10), 0.0).reply == (), "one member counts once"
    assert one.handle(appended("c", 10), 0.0).reply == (("caller", Accepted(5, 0, 10)),)
    assert one.committed == 10


@pytest.mark.parametrize(("acks", "answered_by"), [("leader", "a"), ("quorum", "b"), ("stored", "trim")])
def test_the_levels_of_acknowledgement(acks: str, answered_by: str) -> None:
    one = leader()
    submit(one, 0, acks=acks)
    answered = []
    if one.handle(appended("a", 10), 0.0).reply:
        answered.append("a")
    if one.handle(appended("b", 10), 0.0).reply:
        answered.append("b")
    if one.trim(10).reply:
        answered.append("trim")
    assert answered == [answered_by]


def test_what_arrives_during_a_round_goes_together_in_the_next() -> None:
    one = leader()
    submit(one, 0)
    assert submit(one, 1).send == ()
    assert submit(one, 2).send == ()
    (append,) = one.handle(appended("b", 10), 0.0).send
    assert (append.receiver, append.start, [entry.start for entry in append.entries]) == ("b", 10, [10, 20])


def test_a_retry_gets_the_first_offsets_and_stores_nothing() -> None:
    one = leader()
    submit(one, 0, "first")
    output = submit(one, 0, "again")
    assert (output.send, output.reply, one.end) == ((), (), 10)
    one.handle(appended("a", 10), 0.0)
    replies = one.handle(appended("b", 10), 0.0).reply
    assert sorted(replies) == [("again", Accepted(5, 0, 10)), ("first", Accepted(5, 0, 10))]
    assert submit(one, 0, "late").reply == (("late", Accepted(5, 0, 10)),)


def test_a_jump_is_refused_only_after_a_quorum_confirmed_the_epoch() -> None:
    one = leader()
    output = submit(one, 3)
    assert {type(message) for message in output.send} == {Confirm}
    assert output.reply == ()
    one.handle(Confirmed(SHARD, "a", 5, 1), 0.0)
    ((_, refused),) = one.handle(Confirmed(SHARD, "c", 5, 1), 0.0).reply
    assert isinstance(refused, Refused)
    assert one.end == 0


def test_an_evicted_producer_is_told_so() -> None:
    one = leader()
    one.append("caller", Submit(SHARD, 5, "unknown", 0, 7, 0, 10, "quorum", b"x"), 0.0)
    one.handle(Confirmed(SHARD, "a", 5, 1), 0.0)
    ((_, refused),) = one.handle(Confirmed(SHARD, "b", 5, 1), 0.0).reply
    assert isinstance(refused, Refused)
    assert refused.expected is None


def test_a_full_buffer_stores_nothing_until_the_table_has_taken_some() -> None:
    one = leader(buffer_bytes_max=25)
    submit(one, 0)
    submit(one, 1)
    assert submit(one, 2).reply == (("caller", Full(20)),)
    assert one.end == 20
    one.handle(appended("a", 20), 0.0)
    one.handle(appended("b", 20), 0.0)
    one.trim(10)
    submit(one, 2)
    assert one.end == 30


def test_a_read_shows_what_is_committed_after_a_round_that_began_with_it() -> None:
    one = leader()
    submit(one, 0)
    one.handle(appended("a", 10), 0.0)
    one.handle(appended("b", 10), 0.0)
    submit(one, 1)
    output = one.read("reader", 0.0)
    assert [message.round for message in output.send] == [1, 1, 1]
    one.handle(Confirmed(SHARD, "b", 5, 0), 0.0)
    assert one.handle(Confirmed(SHARD, "c", 5, 1), 0.0).reply == ()
    ((_, shown),) = one.handle(Confirmed(SHARD, "b", 5, 1), 0.0).reply
    assert isinstance(shown, Confirmation)
    assert (shown.base, shown.committed, [entry.start for entry in shown.entries]) == (0, 10, [0])


def test_fenced_ends_the_leadership_and_every_caller_hears_that_the_outcome_is_unknown() -> None:
    one = leader()
    submit(one, 0, "writer")
    submit(one, 1, "second", acks="stored")
    one.read("reader", 0.0)
    replies = one.handle(Fenced(SHARD, "b", 5, 8), 0.0).reply
    assert sorted(replies) == [(caller, Deposed(5, 8)) for caller in ("reader", "second", "writer")]
    assert submit(one, 2, "later").reply == (("later", Deposed(5, 8)),)
    assert one.handle(appended("b", 10), 0.0) == Output()
    assert one.read("later", 0.0).reply == (("later", Deposed(5, 8)),)


def test_a_fence_of_an_older_epoch_means_nothing() -> None:
    one = leader()
    assert not one.handle(Fenced(SHARD, "b", 4, 5), 0.0)
    assert one.deposed_by is None


def test_answers_of_another_epoch_or_of_a_stranger_do_not_count() -> None:
    one = leader()
    submit(one, 0)
    one.handle(appended("b", 10, epoch=4), 0.0)
    one.handle(appended("stranger", 10), 0.0)
    one.handle(appended("c", 10), 0.0)
    assert one.committed == 0


def test_a_silent_member_gets_its_round_again() -> None:
    one = leader()
    submit(one, 0)
    one.handle(appended("a", 10), 0.0)
    one.handle(appended("b", 10), 0.0)
    assert one.tick(RESEND_S / 2).send == ()
    (again,) = one.tick(RESEND_S).send
    assert isinstance(again, Append)
    assert (again.receiver, again.start) == ("c", 0)


def test_a_question_without_an_answer_is_asked_again() -> None:
    one = leader()
    one.read("reader", 0.0)
    assert {type(message) for message in one.tick(RESEND_S).send} == {Confirm}


def test_a_laggard_beyond_the_trim_gets_the_producers() -> None:
    one = leader()
    submit(one, 0)
    for id in ("a", "b"):
        one.handle(appended(id, 10), 0.0)
    assert {type(message) for message in one.trim(10).send} == {Trim}
    (again,) = one.tick(RESEND_S).send
    assert (again.receiver, again.start, again.trimmed, again.entries) == ("c", 10, 10, ())
    assert again.producers is not None
    assert list(again.producers["known"]) == ["p"]


def test_the_table_never_ends_inside_an_entry() -> None:
    one = leader()
    submit(one, 0)
    one.handle(appended("a", 10), 0.0)
    one.handle(appended("b", 10), 0.0)
    with pytest.raises(Violation, match="SL-3"):
        one.trim(5)


def test_a_table_that_ends_beyond_what_is_committed_was_filled_by_a_later_leader() -> None:
    one = leader()
    submit(one, 0, "writer")
    one.read("reader", 0.0)
    replies = one.trim(20).reply
    assert replies == (("writer", Deposed(5, 6)), ("reader", Deposed(5, 6)))
    assert one.trimmed == 0
    assert submit(one, 1, "later").reply == (("later", Deposed(5, 6)),)


def test_a_table_that_ends_before_what_was_trimmed_changes_nothing() -> None:
    one = leader((Entry.make(4, 10, 20, "p", 0, 0, b"kept"),), trimmed=10)
    assert not one.trim(5)
    assert not one.trim(10)
    assert (one.trimmed, one.deposed_by) == (10, None)


def test_a_new_leader_goes_on_where_the_kept_tail_ends_and_knows_its_producers() -> None:
    kept = (Entry.make(4, 0, 10, "p", 0, 0, b"kept"),)
    one = leader(kept)
    assert (one.committed, one.end) == (10, 10)
    assert submit(one, 0).reply == (("caller", Accepted(5, 0, 10)),)
    submit(one, 1)
    assert one.end == 20
