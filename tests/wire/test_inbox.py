from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ringlog.wire import Inbox
from ringlog.wire.inbox import EVENTS_MAX

WITHIN_S = 10.0


class Kept:
    """An inbox with a state that breaks where two events run at once."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, int]] = []
        self.inside = False
        self.due: float | None = None
        self.ticked = threading.Event()
        self.errors: list[BaseException] = []
        self.inbox = Inbox("kept", self.tick, lambda: self.due, self.errors.append)

    def event(self, who: int, number: int) -> None:
        assert not self.inside
        self.inside = True
        time.sleep(0)  # lets others try
        self.ran.append((who, number))
        self.inside = False

    def tick(self, now: float) -> None:
        assert not self.inside
        if self.due is not None and self.due <= now:
            self.due = None
            self.ticked.set()


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.inbox.close()


@pytest.mark.parametrize("way", ["put", "hand"])
def test_every_event_runs_once_alone_and_in_the_order_of_its_thread(kept: Kept, way: str) -> None:
    def bring(who: int) -> None:
        bring_one = getattr(kept.inbox, way if who % 2 else "put")
        for number in range(500):
            bring_one(lambda number=number: kept.event(who, number))

    threads = [threading.Thread(target=bring, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept.inbox.close()
    assert kept.errors == []
    assert sorted(kept.ran) == [(who, number) for who in range(4) for number in range(500)]
    for who in range(4):
        assert [number for one, number in kept.ran if one == who] == list(range(500))


def test_an_event_that_brings_another_ends_before_that_begins(kept: Kept) -> None:
    order: list[str] = []

    def first() -> None:
        kept.inbox.put(lambda: order.append("second"))
        order.append("first")

    kept.inbox.put(first)
    assert order == ["first", "second"], "both ran in the thread that put the first"


def test_what_is_handed_over_runs_in_another_thread(kept: Kept) -> None:
    done = threading.Event()
    threads: list[int] = []

    def event() -> None:
        threads.append(threading.get_ident())
        done.set()

    kept.inbox.hand(event)
    assert done.wait(WITHIN_S)
    assert threads != [threading.get_ident()]


def test_a_thread_that_brings_one_event_does_not_run_those_of_others_for_ever(kept: Kept) -> None:
    threads: list[int] = []
    done = threading.Event()

    def on_and_on() -> None:
        threads.append(threading.get_ident())
        if len(threads) < 10 * EVENTS_MAX:
            kept.inbox.put(on_and_on)
        else:
            done.set()

    kept.inbox.put(on_and_on)
    assert done.wait(WITHIN_S)
    assert threads.count(threading.get_ident()) == EVENTS_MAX
    assert kept.errors == []


def test_a_tick_comes_when_it_is_due_and_a_sooner_one_is_not_missed(kept: Kept) -> None:
    def due_in(seconds: float) -> None:
        kept.due = time.monotonic() + seconds

    kept.inbox.put(lambda: due_in(1000.0))
    kept.inbox.put(lambda: due_in(0.01))
    assert kept.ticked.wait(WITHIN_S)
    kept.ticked.clear()
    kept.inbox.put(lambda: due_in(0.01))
    assert kept.ticked.wait(WITHIN_S)


def test_after_an_error_nothing_runs() -> None:
    kept = Kept()

    def fail() -> None:
        kept.inbox.put(lambda: kept.event(0, 0))
        raise ValueError("an invariant does not hold")

    kept.inbox.put(fail)
    kept.inbox.put(lambda: kept.event(0, 1))
    assert [str(error) for error in kept.errors] == ["an invariant does not hold"]
    assert kept.ran == []
    kept.inbox.close()


def test_what_was_put_before_the_end_runs_and_nothing_after() -> None:
    kept = Kept()
    for number in range(100):
        kept.inbox.hand(lambda number=number: kept.event(0, number))
    kept.inbox.close()
    kept.inbox.put(lambda: kept.event(1, 0))
    assert kept.ran == [(0, number) for number in range(100)]
