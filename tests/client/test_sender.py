from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

import ringlog
from ringlog.client.producer import WINDOW
from ringlog.client.transport import Connection, MemoryTransport, OnFrame
from ringlog.routing import Leading, Routes
from ringlog.settings import Settings
from ringlog.wire import Declined, decode, encode
from ringlog.wire.frames import Reason


class Silent:
    """A stream to a process that was stopped: it takes everything and answers nothing."""

    def send(self, frame: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    def join(self) -> None:
        pass


class Stopped(MemoryTransport):
    """The first leader has been stopped; whoever asks for the routes again hears of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        self.asked += 1
        epoch = min(self.asked, 2)
        return Routes(epoch, ("shard-0",), {"shard-0": Leading("shard-0", "memory", "memory", epoch)})

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        return Silent() if leading.epoch == 1 else super().connect(leading, on_frame, on_closed)


def test_a_lone_submit_to_a_leader_that_was_stopped_finds_the_next_one() -> None:
    with ringlog.Pipeline(Stopped()) as pipeline:
        began = time.monotonic()
        assert pipeline.submit_logs({"body": "x"}, timeout_s=10).records == 1
        assert time.monotonic() - began < 5


def await_sent(pipeline: ringlog.Pipeline) -> None:
    """Until a leader owes an answer, however long a busy machine takes for that."""
    deadline = time.monotonic() + 20
    while not pipeline._sender._owing_since:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_leader_that_answers_is_not_asked_about() -> None:
    transport = Stopped()
    transport.asked = 1
    with ringlog.Pipeline(transport) as pipeline:
        pipeline.submit_logs({"body": "x"})
        assert pipeline._sender._suspects_at() is None


class Mute(MemoryTransport):
    """A leader that answers nothing."""

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        return Silent()


class Leaderless(MemoryTransport):
    """No shard has a leader until it has been asked for often enough."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.asked = after, 0

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        self.asked += 1
        found = super().routes(key_bytes, known, wait_s)
        return found if self.asked > self.after else Routes(0, found.shards, {})


def test_however_many_wait_for_a_leader_they_ask_for_the_routes_together() -> None:
    transport = Leaderless(after=4)
    with ringlog.Pipeline(transport) as pipeline:
        futures = [pipeline.submit_logs({"body": "x"}, wait=False) for _ in range(50)]
        assert sum(future.result(10).records for future in futures) == 50
    assert transport.asked == 5


class Recovering(MemoryTransport):
    """Of two shards one has no leader at first."""

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        leaders = {shard: Leading(shard, "memory", "memory", 1) for shard in ("shard-0", "shard-1")}
        if known < 0:
            del leaders["shard-1"]
        return Routes(known + 2, ("shard-0", "shard-1"), leaders)


def test_a_shard_that_has_a_leader_again_is_sent_to_soon_also_where_nothing_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ringlog.client.sender.REFRESH_S", 1000.0)
    with ringlog.Pipeline(Recovering()) as pipeline:
        assert pipeline._sender.routes.missing == ("shard-1",)
        deadline = time.monotonic() + 20
        while pipeline._sender.routes.missing:
            assert time.monotonic() < deadline
            pipeline.submit_logs({"body": "x"})


def test_whoever_does_not_wait_is_told_within_the_time_that_it_gave() -> None:
    with ringlog.Pipeline(Leaderless(after=1_000_000)) as pipeline:
        future = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=0.2)
        with pytest.raises(ringlog.Unavailable):
            future.result(pipeline._settings.submit_timeout_s / 2)


def test_a_lingering_batch_keeps_the_time_that_was_given_for_it() -> None:
    """The leader takes it and says nothing: what was given counts, not what the settings say."""
    transport = Mute()
    with ringlog.Pipeline(transport) as pipeline:
        future = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=3)
        await_sent(pipeline)
        with pytest.raises(ringlog.OutcomeUnknown):
            future.result(pipeline._settings.submit_timeout_s / 2)


class Replaced(MemoryTransport):
    """Its leader is stopped; the next one dies before it is reached; then nobody leads; then a third does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        self.asked += 1
        epoch = min(self.asked, 4)
        leaders = {} if epoch == 3 else {"shard-0": Leading("shard-0", "memory", "memory", epoch)}
        return Routes(epoch, ("shard-0",), leaders)

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        if leading.epoch == 2:
            raise ringlog.Unavailable("it is gone")
        return Silent() if leading.epoch == 1 else super().connect(leading, on_frame, on_closed)


def test_a_leader_that_dies_before_it_is_reached_strands_nobody() -> None:
    with ringlog.Pipeline(Replaced()) as pipeline:
        assert pipeline.submit_logs({"body": "x"}, timeout_s=20).records == 1


class RouterBegunAgain(Replaced):
    """The first leader dies with its router; the next one's versions are lower, as if clocks had been set back."""

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        routes = super().routes(key_bytes, known, wait_s)
        return replace(routes, version=1000 - routes.version, router=f"router of {routes.version}")


