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
    assert known.check("p", 0, WINDOW + 10) == New()
    assert known.check("p", 0, WINDOW + 9) == Known(WINDOW + 9, WINDOW + 10)
    assert known.check("p", 0, 10) == Known(10, 11)
    assert known.check("p", 0, 9) == Evicted()


def test_a_jump_is_told_the_expected_sequence() -> None:
    assert table(3).check("p", 0, 5) == Expected(3)


def test_an_unknown_producer_begins_at_zero_or_is_told_that_it_was_evicted() -> None:
    assert table(1).check("q", 0, 0) == New()
    assert table(1).check("q", 0, 4) == Evicted()


def test_a_newer_epoch_begins_at_zero_and_ends_the_older_one() -> None:
    known = table(3)
    assert known.check("p", 1, 2) == Expected(0)
    known.apply(entry(0, epoch=1, start=3))
    assert known.check("p", 0, 3) == Superseded(1)
    assert known.check("p", 1, 1) == New()


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
    assert known.check("p1", 0, 1) == Evicted()
    assert known.check("p0", 0, 2) == New()


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
        assert again.check(producer, epoch, sequence) == New()
        assert isinstance(again.check(producer, epoch, sequence - 1), Known)
