from __future__ import annotations

from dataclasses import replace

import pytest

from ringlog.replication import (
    NO_PRODUCERS,
    Append,
    Appended,
    Confirm,
    Confirmed,
    Discard,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Message,
    ProducerTable,
    Promise,
    Replace,
    Replica,
    ReplicaState,
    Seal,
    Sealed,
    Trim,
    Violation,
    Write,
    applied,
    is_still_itself,
)

SHARD, ID = "shard-0", "replica-a"


def entry(start: int, sequence: int, epoch: int = 1, rows: int = 10) -> Entry:
    return Entry.make(epoch, start, start + rows, "p", 0, sequence, f"payload {start}".encode())


def log(count: int, epoch: int = 1) -> tuple[Entry, ...]:
    return tuple(entry(10 * number, number, epoch) for number in range(count))


def joined(entries: tuple[Entry, ...] = (), epoch: int = 1) -> Replica:
    replica = Replica(ReplicaState(SHARD, ID))
    replica.handle(Join(SHARD, ID, epoch, 0, 0, ((epoch, 0),), entries, NO_PRODUCERS))
    return replica


def append(
    start: int, entries: tuple[Entry, ...], epoch: int = 1, trimmed: int = 0, producers: object = None
) -> Append:
    return Append(SHARD, ID, epoch, start, entries, 0, trimmed, producers)  # type: ignore[arg-type]


def answer(replica: Replica, message: object) -> Message:
    (only,) = replica.handle(message).send  # type: ignore[arg-type]
    return only


def test_a_message_for_another_journal_is_dropped() -> None:
    assert not joined().handle(replace(Seal(SHARD, ID, 9), receiver="another"))
    assert not joined().handle(replace(Seal(SHARD, ID, 9), shard="shard-9"))


def test_an_append_is_stored_before_it_is_answered() -> None:
    output = joined().handle(append(0, log(2)))
    assert output.store == (Write(log(2)),)
    assert output.send == (Appended(SHARD, ID, 1, 20),)


def test_a_doubled_append_stores_nothing_and_one_that_overlaps_only_what_is_new() -> None:
    replica = joined()
    replica.handle(append(0, log(2)))
    assert replica.handle(append(0, log(2))).store == ()
    assert replica.handle(append(0, log(3))).store == (Write(log(3)[2:]),)
    assert replica.end == 30


def test_an_append_beyond_the_end_is_answered_with_the_end() -> None:
    replica = joined()
    output = replica.handle(append(20, log(3)[2:]))
    assert (output.store, output.send) == ((), (Appended(SHARD, ID, 1, 0),))


def test_a_seal_fences_every_lower_epoch_for_good() -> None:
    replica = joined(log(1))
    output = replica.handle(Seal(SHARD, ID, 3))
    assert output.store == (Promise(3),)
    assert output.send == (Sealed(SHARD, ID, 3, 1, ((1, 0),), 0, 10),)
    for old in (append(10, log(2)[1:]), Seal(SHARD, ID, 2), Confirm(SHARD, ID, 1, 1), Trim(SHARD, ID, 1, 10)):
        assert answer(replica, old) == Fenced(SHARD, ID, old.epoch, 3)
    assert replica.end == 10


def test_a_seal_that_comes_twice_promises_once() -> None:
    replica = joined()
    replica.handle(Seal(SHARD, ID, 2))
    output = replica.handle(Seal(SHARD, ID, 2))
    assert output.store == ()
    assert isinstance(output.send[0], Sealed)


def test_an_epoch_that_was_sealed_but_not_joined_appends_and_confirms_nothing() -> None:
    replica = joined()
    replica.handle(Seal(SHARD, ID, 2))
    assert not replica.handle(append(0, log(1, epoch=2), epoch=2))
    assert not replica.handle(Confirm(SHARD, ID, 2, 1))


def test_an_epoch_that_was_never_promised_appends_nothing() -> None:
    assert not joined().handle(append(0, log(1, epoch=5), epoch=5))


def test_confirm_says_that_the_epoch_is_current() -> None:
    assert answer(joined(), Confirm(SHARD, ID, 1, 7)) == Confirmed(SHARD, ID, 1, 7)


def test_join_makes_the_log_exactly_the_tail() -> None:
    replica = joined(log(3))
    replica.handle(Seal(SHARD, ID, 2))
    tail = (entry(0, 0), entry(10, 1), entry(20, 7, epoch=2))
    join = Join(SHARD, ID, 2, 0, 20, ((1, 0), (2, 20)), tail[2:], NO_PRODUCERS)
    with pytest.raises(Violation):  # sequence 7 cannot follow 1: a log that never was
        replica.handle(join)