def test_what_a_router_says_that_has_begun_again_counts_whatever_its_version() -> None:
    with ringlog.Pipeline(RouterBegunAgain()) as pipeline:
        assert pipeline.submit_logs({"body": "x"}, timeout_s=10).records == 1


class TableAway(MemoryTransport):
    """The journals take everything; who waits for the table gets no answer until it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[], None]] = []

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        connection = super().connect(leading, on_frame, on_closed)

        class Holding:
            def send(_, frame: bytes) -> None:
                submit = decode(frame)
                if submit.acks == "stored":
                    self.held.append(lambda: connection.send(frame))
                else:
                    connection.send(frame)

            def close(_) -> None:
                connection.close()

            def join(_) -> None:
                connection.join()

        return Holding()


def test_who_waits_for_the_table_holds_up_nobody_who_does_not() -> None:
    transport = TableAway()
    with ringlog.Pipeline(transport) as pipeline:
        stored = pipeline.submit_logs({"body": "stored"}, wait=False, acks="stored")
        for number in range(2 * WINDOW):
            assert pipeline.submit_logs({"body": str(number)}, timeout_s=10).records == 1
        assert not stored.done()
        for release in transport.held:
            release()
        assert stored.result(10).records == 1
        bodies = pipeline.sql("SELECT body FROM logs").fetchall()
    assert sorted(body for (body,) in bodies) == sorted(["stored", *map(str, range(2 * WINDOW))])


class Retiring(MemoryTransport):
    """shard-1 takes everything and answers nothing; whoever asks for the routes again hears that it is retired."""

    def __init__(self) -> None:
        super().__init__()
        self.retired = False
        self.reached = 0

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        both = {shard: Leading(shard, "memory", "memory", 1) for shard in ("shard-0", "shard-1")}
        if self.retired:
            return Routes(2, ("shard-0",), {"shard-0": both["shard-0"]})
        return Routes(1, ("shard-1",), {"shard-1": both["shard-1"]})

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        if leading.shard == "shard-0":
            return super().connect(leading, on_frame, on_closed)
        self.reached += 1
        if self.reached > 1 or not self.retired:
            return Silent()
        raise ringlog.Unavailable("nobody is there")


def test_what_was_not_sent_to_a_shard_that_is_retired_goes_to_another() -> None:
    transport = Retiring()
    with ringlog.Pipeline(transport) as pipeline:
        transport.retired = True  # the routes that are known are old
        ack = pipeline.submit_logs({"body": "x", "service": "s"}, timeout_s=20)
        assert [part.shard for part in ack.parts] == ["shard-0"]
        assert pipeline.sql("SELECT body FROM logs").fetchall() == [("x",)]


def test_what_may_be_stored_in_a_shard_that_is_retired_is_told_so_and_not_stored_twice() -> None:
    transport = Retiring()
    with ringlog.Pipeline(transport) as pipeline:
        sent = pipeline.submit_logs({"body": "x", "service": "s"}, timeout_s=20, wait=False)
        await_sent(pipeline)
        transport.retired = True
        pipeline._sender.refresh()
        with pytest.raises(ringlog.OutcomeUnknown, match="shard-1 did not say in time"):
            sent.result(20)
        assert pipeline.sql("SELECT body FROM logs").fetchall() == []


class Grown(MemoryTransport):
    """The routes that were known at first lack the shard that everything is in now."""

    def __init__(self, router: bool) -> None:
        super().__init__()
        self.grown = False
        self.router = router

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        if not self.grown:
            return Routes(1, (), {})
        if not self.router:
            raise ringlog.Unavailable("the router is away")
        return super().routes(key_bytes, known, wait_s)


def test_a_read_shows_what_a_shard_acknowledged_that_was_added_since_the_routes_were_heard_of() -> None:
    transport = Grown(router=True)
    with ringlog.Pipeline(transport) as reader, ringlog.Pipeline(transport) as writer:
        transport.grown = True
        assert reader._sender.routes.shards == ()
        writer.submit_logs({"body": "x"})
        assert reader.sql("SELECT body FROM logs").fetchall() == [("x",)]


def test_where_the_router_is_away_it_is_said_what_a_read_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlog.client.pipeline.READ_DEADLINE_S", 0.2)
    transport = Grown(router=False)
    with ringlog.Pipeline(transport) as reader:
        transport.grown = True
        assert reader.sql("SELECT body FROM logs").missing == ("shard-0",)


class Closing(MemoryTransport):
    """Streams that the other end closes."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Callable[[], None]] = []

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        self.ends.append(on_closed)
        return super().connect(leading, on_frame, on_closed)


