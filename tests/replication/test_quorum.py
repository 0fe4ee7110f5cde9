from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.conftest import Check
from ringlog.replication import Sealed
from ringlog.replication.quorum import agreement, best, committed_end, describe, seals_needed, trimmed_boundaries

DRAWINGS = Path(__file__).parent / "testdata" / "quorum.txt"


def draw(command: str) -> list[str]:
    """``2 a=30 b=10``: a quorum of two, and how far each member holds the log."""
    quorum, *members = command.split()
    ends = {name: int(end) for name, end in (member.split("=") for member in members)}
    drawing = describe(ends, int(quorum)).splitlines()
    (marked,) = (line for line in drawing if "<-" in line)
    assert int(marked.partition("<-")[0].split()[-1]) == committed_end(ends.values(), int(quorum))
    return drawing


def test_drawings(unchanged: Check) -> None:
    unchanged(DRAWINGS, draw)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.data())
def test_what_is_committed_is_held_by_a_quorum_and_nothing_beyond_it_is(ends: list[int], data: st.DataObject) -> None:
    quorum = data.draw(st.integers(1, len(ends)))
    end = committed_end(ends, quorum)
    assert sum(one >= end for one in ends) >= quorum
    assert sum(one > end for one in ends) < quorum


@pytest.mark.parametrize("members", range(1, 8))
def test_so_many_seals_meet_every_quorum_and_one_less_does_not(members: int) -> None:
    for quorum in range(1, members + 1):
        needed = seals_needed(members, quorum)
        assert needed + quorum > members, "two sets of this size cannot miss one another"
        assert needed - 1 + quorum <= members


def sealed(id: str, log_epoch: int, end: int) -> Sealed:
    return Sealed("shard-0", id, 9, log_epoch, (), 0, end)


def test_the_newest_log_wins_and_only_then_the_longest() -> None:
    logs = [sealed("a", 3, 90), sealed("b", 4, 20), sealed("c", 4, 30), sealed("d", 0, 0)]
    assert best(logs).id == "c"
    assert best(logs[:2]).id == "b"


def test_two_logs_agree_as_far_as_the_newest_epoch_that_both_know() -> None:
    assert agreement([(1, 0)], 30, [(1, 0)], 20) == 20
    assert agreement([(1, 0), (2, 10)], 30, [(1, 0), (3, 15)], 40) == 10, "of epoch 1 the one kept [0, 10)"
    assert agreement([(1, 0), (2, 10), (4, 20)], 25, [(2, 10), (3, 18)], 40) == 18
    assert agreement([(1, 0)], 30, [(2, 0)], 20) is None


def test_the_epoch_that_reaches_over_a_trim_is_kept() -> None:
    boundaries = [(1, 0), (2, 40), (3, 60)]
    assert trimmed_boundaries(boundaries, 0) == tuple(boundaries)
    assert trimmed_boundaries(boundaries, 40) == ((2, 40), (3, 60))
    assert trimmed_boundaries(boundaries, 99) == ((3, 60),)
