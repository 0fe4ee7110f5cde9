from __future__ import annotations

from dataclasses import replace

import pytest

from ringlog.replication import (
    Claimed,
    CompareAndSet,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Member,
    ReadStored,
    Seal,
    Sealed,
    ShardState,
    Stored,
    Takeover,
    Violation,
)
from ringlog.replication.takeover import GRACE_S, RESEND_S

SHARD = "shard-0"
A, B, C = Member("a", "shard-0"), Member("b", "shard-1"), Member("c", "shard-2")
OPEN = ShardState(SHARD, 4, "open", "shard-1", "theirs", (A, B, C), 2)


def takeover(found: ShardState | None = OPEN, wished: tuple[Member, ...] = (A, B, C)) -> Takeover:
    return Takeover(SHARD, "shard-0", "a", found, 7 if found else 0, wished, 2, "mine")


def claimed(one: Takeover, version: int = 8) -> tuple[object, ...]:
    """Start, and let the metadata store say yes."""
    (claim,) = one.start(0.0).send
    assert isinstance(claim, CompareAndSet)
    return one.handle(Claimed(claim.state, version), 0.0).send


def sealed(id: str, log_epoch: int, end: int, trimmed: int = 0) -> Sealed:
    return Sealed(SHARD, id, 5, log_epoch, ((log_epoch, 0),), trimmed, end)


def entry(start: int, sequence: int) -> Entry:
    return Entry.make(4, start, start + 10, "p", 0, sequence, b"x")


def test_the_first_epoch_has_nobody_to_seal() -> None:
    one = takeover(None)
    (read,) = claimed(one, 1)
    assert read == ReadStored(SHARD)
    joins = one.handle(Stored(SHARD, 0), 0.0).send
    assert [(join.receiver, join.epoch, join.entries) for join in joins] == [("a", 1, ()), ("b", 1, ()), ("c", 1, ())]


def test_a_claim_leaves_the_members_that_opened_last() -> None:
    (claim,) = takeover().start(0.0).send
    assert claim == CompareAndSet(ShardState(SHARD, 5, "claimed", "shard-0", "mine", (A, B, C), 2), 7)


def test_whoever_loses_the_claim_stands_down() -> None:
    one = takeover()
    one.start(0.0)
    assert one.handle(Claimed(replace(OPEN, epoch=5, nonce="faster"), 8), 0.0).send == ()
    assert one.phase == "lost"


def test_the_recorded_members_are_sealed_not_the_wished_ones() -> None:
    stranger = Member("x", "shard-9")
    assert claimed(takeover(wished=(A, stranger))) == tuple(Seal(SHARD, id, 5) for id in "abc")


def test_the_table_is_read_only_after_enough_seals() -> None:
    one = takeover()
    claimed(one)
    assert one.handle(sealed("a", 4, 20), 0.0).send == ()
    assert one.handle(sealed("b", 4, 20), 0.0).send == (), "a moment for the third"
    assert one.tick(GRACE_S).send == (ReadStored(SHARD),)


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
    assert one.tick(GRACE_S).send != (ReadStored(SHARD),)


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
    assert one.handle(Stored(SHARD, 10), 0.0).send == (Fetch(SHARD, "b", 5, 10),)


def test_a_tail_that_was_trimmed_beyond_the_table_is_corruption() -> None:
    one = after_seals(sealed("a", 4, 90, trimmed=50), sealed("b", 4, 20), sealed("c", 4, 20))
    with pytest.raises(Violation, match="SL-6"):
        one.handle(Stored(SHARD, 40), 0.0)


def test_a_table_without_its_metadata_is_not_guessed_over() -> None:
    one = takeover(None)
    claimed(one, 1)
    with pytest.raises(Violation, match="_ringlog"):
        one.handle(Stored(SHARD, 40), 0.0)


def joining() -> tuple[Takeover, tuple[Join, ...]]:
    one = after_seals(sealed("a", 4, 10), sealed("b", 4, 20))
    one.handle(Stored(SHARD, 0), 1.0)
    kept = (entry(0, 0), entry(10, 1))
    return one, one.handle(Entries(SHARD, "b", 5, 0, 20, kept, {}), 1.0).send


def test_a_member_that_agrees_up_to_some_point_gets_only_the_rest() -> None:
    _, joins = joining()
    assert {join.receiver: (join.start, len(join.entries)) for join in joins} == {
        "a": (10, 1),
        "b": (20, 0),
        "c": (0, 2),
    }
    assert all(join.boundaries == ((4, 0), (5, 20)) for join in joins)


def test_an_entry_that_was_changed_on_its_way_is_refused() -> None:
    one = after_seals(sealed("a", 4, 10), sealed("b", 4, 10))
    one.handle(Stored(SHARD, 0), 0.0)
    with pytest.raises(Violation, match="SL-2"):
        one.handle(Entries(SHARD, "b", 5, 0, 10, (replace(entry(0, 0), payload=b"y"),), {}), 0.0)


def test_it_opens_with_those_that_joined_and_its_leader_keeps_the_tail() -> None:
    one, _ = joining()
    one.handle(Joined(SHARD, "a", 5, 20), 1.0)
    one.handle(Joined(SHARD, "c", 5, 20), 1.0)
    (opening,) = one.tick(1.0 + GRACE_S).send
    assert opening == CompareAndSet(ShardState(SHARD, 5, "open", "shard-0", "mine", (A, C), 2), 8)
    assert one.opened is None, "nothing is accepted before the store has said so"
    one.handle(Claimed(opening.state, 9), 2.0)
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
    assert one.handle(Claimed(claim, 8), 2.0).send == (change,)


def test_an_open_that_somebody_overtook_is_lost() -> None:
    one, change = opening()
    one.handle(Claimed(replace(change.state, epoch=6, nonce="later"), 9), 2.0)
    assert (one.phase, one.opened) == ("lost", None)


def test_a_higher_promise_anywhere_ends_it() -> None:
    one = takeover()
    claimed(one)
    one.handle(Fenced(SHARD, "b", 5, 6), 0.0)
    assert one.phase == "lost"
    assert one.handle(sealed("a", 4, 0), 0.0).send == ()
