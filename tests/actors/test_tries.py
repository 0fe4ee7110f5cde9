"""What a controller tries: one try of each thing at a time, and one that fails keeps no other from being made."""

from __future__ import annotations

import pytest

from ringlog.actors.tries import Tries, do_all
from ringlog.errors import Unavailable


def test_of_two_tries_of_one_thing_the_second_waits_and_one_that_was_given_up_ends_nothing() -> None:
    tries = Tries()
    first = tries.begin("s", "a")
    assert first is not None
    assert tries.begin("s", "b") is None
    assert [(one.what, one.candidate) for one in tries.under_way()] == [("s", "a")]
    tries.end(first)
    second = tries.begin("s", "b")
    assert second is not None
    tries.end(first)
    assert not tries.goes_on(first)
    assert tries.goes_on(second)
    assert "s" in tries


def test_a_step_that_fails_keeps_no_other_from_being_done_and_all_that_failed_are_told() -> None:
    done: list[int] = []

    def step(number: int) -> None:
        done.append(number)
        if number < 2:
            raise ValueError(f"no {number}")

    with pytest.raises(Unavailable, match="no 0; no 1"):
        do_all(lambda number=number: step(number) for number in range(3))
    assert done == [0, 1, 2]
