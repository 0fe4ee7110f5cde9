from __future__ import annotations

from dataclasses import replace

import pytest

from ringlog.replication import (
    NO_PRODUCERS,
    NOTHING,
    CompareAndSet,
    Entries,
    Entry,
    Evicted,
    Fenced,
    Fetch,
    Join,
    Joined,
    Member,
    New,
    Output,
    ProducerTable,
    ReadState,
    ReadStored,
    Seal,
    Sealed,
    ShardState,
    Standing,
    Stored,
    Takeover,
    Unanswered,
    Violation,
)
from ringlog.replication.takeover import GAP_PRODUCER, GRACE_S, LOSS_GRACE_S, RESEND_LONG_S, RESEND_S, TABLE_S

SHARD = "shard-0"
A, B, C = Member("a", "shard-0"), Member("b", "shard-1"), Member("c", "shard-2")
OPEN = ShardState(SHARD, 4, "open", "shard-1", "theirs", (A, B, C), 2)


def takeover(found: ShardState | None = OPEN, wished: tuple[Member, ...] = (A, B, C)) -> Takeover:
    return Takeover(SHARD, "shard-0", "a", found, 7 if found else 0, wished, 2, "mine", b"lost")


def standing(state: ShardState | None, version: int) -> Standing:
    return Standing(SHARD, "mine", state, version)


def claimed(one: Takeover, version: int = 8) -> tuple[object, ...]:
    """Start, and let the metadata store say yes."""
    (claim,) = one.start(0.0).send
    assert isinstance(claim, CompareAndSet)
    return one.handle(standing(claim.state, version), 0.0).send


def sealed(id: str, log_epoch: int, end: int, trimmed: int = 0) -> Sealed:
    return Sealed(SHARD, id, 5, log_epoch, ((log_epoch, 0),), trimmed, end)


def entry(start: int, sequence: int) -> Entry:
    return Entry.make(4, start, start + 10, "p", 0, sequence, b"x")


def test_the_first_epoch_has_nobody_to_seal() -> None:
    one = takeover(None)
    (read,) = claimed(one, 1)
    assert read == ReadStored(SHARD, "mine")
    joins = one.handle(Stored(SHARD, "mine", 0), 0.0).send
    assert [(join.receiver, join.epoch, join.entries) for join in joins] == [("a", 1, ()), ("b", 1, ()), ("c", 1, ())]


def test_a_claim_leaves_the_members_that_opened_last() -> None:
    (claim,) = takeover().start(0.0).send
    assert claim == CompareAndSet(ShardState(SHARD, 5, "claimed", "shard-0", "mine", (A, B, C), 2), 7)


def test_whoever_loses_the_claim_stands_down() -> None:
    one = takeover()
    one.start(0.0)
    assert one.handle(standing(replace(OPEN, epoch=5, nonce="faster"), 8), 0.0).send == ()
    assert one.phase == "lost"


def test_the_recorded_members_are_sealed_not_the_wished_ones() -> None:
    stranger = Member("x", "shard-9")
    assert claimed(takeover(wished=(A, stranger))) == tuple(Seal(SHARD, id, 5) for id in "abc")


def test_the_table_is_read_only_after_enough_seals() -> None:
    one = takeover()
    claimed(one)
    assert one.handle(sealed("a", 4, 20), 0.0).send == ()
    assert one.handle(sealed("b", 4, 20), 0.0).send == (), "a moment for the third"
    assert one.tick(GRACE_S).send == (ReadStored(SHARD, "mine"),)


def test_too_few_seals_never_go_on() -> None:
    one = takeover()
    claimed(one)
    one.handle(sealed("b", 4, 20), 0.0)
    one.handle(sealed("b", 4, 20), 0.0)
    again = one.tick(100 * RESEND_S).send
    assert again == (Seal(SHARD, "a", 5), Seal(SHARD, "c", 5))
    assert "1 of 2 needed seals" in one.waits_for()
    assert one.phase == "seal"


def test_a_seal_of_a_journal_that_was_never_a_member_does_not_count() -> None:
    one = takeover()
    claimed(one)
    one.handle(sealed("a", 4, 20), 0.0)
    one.handle(sealed("new-journal", 4, 20), 0.0)
    assert one.tick(GRACE_S).send != (ReadStored(SHARD, "mine"),)


def after_seals(*logs: Sealed) -> Takeover:
    one = takeover()
    claimed(one)
    for log in logs:
        one.handle(log, 0.0)
    one.tick(GRACE_S)
    assert one.phase == "table"
    return one


def test_the_highest_log_epoch_wins_not_the_longest_log() -> None:
    one = after_seals(sealed("a", 3, 90), sealed("b", 4, 20), sealed("c", 3, 50))
    assert one.handle(Stored(SHARD, "mine", 10), 0.0).send == (Fetch(SHARD, "b", 5, 10),)


