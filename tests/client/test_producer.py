from __future__ import annotations

import random
from typing import Any

import pytest

from ringlog.client.producer import GAP_PAUSE_S, OVERLOAD_PAUSE_S, WINDOW, Batch, Producer, Step
from ringlog.errors import InvalidRecord, OutcomeUnknown, Overloaded, RinglogError, Unavailable
from ringlog.replication import Evicted, Expected, Known, New, ProducerTable, Submit, Superseded
from ringlog.replication.messages import Entry
from ringlog.wire import Acknowledged, Declined

SHARD = "shard-0"


def batch(caller: str, deadline: float = 30.0) -> Batch:
    return Batch(caller.encode(), 1, "quorum", deadline, caller)


def connected(*callers: str, deadline: float = 30.0) -> Producer:
    one = Producer(SHARD, "p")
    one.connected(1, 0, 0.0)
    for caller in callers:
        one.submit(batch(caller, deadline), 0.0)
    return one


def acknowledged(sequence: int, epoch: int = 0) -> Acknowledged:
    return Acknowledged(SHARD, "p", epoch, sequence, 1, sequence, sequence + 1)


def declined(sequence: int, reason: Any, expected: int = -1, epoch: int = 0) -> Declined:
    return Declined(SHARD, "p", epoch, sequence, reason, "why", 2, expected)


def sent(step: Step) -> list[tuple[int, bytes]]:
    return [(submit.sequence, submit.payload) for submit in step.send]


def errors(step: Step) -> dict[str, type]:
    return {caller: type(result) for caller, result in step.results}


def test_batches_get_their_sequences_in_order_and_are_settled_by_them() -> None:
    one = Producer(SHARD, "p")
    assert one.submit(batch("a"), 0.0).send == [], "nothing is sent without a leader"
    assert sent(one.connected(1, 0, 0.0)) == [(0, b"a")]
    assert sent(one.submit(batch("b"), 0.0)) == [(1, b"b")]
    assert one.acknowledged(acknowledged(1), 0.0).results == [("b", acknowledged(1))]
    assert one.acknowledged(acknowledged(1), 0.0).results == [], "an answer that comes twice counts once"


def test_no_more_than_the_window_is_on_its_way() -> None:
    one = connected(*(str(number) for number in range(WINDOW + 3)))
    assert sent(one.acknowledged(acknowledged(0), 0.0)) == [(WINDOW, str(WINDOW).encode())]


def test_a_lost_stream_sends_everything_again_with_the_same_sequences() -> None:
    one = connected("a", "b")
    assert one.disconnected().routes
    assert sent(one.connected(2, 0, 0.0)) == [(0, b"a"), (1, b"b")]


def test_fenced_asks_for_routes_and_retries_there() -> None:
    one = connected("a")
    assert one.declined(declined(0, "fenced"), 0.0).routes
    step = one.connected(5, 0, 0.0)
    assert [(submit.sequence, submit.epoch) for submit in step.send] == [(0, 5)]


def test_an_overloaded_shard_gets_a_pause_and_then_everything_again() -> None:
    one = connected("a", "b")
    one.declined(declined(0, "overloaded"), 0.0)
    one.declined(declined(1, "expected", expected=0), 0.0)
    assert one.submit(batch("c"), 0.01).send == []
    assert sent(one.tick(OVERLOAD_PAUSE_S)) == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_a_gap_is_filled_after_a_moment() -> None:
    one = connected("a", "b")
    one.declined(declined(1, "expected", expected=0), 0.0)
    assert sent(one.tick(GAP_PAUSE_S)) == [(1, b"b")]


def test_one_that_was_surely_not_stored_is_told_so_and_the_others_go_on_in_a_new_epoch() -> None:
    one = connected("a", deadline=5.0)
    one.submit(batch("b", deadline=50.0), 0.0)
    one.declined(declined(0, "overloaded"), 4.9)
    one.declined(declined(1, "expected", expected=0), 4.9)
    step = one.tick(6.0)
    assert errors(step) == {"a": Overloaded}
    assert [(submit.producer_epoch, submit.sequence, submit.payload) for submit in step.send] == [(1, 0, b"b")]


