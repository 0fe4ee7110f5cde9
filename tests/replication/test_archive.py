from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.replication import Entry, Violation, already_stored, outcome, to_archive

SHARD = "shard-0"


def log(*ends: int, start: int = 0) -> list[Entry]:
    """Entries that end at ``ends``, with a payload of ten bytes each."""
    starts = [start, *ends[:-1]]
    return [
        Entry.make(1, begin, end, "p", 0, number, b"x" * 10)
        for number, (begin, end) in enumerate(zip(starts, ends, strict=True))
    ]


def taken(
    entries: list[Entry], committed: int, stored: int, trimmed: int = 0, fence: int = 0, bytes_max: int = 1000
) -> list[tuple[int, int]]:
    found = to_archive(SHARD, 5, entries, trimmed, committed, stored, fence, bytes_max)
    return [(entry.start, entry.end) for entry in found]


def test_what_is_committed_and_not_stored_is_archived() -> None:
    assert taken(log(3, 5, 9, 12), committed=9, stored=3) == [(3, 5), (5, 9)]
    assert taken(log(3, 5, 9, 12), committed=9, stored=9) == []
    assert taken([], committed=0, stored=0) == []


def test_one_flush_takes_so_many_bytes_but_at_least_one_entry() -> None:
    assert taken(log(3, 5, 9), committed=9, stored=0, bytes_max=20) == [(0, 3), (3, 5)]
    assert taken(log(3, 5, 9), committed=9, stored=0, bytes_max=21) == [(0, 3), (3, 5), (5, 9)]
    assert taken(log(3, 5, 9), committed=9, stored=0, bytes_max=1) == [(0, 3)]


def test_a_leader_that_was_overtaken_leaves_the_table_alone() -> None:
    assert taken(log(3, 5), committed=5, stored=9) == []


def test_a_leader_below_the_fence_leaves_the_table_alone() -> None:
    assert taken(log(3, 5), committed=5, stored=0, fence=6) == []
    assert taken(log(3, 5), committed=5, stored=0, fence=5) == [(0, 3), (3, 5)]
    assert taken(log(12, start=9), committed=12, stored=3, trimmed=9, fence=6) == [], "nor does it judge it"


def test_a_table_that_lacks_what_was_trimmed_is_a_violation() -> None:
    with pytest.raises(Violation, match="SL-6"):
        taken(log(12, start=9), committed=12, stored=3, trimmed=9)


@pytest.mark.parametrize("stored", [2, 4])
def test_a_table_that_ends_inside_an_entry_is_a_violation(stored: int) -> None:
    with pytest.raises(Violation, match="SL-5"):
        taken(log(3, 5), committed=5, stored=stored)


@given(st.lists(st.integers(1, 5), max_size=8), st.data())
def test_piece_by_piece_the_table_gets_each_committed_record_once(sizes: list[int], data: st.DataObject) -> None:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    entries = log(*ends) if ends else []
    committed = data.draw(st.sampled_from([0, *ends]))
    stored = 0
    while piece := taken(entries, committed, stored, bytes_max=data.draw(st.integers(1, 40))):
        assert piece[0][0] == stored
        assert all(one[1] == other[0] for one, other in itertools.pairwise(piece))
        stored = piece[-1][1]
    assert stored == committed


@pytest.mark.parametrize("accepted", [True, False])
def test_what_stands_in_the_table_decides_not_what_the_store_answered(accepted: bool) -> None:
    for fenced in (True, False):
        assert outcome(SHARD, 10, 20, stored=20, fenced=fenced, accepted=accepted) == "done"
        assert outcome(SHARD, 10, 20, stored=25, fenced=fenced, accepted=accepted) == "overtaken"


def test_a_commit_that_was_not_carried_out_is_done_again() -> None:
    assert outcome(SHARD, 10, 20, stored=10, fenced=False, accepted=False) == "again"
    assert outcome(SHARD, 10, 20, stored=15, fenced=False, accepted=False) == "overtaken", "another one: adopt it"


def test_a_commit_that_was_not_carried_out_is_not_done_again_over_a_fence() -> None:
    assert outcome(SHARD, 10, 20, stored=10, fenced=True, accepted=False) == "overtaken"
    assert outcome(SHARD, 10, 20, stored=15, fenced=True, accepted=False) == "overtaken"


@pytest.mark.parametrize(("stored", "accepted"), [(9, False), (10, True), (15, True)])
def test_a_table_that_went_back_is_a_violation(stored: int, accepted: bool) -> None:
    with pytest.raises(Violation, match="SL-6"):
        outcome(SHARD, 10, 20, stored, fenced=True, accepted=accepted)


def test_a_reader_drops_from_the_tail_what_the_table_has() -> None:
    assert already_stored(SHARD, base=10, stored=10) == 0
    assert already_stored(SHARD, base=10, stored=17) == 7
    assert already_stored(SHARD, base=0, stored=0) == 0


def test_a_table_that_ends_before_the_tail_begins_is_a_hole() -> None:
    with pytest.raises(Violation, match=r"SL-7: a read of shard-0 lacks \[9\]"):
        already_stored(SHARD, base=10, stored=9)