def test_of_equal_logs_ones_own_is_taken_whoever_answers_first() -> None:
    one = after_seals(sealed("b", 4, 20), sealed("c", 4, 20), sealed("a", 4, 20))
    assert one.handle(Stored(SHARD, "mine", 10), 0.0).send == (Fetch(SHARD, "a", 5, 10),)


def test_a_tail_that_was_trimmed_beyond_the_table_is_corruption() -> None:
    one = after_seals(sealed("a", 4, 90, trimmed=50), sealed("b", 4, 20), sealed("c", 4, 20))
    with pytest.raises(Violation, match="SL-6"):
        one.handle(Stored(SHARD, "mine", 40), 0.0)


def test_a_table_without_its_metadata_is_not_guessed_over() -> None:
    one = takeover(None)
    claimed(one, 1)
    (question,) = one.handle(Stored(SHARD, "mine", 40), 0.0).send
    assert question == ReadState(SHARD, "mine")
    with pytest.raises(Violation, match="_ringlog"):
        one.handle(Standing(SHARD, "mine", one._claim().state, 1), 0.0)


def test_a_first_takeover_that_reads_the_table_when_later_ones_have_gone_on_is_lost() -> None:
    one = takeover(None)
    claimed(one, 1)
    one.handle(Stored(SHARD, "mine", 40), 0.0)
    one.handle(Standing(SHARD, "mine", replace(OPEN, epoch=9, nonce="later"), 30), 0.0)
    assert one.phase == "lost"


def joining() -> tuple[Takeover, tuple[Join, ...]]:
    one = after_seals(sealed("a", 4, 10), sealed("b", 4, 20))
    one.handle(Stored(SHARD, "mine", 0), 1.0)
    kept = (entry(0, 0), entry(10, 1))
    return one, one.handle(Entries(SHARD, "b", 5, 0, 20, kept, NO_PRODUCERS), 1.0).send