def test_a_stream_that_ended_while_nothing_was_on_its_way_is_opened_again_for_the_next_submit() -> None:
    transport = Closing()
    with ringlog.Pipeline(transport) as pipeline:
        pipeline.submit_logs({"body": "x"})
        transport.ends[0]()
        while pipeline._sender._connections or pipeline._sender._refreshing:
            time.sleep(0.01)
        assert pipeline.submit_logs({"body": "y"}, timeout_s=3).records == 1
        assert len(transport.ends) == 2


def test_what_a_user_hangs_on_a_future_may_call_back_and_close() -> None:
    """Its thread is its own: the client goes on meanwhile, and another submit there is answered."""
    pipeline = ringlog.Pipeline(MemoryTransport())
    told: list[int] = []
    closed = threading.Event()

    def call_back(_: object) -> None:
        told.append(pipeline.submit_logs({"body": "from there"}).records)
        pipeline.close()
        closed.set()

    pipeline.submit_logs({"body": "x"}, wait=False).add_done_callback(call_back)
    assert closed.wait(20)
    assert told == [1]


def test_a_client_that_fails_tells_everybody_and_takes_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = ringlog.Pipeline(Mute())
    waiting = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=1000)

    def fail() -> None:
        raise ValueError("nobody foresaw this")

    pipeline._sender._inbox.put(fail)
    with pytest.raises(ringlog.OutcomeUnknown, match="nobody foresaw this"):
        waiting.result(20)
    with pytest.raises(ringlog.Unavailable, match="connect again"):
        pipeline.submit_logs({"body": "y"})
    assert "nobody foresaw this" in caplog.text


def test_what_a_processor_gives_is_looked_at() -> None:
    with (
        ringlog.Pipeline(MemoryTransport(), [lambda batch: batch.drop_columns(["pid"])]) as pipeline,
        pytest.raises(ringlog.InvalidRecord, match="schema of the one that it got"),
    ):
        pipeline.submit_logs({"body": "x"}, wait=False)


def test_a_client_that_closes_leaves_no_question_to_the_router_behind() -> None:
    class Slow(Leaderless):
        """A router that is asked, and takes its time."""

        def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
            found = super().routes(key_bytes, known, wait_s)
            if self.asked > 1:
                asked.set()
                threading.Event().wait(0.3)
                answered.set()
            return found

    asked, answered = threading.Event(), threading.Event()
    pipeline = ringlog.Pipeline(Slow(after=1_000_000))
    pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=0.2)
    assert asked.wait(20)
    pipeline._sender.close()
    assert answered.is_set()


def test_a_closed_pipeline_takes_nothing_and_leaves_nobody_waiting() -> None:
    pipeline = ringlog.Pipeline(Mute())
    waiting = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=1000)
    assert not pipeline.is_over
    await_sent(pipeline)
    with pytest.raises(ringlog.Unavailable, match="not acknowledged"):
        pipeline.close(timeout_s=0.1)
    with pytest.raises(ringlog.OutcomeUnknown, match="before submitting them again"):
        waiting.result(20)
    assert pipeline.is_over
    pipeline.flush(timeout_s=20)
    for wait in (True, False):
        with pytest.raises(ringlog.Unavailable, match="was closed.*connect again"):
            pipeline.submit_logs({"body": "y"}, wait=wait)


def test_what_was_never_sent_when_a_pipeline_closes_is_not_stored() -> None:
    pipeline = ringlog.Pipeline(Leaderless(after=1_000_000))
    waiting = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=1000)
    with pytest.raises(ringlog.Unavailable, match="not acknowledged"):
        pipeline.close(timeout_s=0.1)
    with pytest.raises(ringlog.Unavailable, match="closed before these records were sent"):
        waiting.result(20)