def test_one_that_may_be_stored_is_told_that_and_its_sequence_is_still_settled() -> None:
    one = connected("a", deadline=5.0)
    one.disconnected()
    assert errors(one.tick(6.0)) == {"a": OutcomeUnknown}
    assert errors(one.tick(7.0)) == {}
    one.submit(batch("b", deadline=50.0), 7.0)
    assert sent(one.connected(2, 0, 8.0)) == [(0, b"a"), (1, b"b")], "else the next one would be a jump"
    assert one.acknowledged(acknowledged(0), 8.0).results == []
    assert one.acknowledged(acknowledged(1), 8.0).results == [("b", acknowledged(1))]


def test_one_that_was_never_sent_is_told_that_it_is_not_stored() -> None:
    one = Producer(SHARD, "p")
    one.submit(batch("a", deadline=5.0), 0.0)
    assert errors(one.tick(6.0)) == {"a": Unavailable}
    assert sent(one.connected(1, 0, 7.0)) == []


def reason(one: Producer, now: float) -> RinglogError:
    """What one is told that comes now, is not sent, and whose time is up at once."""
    assert one.submit(batch("late", deadline=now), now).send == []
    ((caller, why),) = one.tick(now).results
    assert caller == "late"
    assert isinstance(why, RinglogError)
    return why


def test_who_is_not_sent_is_told_that_the_window_is_full_only_while_there_is_a_leader() -> None:
    one = Producer(SHARD, "p")
    assert "no leader" in str(reason(one, 1.0))
    one = connected(*map(str, range(WINDOW)))
    assert "not acknowledged" in str(reason(one, 1.0))
    one.disconnected()
    assert "no leader" in str(reason(one, 2.0))
    one.connected(2, 0, 3.0)
    assert "not acknowledged" in str(reason(one, 3.0))
    one.declined(declined(0, "fenced"), 4.0)
    assert "no leader" in str(reason(one, 4.0))


def test_an_overload_is_the_reason_until_it_is_over() -> None:
    one = connected(*map(str, range(WINDOW)))
    one.declined(declined(1, "overloaded"), 1.0)
    one.acknowledged(acknowledged(0), 1.0)  # it was taken before
    assert isinstance(reason(one, 1.1), Overloaded)
    one.submit(batch("one more"), 1.1)
    one.tick(1.0 + OVERLOAD_PAUSE_S)
    assert isinstance(reason(one, 2.0), Overloaded), "what it declined was sent again, and nothing is known of that"
    one.acknowledged(acknowledged(1), 2.0)
    one.submit(batch("and one more"), 2.0)
    assert "not acknowledged" in str(reason(one, 2.0))
    one.declined(declined(2, "overloaded"), 3.0)
    one.disconnected()
    assert "no leader" in str(reason(one, 3.0))


def test_a_rejected_producer_begins_anew_with_what_was_surely_not_stored() -> None:
    one = connected("a", "b")
    one.disconnected()
    one.submit(batch("c"), 0.0)
    one.connected(2, 0, 0.0)
    one.declined(declined(0, "overloaded"), 0.0)
    step = one.declined(declined(1, "rejected"), 0.0)
    assert errors(step)["a"] is OutcomeUnknown
    assert one.producer_epoch == 1


def test_a_batch_that_a_leader_cannot_read_fails_alone() -> None:
    one = connected("a", "b", "c")
    one.acknowledged(acknowledged(0), 0.0)
    one.declined(declined(2, "expected", expected=1), 0.0)
    step = one.declined(declined(1, "invalid"), 0.0)
    assert errors(step) == {"b": InvalidRecord}
    step = one.tick(GAP_PAUSE_S) if not step.send else step
    assert [(submit.producer_epoch, submit.sequence, submit.payload) for submit in step.send] == [(1, 0, b"c")]