def test_a_member_that_agrees_up_to_some_point_gets_only_the_rest() -> None:
    _, joins = joining()
    assert {join.receiver: (join.start, len(join.entries)) for join in joins} == {
        "a": (10, 1),
        "b": (20, 0),
        "c": (0, 2),
    }
    assert all(join.boundaries == ((4, 0), (5, 20)) for join in joins)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tail is a long one."""
    monkeypatch.setattr("ringlog.replication.takeover.UNASKED_BYTES_MAX", 0)


def test_before_a_long_tail_is_sent_a_member_is_asked_what_it_holds_of_it(long: None) -> None:
    """It may come late, or be wished anew: its log may agree with most of the tail all the same."""
    one, sent = joining()
    assert [message for message in sent if isinstance(message, Seal)] == [Seal(SHARD, "c", 5)]
    assert [message.receiver for message in sent if isinstance(message, Join)] == ["a", "b"]
    assert Seal(SHARD, "c", 5) in one.tick(1.0 + RESEND_S).send, "asked again, not sent everything"
    (join,) = one.handle(sealed("c", 4, 10), 2.5).send
    assert (join.receiver, join.start, [kept.start for kept in join.entries]) == ("c", 10, [10])
    assert one.handle(sealed("c", 4, 10), 2.5).send == (), "a doubled answer"
    assert one.tick(2.5 + RESEND_S).send == (), "it is long, and on its way"
    (again,) = (message for message in one.tick(5.0).send if message.receiver == "c")
    assert again == join
    one.handle(Joined(SHARD, "c", 5, 20), 6.0)
    assert {message.receiver for message in one.tick(10.0).send} == {"a", "b"}


def test_a_member_without_a_log_gets_all_of_a_long_tail(long: None) -> None:
    one, _ = joining()
    (join,) = one.handle(Sealed(SHARD, "c", 5, 0, (), 0, 0), 1.5).send
    assert (join.receiver, join.start, len(join.entries)) == ("c", 0, 2)


def test_what_is_told_late_counts_for_nothing_but_the_join(long: None) -> None:
    """A log that nobody waited for may be beyond the one that was taken; it is cut to that."""
    one, _ = joining()
    (join,) = one.handle(sealed("c", 4, 50), 1.5).send
    assert (join.start, join.entries, join.boundaries) == (20, (), ((4, 0), (5, 20)))
    assert one.handle(sealed("stranger", 4, 50), 1.5).send == ()


def test_an_entry_that_was_changed_on_its_way_is_refused() -> None:
    one = after_seals(sealed("a", 4, 10), sealed("b", 4, 10))
    one.handle(Stored(SHARD, "mine", 0), 0.0)
    with pytest.raises(Violation, match="SL-2"):
        one.handle(Entries(SHARD, "b", 5, 0, 10, (replace(entry(0, 0), payload=b"y"),), NO_PRODUCERS), 0.0)


def test_it_opens_with_those_that_joined_and_its_leader_keeps_the_tail() -> None:
    one, _ = joining()
    one.handle(Joined(SHARD, "a", 5, 20), 1.0)
    one.handle(Joined(SHARD, "c", 5, 20), 1.0)
    (opening,) = one.tick(1.0 + GRACE_S).send
    assert opening == CompareAndSet(ShardState(SHARD, 5, "open", "shard-0", "mine", (A, C), 2), 8)
    assert one.opened is None, "nothing is accepted before the store has said so"
    one.handle(standing(opening.state, 9), 2.0)
    assert one.opened is not None
    assert [kept.start for kept in one.opened.entries] == [0, 10]
    assert one.opened.state.members == (A, C)


def test_it_never_opens_without_its_own_replica() -> None:
    one, _ = joining()
    one.handle(Joined(SHARD, "b", 5, 20), 1.0)
    one.handle(Joined(SHARD, "c", 5, 20), 1.0)
    assert {type(message) for message in one.tick(100.0).send} == {Join}


def opening() -> tuple[Takeover, CompareAndSet]:
    one, _ = joining()
    for id in "abc":
        output = one.handle(Joined(SHARD, id, 5, 20), 1.0)
    (change,) = output.send
    assert isinstance(change, CompareAndSet)
    return one, change


def test_an_open_that_never_arrived_is_tried_again() -> None:
    one, change = opening()
    claim = replace(change.state, state="claimed", members=OPEN.members)
    assert one.handle(standing(claim, 8), 2.0).send == (change,)


def test_an_open_that_somebody_overtook_is_lost() -> None:
    one, change = opening()
    one.handle(standing(replace(change.state, epoch=6, nonce="later"), 9), 2.0)
    assert (one.phase, one.opened) == ("lost", None)


def test_a_higher_promise_anywhere_ends_it() -> None:
    one = takeover()
    claimed(one)
    one.handle(Fenced(SHARD, "b", 5, 6), 0.0)
    assert one.phase == "lost"
    assert one.handle(sealed("a", 4, 0), 0.0).send == ()


def unanswered(nonce: str = "mine") -> Unanswered:
    return Unanswered(SHARD, nonce, "the store is away")


def test_a_lost_answer_to_the_claim_is_looked_up() -> None:
    one = takeover()
    (claim,) = one.start(0.0).send
    output = one.handle(unanswered(), 0.0)
    assert (output.send, output.deadline) == ((), RESEND_S), "not at once: the store is not hammered"
    assert one.waits_for() == "claim (the store is away)"
    assert one.tick(RESEND_S).send == (ReadState(SHARD, "mine"),)
    assert one.tick(RESEND_S).send == (), "asked once"
    assert one.handle(standing(claim.state, 8), RESEND_S).send == tuple(Seal(SHARD, id, 5) for id in "abc")


def test_a_claim_that_was_never_carried_out_is_given_up() -> None:
    """It may still arrive, but a claim alone binds nobody: the members stay, and the next candidate claims beyond it."""
    one = takeover()
    one.start(0.0)
    one.handle(unanswered(), 0.0)
    one.tick(RESEND_S)
    one.handle(standing(OPEN, 7), RESEND_S)
    assert one.phase == "lost"


def test_a_lookup_without_an_answer_is_made_again() -> None:
    one = takeover()
    one.start(0.0)
    for now in (0.0, 5.0, 10.0):
        one.handle(unanswered(), now)
        assert one.tick(now + RESEND_S).send == (ReadState(SHARD, "mine"),)


def test_a_lost_answer_to_the_open_is_looked_up_and_it_was_done() -> None:
    one, change = opening()
    one.handle(unanswered(), 2.0)
    assert (one.phase, one.opened) == ("open", None)
    assert one.tick(3.0).send == (ReadState(SHARD, "mine"),)
    one.handle(standing(change.state, 9), 3.0)
    assert one.opened is not None
    assert (one.phase, one.opened.version) == ("done", 9)


def test_an_open_that_was_not_carried_out_is_sent_again_after_the_lookup() -> None:
    one, change = opening()
    one.handle(unanswered(), 2.0)
    one.tick(3.0)
    claim = replace(change.state, state="claimed", members=OPEN.members)
    assert one.handle(standing(claim, 8), 3.0).send == (change,)
    one.handle(standing(change.state, 9), 3.5)
    assert one.phase == "done"


def test_a_table_that_did_not_answer_is_asked_again() -> None:
    one = after_seals(sealed("a", 4, 20), sealed("b", 4, 20))
    assert one.handle(unanswered(), 0.2).send == ()
    assert "table (the store is away)" in one.waits_for()
    assert one.tick(0.5).send == (ReadStored(SHARD, "mine"),)
    assert one.handle(Stored(SHARD, "mine", 0), 0.6).send == (Fetch(SHARD, "a", 5, 0),)


def test_while_the_table_is_away_the_logs_tell_from_where_on_it_goes() -> None:
    """What any member has trimmed is in the table; what the table has beyond that, the archiver finds there."""
    one = after_seals(sealed("a", 4, 90, trimmed=20), sealed("b", 4, 90, trimmed=30), sealed("c", 3, 40))
    assert one.tick(TABLE_S * 0.9).send == ()
    assert one.tick(GRACE_S + TABLE_S).send == (Fetch(SHARD, "a", 5, 30),)
    assert one.handle(Stored(SHARD, "mine", 50), 2.0).send == (), "too late"


def test_a_tick_that_comes_for_the_seals_does_not_forget_the_table() -> None:
    """All seal at once; the deadline of the seals passes while the table is waited for."""
    one = takeover()
    claimed(one)
    for id in "abc":
        one.handle(sealed(id, 4, 20), 0.01)
    assert one.phase == "table"
    assert one.tick(GRACE_S) == Output(deadline=0.01 + TABLE_S)
    assert one.tick(0.01 + TABLE_S).send == (Fetch(SHARD, "a", 5, 0),)


def test_logs_that_contradict_one_another_are_not_gone_on_from_without_the_table() -> None:
    one = after_seals(sealed("a", 4, 20), sealed("b", 3, 90, trimmed=50))
    assert one.tick(GRACE_S + TABLE_S).send == (ReadState(SHARD, "mine"),), "has a later epoch gone on?"


def test_without_any_log_only_the_table_can_tell() -> None:
    one = takeover(None)
    claimed(one, 1)
    assert one.handle(unanswered(), 0.2).send == ()
    assert one.tick(10 * TABLE_S).send == (ReadStored(SHARD, "mine"),)
    assert one.handle(Stored(SHARD, "mine", 0), 11.0).send != ()


def test_answers_to_an_earlier_try_are_none_to_this_one() -> None:
    one = takeover()
    (claim,) = one.start(0.0).send
    assert isinstance(claim, CompareAndSet)
    one.handle(Standing(SHARD, "an earlier one", OPEN, 7), 0.0)
    one.handle(unanswered("an earlier one"), 0.0)
    assert (one.phase, one.tick(RESEND_S)) == ("claim", NOTHING)
    one = after_seals(sealed("a", 4, 20), sealed("b", 4, 20))
    one.handle(Stored(SHARD, "an earlier one", 10), 0.0)
    assert one.phase == "table"


def test_answers_about_another_shard_or_another_epoch_are_dropped() -> None:
    one = takeover()
    claimed(one)
    one.handle(replace(sealed("a", 4, 20), shard="shard-9"), 0.0)
    one.handle(replace(sealed("b", 4, 20), epoch=4), 0.0)
    one.handle(sealed("c", 4, 20), 0.0)
    assert "1 of 2 needed seals" in one.waits_for()


def test_what_was_asked_and_not_answered_is_asked_again() -> None:
    one = after_seals(sealed("a", 4, 20), sealed("b", 4, 20))
    fetches = one.handle(Stored(SHARD, "mine", 0), 1.0).send
    once_s, twice_s = RESEND_LONG_S[0], 2 * RESEND_LONG_S[0]
    assert one.tick(1.0 + once_s / 2) == Output(deadline=1.0 + once_s), "its answer may be long, and on its way"
    assert one.tick(1.0 + once_s).send == fetches
    assert one.tick(1.0 + once_s + twice_s / 2).send == ()
    assert one.tick(1.0 + once_s + twice_s).send == fetches
    joins = one.handle(Entries(SHARD, "a", 5, 0, 20, (entry(0, 0), entry(10, 1)), NO_PRODUCERS), 3.0).send
    one.handle(Joined(SHARD, "b", 5, 20), 3.0)
    assert one.tick(3.0 + RESEND_S).send == tuple(join for join in joins if join.receiver != "b")
    assert one.waits_for() == "1 of 2 needed members; no answer from shard-0, shard-2"


# A loss that an operator accepts.

GAP = Entry.make(5, 20, 21, f"{GAP_PRODUCER}-5", 0, 0, b"lost")
KEPT = (entry(0, 0), entry(10, 1))


def accepting(found: ShardState = OPEN, wished: tuple[Member, ...] = (A, B, C), quorum: int = 2) -> Takeover:
    one = Takeover(SHARD, "shard-0", "a", found, 7, wished, quorum, "mine", b"lost", accept_loss=True)
    claimed(one)
    return one


def acceptance(*members: Member) -> CompareAndSet:
    return CompareAndSet(ShardState(SHARD, 5, "claimed", "shard-0", "mine", members, 1, accepted=5), 8)


def deciding(*logs: Sealed, found: ShardState = OPEN) -> tuple[Takeover, CompareAndSet]:
    """One that asks the metadata store to go on with no more than these."""
    one = accepting(found)
    for log in logs:
        one.handle(log, 0.0)
    (change,) = one.tick(LOSS_GRACE_S).send
    assert isinstance(change, CompareAndSet)
    return one, change


def lossy(*logs: Sealed) -> Takeover:
    one, change = deciding(*logs)
    assert one.handle(standing(change.state, 9), 10.0).send == (ReadStored(SHARD, "mine", fence=5),)
    return one


def opened(one: Takeover, end: int) -> ShardState:
    """Let everybody join; the state that it opens with."""
    for id in one.wished:
        output = one.handle(Joined(SHARD, id, one.epoch, end), 11.0)
    (change,) = output.send
    assert isinstance(change, CompareAndSet)
    one.handle(standing(change.state, 10), 11.0)
    assert one.phase == "done"
    return change.state


def test_a_loss_is_accepted_only_after_the_members_had_their_time() -> None:
    one = accepting()
    one.handle(sealed("a", 4, 20), 0.0)
    assert one.tick(LOSS_GRACE_S / 2).send == (Seal(SHARD, "b", 5), Seal(SHARD, "c", 5))
    assert one.tick(LOSS_GRACE_S).send == (acceptance(A),)


@pytest.mark.parametrize(("logs", "members"), [((), ()), ((sealed("b", 4, 20),), (B,)), ((sealed("c", 3, 9),), (C,))])
def test_who_answered_is_decided_before_the_table_is_read(
    logs: tuple[Sealed, ...], members: tuple[Member, ...]
) -> None:
    one, change = deciding(*logs)
    assert change == acceptance(*members)
    assert one.handle(sealed("a", 4, 90), 10.0) == NOTHING, "too late: the others are given up"
    assert one.tick(100.0) == NOTHING, "and nothing goes on before the store has said so"
    assert one.handle(standing(change.state, 9), 100.0).send == (ReadStored(SHARD, "mine", fence=5),)


def test_all_that_answered_are_needed_from_then_on() -> None:
    five = replace(OPEN, members=(A, B, C, Member("d", "shard-3"), Member("e", "shard-4")), quorum=3)
    _, change = deciding(sealed("a", 4, 20), sealed("b", 4, 10), found=five)
    assert change == acceptance(A, B)
    one = ordinary(change.state)
    assert one.handle(replace(sealed("a", 4, 20), epoch=6), 0.0).send == ()
    assert one.tick(100.0).send == (Seal(SHARD, "b", 6),)
    assert one.waits_for() == "1 of 2 needed seals; no answer from shard-1"


def test_whoever_loses_the_acceptance_stands_down() -> None:
    one, change = deciding(sealed("a", 4, 20))
    assert one.handle(standing(replace(change.state, epoch=6, nonce="later"), 9), 10.0) == NOTHING
    assert one.phase == "lost"


def test_a_lost_answer_to_the_acceptance_is_looked_up_and_it_was_done() -> None:
    one, change = deciding(sealed("a", 4, 20))
    assert one.handle(unanswered(), 10.0).send == ()
    assert one.waits_for() == "accept (the store is away)"
    assert one.tick(10.0 + RESEND_S).send == (ReadState(SHARD, "mine"),)
    assert one.handle(standing(change.state, 9), 12.0).send == (ReadStored(SHARD, "mine", fence=5),)


def test_an_acceptance_that_was_not_carried_out_is_sent_again_after_the_lookup() -> None:
    one, change = deciding(sealed("a", 4, 20))
    one.handle(unanswered(), 10.0)
    one.tick(10.0 + RESEND_S)
    claim = replace(change.state, members=OPEN.members, quorum=OPEN.quorum, accepted=0)
    assert one.handle(standing(claim, 8), 12.0).send == (change,)
    assert one.handle(standing(change.state, 9), 13.0).send == (ReadStored(SHARD, "mine", fence=5),)


def test_a_gap_stands_at_the_end_of_what_is_left_and_in_the_metadata() -> None:
    one = lossy(sealed("a", 4, 20))
    one.handle(Stored(SHARD, "mine", 0), 11.0)
    joins = one.handle(Entries(SHARD, "a", 5, 0, 20, KEPT, NO_PRODUCERS), 11.0).send
    assert {join.receiver: join.entries for join in joins} == {"a": (GAP,), "b": (*KEPT, GAP), "c": (*KEPT, GAP)}
    assert all(join.boundaries == ((4, 0), (5, 20)) for join in joins)
    state = opened(one, 21)
    assert state == ShardState(SHARD, 5, "open", "shard-0", "mine", (A, B, C), 2, accepted=5, gaps=((5, 20),))
    assert one.opened is not None
    assert one.opened.entries == (*KEPT, GAP)


def test_earlier_gaps_stay_on_record() -> None:
    one = accepting(replace(OPEN, accepted=3, gaps=((3, 7),)), (A,), 1)
    (change,) = one.tick(LOSS_GRACE_S).send
    assert (change.state.accepted, change.state.gaps) == (5, ((3, 7),))
    one.handle(standing(change.state, 9), 10.0)
    one.handle(Stored(SHARD, "mine", 30), 11.0)
    assert opened(one, 31).gaps == ((3, 7), (5, 30))


# One that accepted a loss, and ended before it opened; the next one is an ordinary one.


def ordinary(found: ShardState) -> Takeover:
    one = Takeover(SHARD, "shard-1", "b", found, 9, (A, B, C), 2, "next", b"lost")
    (claim,) = one.start(0.0).send
    assert claim.state == replace(found, epoch=6, state="claimed", claimant="shard-1", nonce="next")
    one.handle(Standing(SHARD, "next", claim.state, 10), 0.0)
    return one


def carried_on(log: Sealed, kept: tuple[Entry, ...]) -> Takeover:
    """An ordinary takeover over the only member that was left, with ``log``, whose entries are ``kept``."""
    one = ordinary(acceptance(A).state)
    output = one.handle(replace(log, epoch=6), 0.0)
    assert output.send == (ReadStored(SHARD, "next", fence=6),), (
        "all there are have sealed; and the table is closed anew"
    )
    assert one.handle(Stored(SHARD, "next", 0), 1.0).send == (Fetch(SHARD, "a", 6, 0),)
    one.handle(Entries(SHARD, "a", 6, 0, log.end, kept, NO_PRODUCERS), 1.0)
    return one


def opened_next(one: Takeover, end: int) -> ShardState:
    for id in "abc":
        output = one.handle(Joined(SHARD, id, 6, end), 1.0)
    (change,) = output.send
    one.handle(Standing(SHARD, "next", change.state, 11), 1.0)
    assert one.phase == "done"
    return change.state


def gaps_of(one: Takeover) -> list[tuple[int, int]]:
    """The gap records of the log that it opened with."""
    assert one.opened is not None
    return [(kept.epoch, kept.start) for kept in one.opened.entries if kept.producer.startswith(GAP_PRODUCER)]


def test_of_one_that_ended_after_it_joined_somebody_the_gap_record_is_the_only_one() -> None:
    """Its member has joined, so the record is in the log already; what is owed is the word in the metadata."""
    joined = replace(sealed("a", 5, 21), boundaries=((4, 0), (5, 20)))
    one = carried_on(joined, (*KEPT, GAP))
    assert opened_next(one, 21).gaps == ((5, 20),)
    assert gaps_of(one) == [(5, 20)]


def test_of_one_that_ended_before_it_joined_a_member_the_next_owes_the_gap_record() -> None:
    """Others may have joined. They are no members: what they have made of it is replaced."""
    one = carried_on(sealed("a", 4, 20), KEPT)
    state = opened_next(one, 21)
    assert (state.accepted, state.gaps, gaps_of(one)) == (5, ((6, 20),), [(6, 20)])


def test_a_debt_that_is_paid_is_not_paid_again() -> None:
    found = replace(acceptance(A).state, state="open", members=(A, B, C), quorum=2, gaps=((5, 20),))
    one = ordinary(found)
    for id in "abc":
        output = one.handle(replace(sealed(id, 5, 21), epoch=6), 0.0)
    assert output.send == (ReadStored(SHARD, "next"),)


def test_a_debt_waits_for_the_table_which_must_be_closed_first() -> None:
    owing = accepting(replace(OPEN, state="claimed", members=(A, B), quorum=1, accepted=3))
    owing.handle(replace(sealed("a", 3, 11), boundaries=((2, 0), (3, 10))), 0.0)
    (change,) = owing.tick(LOSS_GRACE_S).send
    assert owing.handle(standing(change.state, 9), 10.0).send == (ReadStored(SHARD, "mine", 5),)
    assert owing.tick(10.0 + 10 * TABLE_S).send == ()
    owing.handle(unanswered(), 30.0)
    assert owing.tick(31.0).send == (ReadStored(SHARD, "mine", 5),)


def test_a_debt_of_two_losses_is_not_paid_by_the_record_of_the_first() -> None:
    """The second was accepted over a log in which the first one's takeover, which never opened, has left its record."""
    one = accepting(replace(OPEN, state="claimed", members=(A, B), quorum=1, accepted=3))
    one.handle(replace(sealed("a", 3, 11), boundaries=((2, 0), (3, 10))), 0.0)
    (change,) = one.tick(LOSS_GRACE_S).send
    assert change == acceptance(A)
    one.handle(standing(change.state, 9), 10.0)
    one.handle(Stored(SHARD, "mine", 0), 11.0)
    first = Entry.make(3, 10, 11, f"{GAP_PRODUCER}-3", 0, 0, b"lost")
    one.handle(Entries(SHARD, "a", 5, 0, 11, (entry(0, 0), first), NO_PRODUCERS), 11.0)
    assert opened(one, 12).gaps == ((3, 10), (5, 11))