def test_join_keeps_what_agrees_and_replaces_the_rest() -> None:
    replica = joined(log(3))
    replica.handle(Seal(SHARD, ID, 2))
    fresh = entry(20, 2, epoch=2, rows=5)
    output = replica.handle(Join(SHARD, ID, 2, 0, 20, ((1, 0), (2, 20)), (fresh,), NO_PRODUCERS))
    assert output.store == (Replace(2, 2, 0, ((1, 0), (2, 20)), NO_PRODUCERS, (*log(2), fresh)),)
    assert output.send == (Joined(SHARD, ID, 2, 25),)


def test_a_second_join_of_an_epoch_cuts_nothing() -> None:
    replica = joined()
    replica.handle(append(0, log(2)))
    output = replica.handle(Join(SHARD, ID, 1, 0, 0, ((1, 0),), (), NO_PRODUCERS))
    assert (output.store, output.send) == ((), (Joined(SHARD, ID, 1, 20),))
    assert replica.end == 20


def test_trim_forgets_entries_but_not_their_sequences() -> None:
    replica = joined(log(3))
    (discard,) = replica.handle(Trim(SHARD, ID, 1, 20)).store
    assert isinstance(discard, Discard)
    assert (discard.trimmed, replica.trimmed, replica.end) == (20, 20, 30)
    assert ProducerTable.from_plain(discard.producers) == ProducerTable().advanced(log(2))


def test_trim_never_reaches_beyond_the_log_nor_into_an_entry() -> None:
    replica = joined(log(2))
    assert replica.handle(Trim(SHARD, ID, 1, 50)).store == ()
    with pytest.raises(Violation, match="SL-3"):
        replica.handle(Trim(SHARD, ID, 1, 15))


def test_fetch_gives_the_log_and_the_producers_as_of_its_start() -> None:
    replica = joined(log(3))
    replica.handle(Seal(SHARD, ID, 2))
    found = answer(replica, Fetch(SHARD, ID, 2, 10))
    assert isinstance(found, Entries)
    assert (found.entries, found.end) == (log(3)[1:], 30)
    assert ProducerTable.from_plain(found.producers) == ProducerTable().advanced(log(1))


def test_a_fetch_that_is_late_finds_another_log_and_is_dropped() -> None:
    replica = joined(log(3))
    replica.handle(Seal(SHARD, ID, 2))
    replica.handle(Join(SHARD, ID, 2, 0, 30, ((1, 0), (2, 30)), (), NO_PRODUCERS))
    replica.handle(Trim(SHARD, ID, 2, 20))
    assert not replica.handle(Fetch(SHARD, ID, 2, 0))


def test_a_laggard_takes_the_producers_and_begins_at_the_leaders_trim() -> None:
    replica = joined(log(1))
    producers = ProducerTable().advanced(log(3)).to_plain()
    output = replica.handle(append(30, log(4)[3:], trimmed=30, producers=producers))
    assert isinstance(output.store[0], Replace)
    assert output.send == (Appended(SHARD, ID, 1, 40),)
    assert (replica.trimmed, replica.end) == (30, 40)


def test_a_gap_in_the_leaders_entries_is_a_violation() -> None:
    with pytest.raises(Violation, match="SL-3"):
        joined(log(1)).handle(append(10, (entry(20, 1),)))


def test_a_replica_begins_again_from_its_state_as_it_was() -> None:
    replica = joined(log(3))
    replica.handle(Trim(SHARD, ID, 1, 10))
    replica.handle(Seal(SHARD, ID, 4))
    again = Replica(replica.state())
    assert again.state() == replica.state()
    assert again.producers == replica.producers


def test_what_is_stored_op_by_op_is_the_replica() -> None:
    replica = Replica(ReplicaState(SHARD, ID))
    disk = replica.state()
    for message in (
        Seal(SHARD, ID, 1),
        Join(SHARD, ID, 1, 0, 0, ((1, 0),), (), NO_PRODUCERS),
        append(0, log(3)),
        Trim(SHARD, ID, 1, 10),
        Seal(SHARD, ID, 2),
        Join(SHARD, ID, 2, 10, 20, ((1, 0), (2, 20)), (), ProducerTable().advanced(log(1)).to_plain()),
        append(50, (), epoch=2, trimmed=50, producers=ProducerTable(forgotten=50).to_plain()),
    ):
        for op in replica.handle(message).store:  # type: ignore[arg-type]
            disk = applied(disk, op)
        assert disk == replica.state()
    assert (disk.trimmed, disk.entries) == (50, ())


@pytest.mark.parametrize(
    ("fsync", "closed", "same_boot", "itself"),
    [
        ("group", False, False, True),
        ("interval", False, True, True),
        ("interval", False, False, False),
        ("interval", True, False, True),
        ("never", False, True, True),
        ("never", False, False, False),
        ("never", True, False, True),
    ],
)
def test_a_journal_that_may_have_lost_something_is_somebody_else(
    fsync: str, closed: bool, same_boot: bool, itself: bool
) -> None:
    assert is_still_itself(fsync, closed, "boot-1", "boot-1" if same_boot else "boot-2") is itself