class Shard:
    """A leader as a producer sees it: sometimes it declines, loses an answer, or changes."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.table = ProducerTable()
        self.stored: list[bytes] = []

    def answer(self, submit: Submit) -> Acknowledged | Declined | None:
        head = (submit.shard, submit.producer, submit.producer_epoch, submit.sequence)
        verdict = self.table.check(submit.producer, submit.producer_epoch, submit.sequence, submit.since)
        if isinstance(verdict, Known):
            return Acknowledged(*head, 1, verdict.start, verdict.end)
        if isinstance(verdict, Expected):
            return Declined(*head, "expected", "", 1, verdict.sequence)
        if isinstance(verdict, Evicted | Superseded):
            return Declined(*head, "rejected", "")
        assert isinstance(verdict, New)
        if self.draw.random() < 0.2:
            return Declined(*head, "overloaded", "")
        start = len(self.stored)
        self.stored.append(submit.payload)
        self.table.apply(
            Entry.make(1, start, start + 1, submit.producer, submit.producer_epoch, submit.sequence, submit.payload)
        )
        return None if self.draw.random() < 0.1 else Acknowledged(*head, 1, start, start + 1)


@pytest.mark.parametrize("seed", range(150))
def test_against_a_shard_that_fails_in_every_way_nobody_is_told_a_lie(seed: int) -> None:
    draw = random.Random(seed)
    shard, one = Shard(draw), Producer(SHARD, "p")
    told: dict[str, Any] = {}
    wire: list[Submit] = []
    now, made = 0.0, 0

    def do(step: Step) -> None:
        wire.extend(step.send)
        for caller, result in step.results:
            assert caller not in told, "a caller is told once"
            told[caller] = result

    for _ in range(600):
        now += 0.05
        chance = draw.random()
        if chance < 0.25 and made < 60:
            do(one.submit(batch(str(made), deadline=now + draw.choice([0.3, 3.0, 100.0])), now))
            made += 1
        elif chance < 0.70 and wire:
            answer = shard.answer(wire.pop(0))  # a stream keeps its order
            if isinstance(answer, Acknowledged):
                do(one.acknowledged(answer, now))
            elif isinstance(answer, Declined):
                do(one.declined(answer, now))
        elif chance < 0.75:
            wire.clear() if draw.random() < 0.5 else [shard.answer(lost) for lost in wire]
            wire.clear()
            do(one.disconnected())
        elif chance < 0.85 and one.leader_epoch is None:
            do(one.connected(1, len(shard.stored), now))
        else:
            do(one.tick(now))
    wire.clear()
    do(one.disconnected())
    do(one.connected(2, len(shard.stored), now))
    for _ in range(2000):
        now += 0.3
        while wire:
            answer = shard.answer(wire.pop(0))
            if isinstance(answer, Acknowledged):
                do(one.acknowledged(answer, now))
            elif isinstance(answer, Declined):
                do(one.declined(answer, now))
            elif answer is None:
                do(one.disconnected())
                do(one.connected(2, len(shard.stored), now))
        if not len(one):
            break
        do(one.tick(now))
    assert len(told) == made
    for caller, result in told.items():
        copies = shard.stored.count(caller.encode())
        if isinstance(result, Acknowledged):
            assert copies == 1
            assert shard.stored[result.start] == caller.encode()
        elif isinstance(result, OutcomeUnknown):
            assert copies <= 1
        else:
            assert copies == 0, f"{caller} was told {result!r}"


def test_the_window_is_of_sequences_so_that_the_oldest_that_waits_is_still_remembered() -> None:
    """One that waits to be stored, while others are acknowledged at once, must not fall out of the leader's memory."""
    one = connected("stored")
    for sequence in range(1, 2 * WINDOW):
        for number, _ in sent(one.submit(batch(str(sequence)), 0.0)):
            one.acknowledged(acknowledged(number), 0.0)
    assert one.disconnected().routes
    again = [number for number, _ in sent(one.connected(2, 0, 0.0))]
    assert again[0] == 0
    assert again[-1] < WINDOW


def test_whoever_waits_behind_one_with_a_later_deadline_is_told_in_time() -> None:
    one = Producer(SHARD, "p")
    one.submit(batch("patient", deadline=100.0), 0.0)
    one.submit(batch("hasty", deadline=1.0), 0.0)
    assert errors(one.tick(1.0)) == {"hasty": Unavailable}
    assert one.wake() == 100.0, "and nobody is woken for nothing"


def test_where_a_shard_is_no_more_only_what_is_surely_not_stored_there_goes_elsewhere() -> None:
    one = connected("doubtful", "refused", "told", deadline=30.0)
    one._pending[2].deadline = 1.0
    one.declined(declined(1, "fenced"), 0.5)
    assert one.leader_epoch is None
    assert errors(one.tick(1.0)) == {"told": OutcomeUnknown}
    one.submit(batch("waits"), 1.0)
    step, elsewhere = one.retired()
    assert errors(step) == {"doubtful": OutcomeUnknown}
    assert [found.caller for found in elsewhere] == ["refused", "waits"]
    assert len(one) == 0


def test_should_the_shard_come_back_its_sequences_are_not_taken_for_earlier_ones() -> None:
    one = connected("before")
    one.retired()
    one.submit(batch("after"), 1.0)
    (again,) = one.connected(9, 40, 2.0).send
    assert (again.producer_epoch, again.sequence, again.since) == (1, 0, 40)