def test_of_one_that_ended_before_its_acceptance_arrived_nothing_is_left() -> None:
    """The members are who they were: a majority of them is enough, and nothing is missing."""
    one = ordinary(replace(OPEN, epoch=5, state="claimed", nonce="mine"))
    one.handle(replace(sealed("b", 4, 20), epoch=6), 0.0)
    one.handle(replace(sealed("c", 4, 10), epoch=6), 0.0)
    assert one.tick(GRACE_S).send == (ReadStored(SHARD, "next"),), "nor is the table closed to anybody"
    assert one.handle(Stored(SHARD, "next", 0), 1.0).send == (Fetch(SHARD, "b", 6, 0),)
    one.handle(Entries(SHARD, "b", 6, 0, 20, KEPT, NO_PRODUCERS), 1.0)
    assert (opened_next(one, 20).gaps, gaps_of(one)) == ((), [])


def test_where_nobody_was_left_the_next_one_goes_on_from_the_end_of_the_table() -> None:
    one = ordinary(acceptance().state)
    assert one.phase == "table", "there is nobody to seal"
    joins = one.handle(Stored(SHARD, "next", 30), 1.0).send
    assert [(join.trimmed, join.start, join.boundaries) for join in joins] == [(30, 30, ((6, 30),))] * 3
    assert ProducerTable.from_plain(joins[0].producers).forgotten == 30
    assert (opened_next(one, 31).gaps, gaps_of(one)) == (((6, 30),), [(6, 30)])