def test_what_a_callback_raises_stops_no_other_future(caplog: pytest.LogCaptureFixture) -> None:
    def leave(_: object) -> None:
        raise SystemExit(1)

    transport = TableAway()
    with ringlog.Pipeline(transport) as pipeline:
        held = pipeline.submit_logs({"body": "x"}, wait=False, acks="stored")
        held.add_done_callback(leave)  # before it is done: then it is not called here
        await_sent(pipeline)
        for release in transport.held:
            release()
        assert pipeline.submit_logs({"body": "y"}, wait=False).result(20).records == 1
        pipeline.flush_client(20)
    assert "raised this" in caplog.text


def test_a_callback_that_flushes_and_closes_does_not_wait_for_the_futures_after_it() -> None:
    pipeline = ringlog.Pipeline(Mute())
    taken: queue.SimpleQueue[float] = queue.SimpleQueue()

    def close(_: object) -> None:
        began = time.monotonic()
        pipeline.close()
        taken.put(time.monotonic() - began)

    waiting = [pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=1000) for _ in range(3)]
    for future in waiting:
        future.add_done_callback(close)

    def fail() -> None:
        raise ValueError("nobody foresaw this")

    pipeline._sender._inbox.put(fail)
    assert all(isinstance(future.exception(20), ringlog.OutcomeUnknown) for future in waiting)
    assert max(taken.get(timeout=20) for _ in waiting) < 5


class HalfInvalid(MemoryTransport):
    """The second of two batches is refused before the first is acknowledged."""

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        return Declining(on_frame, "invalid", first=1)


class Declining(Silent):
    """It answers nothing to the batches before sequence ``first``, and declines the others."""

    def __init__(self, on_frame: OnFrame, reason: Reason, first: int = 0) -> None:
        self._on_frame, self._reason, self._first = on_frame, reason, first

    def send(self, frame: bytes) -> None:
        submit = decode(frame)
        if submit.sequence >= self._first:
            named = (submit.shard, submit.producer, submit.producer_epoch, submit.sequence)
            self._on_frame(memoryview(encode(Declined(*named, self._reason, f"this is {self._reason}"))))


def test_who_is_refused_in_part_while_the_rest_is_on_its_way_is_told_that_it_may_be_stored() -> None:
    settings = Settings(shards=1, replicas=1, batch_rows_max=2)
    pipeline = ringlog.Pipeline(HalfInvalid(settings))
    with pytest.raises(ringlog.OutcomeUnknown):
        pipeline.submit_logs([{"body": "x"}] * 4, timeout_s=20)
    pipeline.close()


def test_a_flush_waits_for_what_was_submitted_before_it_and_for_nothing_else() -> None:
    class Slow(MemoryTransport):
        """It answers while more is under way already."""

        def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
            def later(frame: memoryview) -> None:
                threading.Timer(0.05, on_frame, [frame]).start()

            return super().connect(leading, later, on_closed)

    over = threading.Event()
    with ringlog.Pipeline(Slow()) as pipeline:

        def never_rest() -> None:
            while not over.wait(0.01):
                pipeline.submit_logs({"body": "another's"}, wait=False)

        others = threading.Thread(target=never_rest)
        others.start()
        mine = pipeline.submit_logs({"body": "mine"}, wait=False)
        try:
            pipeline.flush_client(20)
        finally:
            over.set()
            others.join()
        assert mine.done()


class HalfAway(MemoryTransport):
    """Two shards: one acknowledges, the other refuses."""

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        shards = ("shard-0", "shard-1")
        return Routes(1, shards, {shard: Leading(shard, "memory", "memory", 1) for shard in shards})

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        if leading.shard == "shard-0":
            return super().connect(leading, on_frame, on_closed)
        return Declining(on_frame, "overloaded")


def test_each_caller_has_an_error_of_its_own_that_names_its_own_parts() -> None:
    everywhere = [{"body": "x", "service": f"s{number}"} for number in range(64)]
    pipeline = ringlog.Pipeline(HalfAway())
    sent = [pipeline.submit_logs(everywhere, wait=False, timeout_s=3) for _ in range(5)]
    errors = [future.exception(20) for future in sent]
    assert {type(error) for error in errors} == {ringlog.OutcomeUnknown}, "some records of each are stored"
    assert all("this is overloaded" in str(error) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    named = [re.findall(r"shard-0 \[(\d+), (\d+)\)", str(error)) for error in errors]
    assert all(len(parts) == 1 for parts in named), named
    assert len({parts[0] for parts in named}) == len(errors)
    pipeline.close()
