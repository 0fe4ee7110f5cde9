from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.replication import Entry, Evicted, Expected, Known, New, ProducerTable, Superseded, Violation
from ringlog.replication.dedup import PRODUCERS_MAX, WINDOW


def entry(sequence: int, producer: str = "p", epoch: int = 0, start: int = 0) -> Entry:
    return Entry.make(1, start, start + 1, producer, epoch, sequence, b"")


def table(count: int) -> ProducerTable:
    return ProducerTable().advanced(entry(number, start=number) for number in range(count))


def test_the_next_sequence_is_new_and_every_one_in_the_window_is_known() -> None:
    known = table(WINDOW + 10)
    assert known.check("p", 0, WINDOW + 10, 0) == New()
    assert known.check("p", 0, WINDOW + 9, 0) == Known(WINDOW + 9, WINDOW + 10)
    assert known.check("p", 0, 10, 0) == Known(10, 11)
    assert known.check("p", 0, 9, 0) == Evicted()


def test_a_jump_is_told_the_expected_sequence() -> None:
    assert table(3).check("p", 0, 5, 0) == Expected(3)


def test_an_unknown_producer_begins_at_zero_or_is_told_that_it_was_evicted() -> None:
    assert table(1).check("q", 0, 0, 0) == New()
    assert table(1).check("q", 0, 4, 0) == Evicted()


def test_a_newer_epoch_begins_at_zero_and_ends_the_older_one() -> None:
    known = table(3)
    assert known.check("p", 1, 2, 0) == Expected(0)
    known.apply(entry(0, epoch=1, start=3))
    assert known.check("p", 0, 3, 0) == Superseded(1)
    assert known.check("p", 1, 1, 0) == New()


def test_applying_a_sequence_twice_is_a_violation() -> None:
    with pytest.raises(Violation, match="SL-4"):
        table(3).apply(entry(2))


def test_the_producer_that_was_silent_for_longest_goes_first() -> None:
    known = ProducerTable()
    for number in range(PRODUCERS_MAX):
        known.apply(entry(0, producer=f"p{number}", start=number))
    known.apply(entry(1, producer="p0", start=PRODUCERS_MAX))
    known.apply(entry(0, producer="one more", start=PRODUCERS_MAX + 1))
    assert len(known) == PRODUCERS_MAX
    assert known.check("p1", 0, 1, 0) == Evicted()
    assert known.check("p0", 0, 2, 0) == New()


def forgetful() -> ProducerTable:
    """It remembers two producers: ``p`` at [0, 1) was forgotten for ``r``."""
    known = ProducerTable(producers_max=2)
    for start, producer in enumerate("pqr"):
        known.apply(entry(0, producer, start=start))
    return known


def test_a_forgotten_producer_is_never_taken_for_a_new_one() -> None:
    known = forgetful()
    assert known.forgotten == 1
    assert known.check("p", 0, 0, 0) == Evicted(), "its first sequence, again"
    assert known.check("p", 0, 1, 0) == Evicted()


def test_a_producer_that_began_after_what_was_forgotten_is_new() -> None:
    known = forgetful()
    assert known.check("s", 0, 0, 0) == Evicted(), "it could be one that was forgotten"
    assert known.check("s", 0, 0, 1) == New()
    assert known.check("p", 1, 0, 1) == New(), "a forgotten one may begin a new epoch"
    assert known.check("q", 0, 1, 0) == New(), "who is remembered need not say since when"


def test_an_entry_of_the_log_is_applied_whatever_was_forgotten() -> None:
    """A replica applies what its leader decided, who knew ``since``."""
    known = forgetful()
    known.apply(entry(0, "p", epoch=1, start=3))
    assert known.check("p", 1, 0, 3) == Known(3, 4)
    assert known.forgotten == 2


Appends = list[tuple[str, bool]]
APPENDS = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60)


def log_of(appends: Appends) -> list[Entry]:
    """Each of a producer's appends has the next sequence, or begins the producer's next epoch."""
    state: dict[str, tuple[int, int]] = {}
    entries = []
    for start, (producer, renew) in enumerate(appends):
        epoch, sequence = state.get(producer, (0, 0))
        if renew:
            epoch, sequence = epoch + 1, 0
        entries.append(entry(sequence, producer, epoch, start))
        state[producer] = (epoch, sequence + 1)
    return entries


@given(APPENDS, st.integers(1, 4), st.integers(0, 60), st.integers(0, 60))
def test_it_is_a_function_of_the_log_however_it_was_built(
    appends: Appends, producers_max: int, first: int, second: int
) -> None:
    log = kept_by_sequence(log_of(appends), producers_max)
    at_once = ProducerTable(producers_max).advanced(log)
    first, second = sorted((first, second))
    copied = ProducerTable(producers_max).advanced(log[:first])
    travelled = ProducerTable.from_plain(orjson.loads(orjson.dumps(copied.advanced(log[first:second]).to_plain())))
    for one in log[second:]:
        travelled.apply(one)
    assert travelled == at_once
    assert copied == ProducerTable(producers_max).advanced(log[:first]), "a copy leaves its original alone"


def kept_by_sequence(log: list[Entry], producers_max: int) -> list[Entry]:
    """Without what a shard with so small a table would have refused: what follows on a forgotten sequence."""
    table, kept = ProducerTable(producers_max), []
    for one in log:
        if table.check(one.producer, one.producer_epoch, one.sequence, len(kept)) == New():
            kept.append(entry(one.sequence, one.producer, one.producer_epoch, len(kept)))
            table.apply(kept[-1])
    return kept


@given(APPENDS, st.integers(1, 4))
def test_what_is_in_the_log_is_never_new(appends: Appends, producers_max: int) -> None:
    """Whatever was forgotten: no retry is appended twice, however early its producer says that it began."""
    log = kept_by_sequence(log_of(appends), producers_max)
    table = ProducerTable(producers_max).advanced(log)
    began = {(one.producer, one.producer_epoch): one.start for one in reversed(log)}
    for one in log:
        for since in range(began[one.producer, one.producer_epoch] + 1):
            assert table.check(one.producer, one.producer_epoch, one.sequence, since) != New()
    assert table.check("somebody new", 0, 0, len(log)) == New()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=200))
def test_it_survives_its_plain_form(steps: list[tuple[str, bool]]) -> None:
    known = ProducerTable()
    state: dict[str, tuple[int, int]] = {}
    for start, (producer, renew) in enumerate(steps):
        epoch, sequence = state.get(producer, (0, 0))
        if renew:
            epoch, sequence = epoch + 1, 0
        known.apply(entry(sequence, producer, epoch, start))
        state[producer] = (epoch, sequence + 1)
    again = ProducerTable.from_plain(orjson.loads(orjson.dumps(known.to_plain())))
    assert again == known
    for producer, (epoch, sequence) in state.items():
        assert again.check(producer, epoch, sequence, 0) == New()
        assert isinstance(again.check(producer, epoch, sequence - 1, 0), Known)