@pytest.mark.parametrize("logs", [(), (sealed("a", 4, 20),)])
def test_where_nobody_left_reaches_the_end_of_the_table_the_producers_are_forgotten(logs: tuple[Sealed, ...]) -> None:
    one = lossy(*logs)
    joins = one.handle(Stored(SHARD, "mine", 30), 11.0).send
    assert [join.receiver for join in joins] == ["a", "b", "c"]
    for join in joins:
        assert (join.trimmed, join.start, join.boundaries) == (30, 30, ((5, 30),))
        assert [(kept.start, kept.end) for kept in join.entries] == [(30, 31)]
        table = ProducerTable.from_plain(join.producers)
        assert table.check("p", 0, 0, 29) == Evicted()
        assert table.check("p", 0, 0, 30) == New()


def test_with_enough_seals_nothing_is_lost_and_nothing_is_said_to_be() -> None:
    one = accepting()
    one.handle(sealed("b", 4, 20), 0.0)
    one.handle(sealed("c", 4, 10), 0.0)
    assert one.tick(LOSS_GRACE_S).send == (ReadStored(SHARD, "mine"),), "and the table is not fenced"
    one.handle(Stored(SHARD, "mine", 0), 11.0)
    joins = one.handle(Entries(SHARD, "b", 5, 0, 20, KEPT, NO_PRODUCERS), 11.0).send
    assert {kept.producer for join in joins for kept in join.entries} == {"p"}
    state = opened(one, 20)
    assert (state.accepted, state.gaps) == (0, ())


def test_with_every_seal_there_is_nothing_to_wait_for() -> None:
    one = accepting()
    for id in "ab":
        assert one.handle(sealed(id, 4, 20), 0.0).send == ()
    assert one.handle(sealed("c", 4, 20), 0.0).send == (ReadStored(SHARD, "mine"),)


def test_a_first_epoch_has_nothing_to_lose() -> None:
    one = Takeover(SHARD, "shard-0", "a", None, 0, (A, B, C), 2, "mine", b"lost", accept_loss=True)
    assert claimed(one, 1) == (ReadStored(SHARD, "mine"),)
    joins = one.handle(Stored(SHARD, "mine", 0), 0.0).send
    assert {join.entries for join in joins} == {()}


RETIRED = ShardState(SHARD, 5, "retired", "shard-0", "theirs", (), 2, retired=7, ended=20)


def retiring(found: ShardState | None = OPEN, decision: int = 7) -> Takeover:
    return Takeover(
        SHARD, "shard-0", "a", found, 7 if found else 0, (A, B, C), 2, "mine", b"lost", decision=decision, retire=True
    )


def sealed_by_two(one: Takeover, ends: tuple[int, int]) -> None:
    claimed(one)
    for id, end in zip("ab", ends, strict=True):
        one.handle(sealed(id, 4, end), 0.0)
    one.tick(GRACE_S)
    assert one.phase == "table"


def test_a_shard_of_which_the_table_holds_all_is_retired_and_nobody_counts_on_its_members() -> None:
    one = retiring()
    sealed_by_two(one, (20, 10))
    (retire,) = one.handle(Stored(SHARD, "mine", 20), 0.0).send
    assert retire == CompareAndSet(ShardState(SHARD, 5, "retired", "shard-0", "mine", (), 2, retired=7, ended=20), 8)
    assert one.handle(standing(retire.state, 9), 0.0) == NOTHING
    assert (one.phase, one.opened) == ("done", None)


def test_where_the_table_lacks_something_it_opens_as_any_other_and_its_leader_archives_that() -> None:
    one = retiring()
    sealed_by_two(one, (20, 10))
    (fetch,) = one.handle(Stored(SHARD, "mine", 10), 0.0).send
    assert fetch == Fetch(SHARD, "a", 5, 10)


def test_whoever_retires_does_not_go_on_without_the_table() -> None:
    one = retiring()
    sealed_by_two(one, (20, 20))
    one.handle(Unanswered(SHARD, "mine"), 0.0)
    later = one.tick(GRACE_S + TABLE_S)
    assert one.phase == "table"
    assert later.send == (ReadStored(SHARD, "mine"),)


def test_a_retirement_whose_answer_was_lost_is_asked_for_until_it_shows() -> None:
    one = retiring()
    sealed_by_two(one, (20, 20))
    (retire,) = one.handle(Stored(SHARD, "mine", 20), 0.0).send
    one.handle(Unanswered(SHARD, "mine"), 0.0)
    assert one.tick(RESEND_S).send == (ReadState(SHARD, "mine"),)
    again = one.handle(
        standing(replace(retire.state, state="claimed", members=OPEN.members, retired=0, ended=0), 8), 0.0
    )
    assert again.send == (retire,), "it had not arrived"
    one.handle(standing(retire.state, 9), 0.0)
    assert one.phase == "done"


def test_a_loss_that_was_accepted_is_told_in_the_log_before_the_shard_is_retired() -> None:
    one = retiring(replace(OPEN, accepted=3, members=(A,), quorum=1))
    claimed(one)
    one.handle(sealed("a", 4, 20), 0.0)
    assert one.phase == "table"
    one.handle(Stored(SHARD, "mine", 20), 0.0)
    assert one.phase == "fetch"


def test_a_retired_shard_moves_by_a_later_decision_alone() -> None:
    for decision in (0, 7):
        late = Takeover(SHARD, "shard-0", "a", RETIRED, 9, (A, B, C), 2, "mine", b"lost", decision=decision)
        assert late.start(0.0) == NOTHING
        assert late.phase == "lost"
    later = Takeover(SHARD, "shard-0", "a", RETIRED, 9, (A, B, C), 2, "mine", b"lost", decision=8)
    assert later.start(0.0).send == (CompareAndSet(replace(RETIRED, epoch=6, state="claimed", nonce="mine"), 9),)


def test_whoever_would_retire_it_by_a_decision_that_is_over_stands_down() -> None:
    taken_up = replace(RETIRED, epoch=6, state="open", members=(A, B, C))
    assert retiring(taken_up, decision=7).start(0.0) == NOTHING
    assert retiring(taken_up, decision=9).start(0.0).send != ()


def test_it_goes_on_where_it_ended_and_knows_no_producer_any_more() -> None:
    one = Takeover(SHARD, "shard-0", "a", RETIRED, 9, (A, B, C), 2, "mine", b"lost", decision=8)
    (claim,) = one.start(0.0).send
    assert one.handle(standing(claim.state, 10), 0.0).send == (ReadStored(SHARD, "mine"),)
    joins = one.handle(Stored(SHARD, "mine", 20), 0.0).send
    assert [(join.receiver, join.trimmed, join.start, join.boundaries) for join in joins] == [
        (id, 20, 20, ((6, 20),)) for id in "abc"
    ]
    table = ProducerTable.from_plain(joins[0].producers)
    assert table.check("p", 0, 3, 0) == Evicted(), "it may have written 3 before"
    assert isinstance(table.check("q", 0, 0, 20), New)
    for id in "abc":
        done = one.handle(Joined(SHARD, id, 6, 20), 0.0)
    (opening,) = done.send
    assert (opening.state.state, opening.state.members, opening.state.retired) == ("open", (A, B, C), 7)


@pytest.mark.parametrize("stored", [10, 30])
def test_a_table_that_does_not_end_where_the_shard_did_is_corrupt(stored: int) -> None:
    one = Takeover(SHARD, "shard-0", "a", RETIRED, 9, (A, B, C), 2, "mine", b"lost", decision=8)
    (claim,) = one.start(0.0).send
    one.handle(standing(claim.state, 10), 0.0)

    def hears() -> None:
        one.handle(Stored(SHARD, "mine", stored), 0.0)
        one.handle(standing(claim.state, 10), 0.0)  # whether a later epoch has gone on: none has

    with pytest.raises(Violation):
        hears()
