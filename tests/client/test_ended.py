"""A pipeline that has ended, where another runs in its place: whoever stays connected learns it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

import ringlog
from ringlog import MemoryTransport
from ringlog.client.transport import Connection, OnFrame
from ringlog.routing import Leading, Routes

WITHIN_S = 20.0


class Replaced(MemoryTransport):
    """Its leader hangs up, and then the routes are another pipeline's. ``begun``: what is sent arrives at somebody."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun
        self.replaced = threading.Event()

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        if self.replaced.is_set():
            raise ringlog.PipelineEnded("another runs here now")
        return super().routes(key_bytes, known, wait_s)

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        self.replaced.set()
        if not self.begun:
            raise ringlog.Unavailable("nobody listens")
        return Hangs(on_closed)


class Hangs:
    """Takes a frame, and is gone."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed

    def send(self, frame: bytes) -> None:
        threading.Thread(target=self._on_closed).start()

    def close(self) -> None:
        """It has ended."""

    def join(self) -> None:
        """It has ended."""


@pytest.mark.parametrize(
    ("begun", "outcome", "told"),
    [
        (False, ringlog.Unavailable, "has ended .another runs here now. before these records were sent"),
        (True, ringlog.OutcomeUnknown, "."),
    ],
)
def test_who_has_something_on_its_way_is_told_long_before_its_time_is_over(
    begun: bool, outcome: type[Exception], told: str
) -> None:
    pipeline = ringlog.Pipeline(Replaced(begun))
    with pytest.raises(outcome, match=told) as found:
        pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=600.0).result(WITHIN_S)
    assert type(found.value) is outcome
    assert pipeline.is_over
    with pytest.raises(ringlog.Unavailable, match="has ended .another runs here now., and sends nothing any more"):
        pipeline.submit_logs({"body": "y"})
    pipeline.close()


def test_a_read_tells_it_rather_than_showing_what_the_other_has() -> None:
    transport = Replaced(begun=False)
    with ringlog.Pipeline(transport) as pipeline:
        transport.replaced.set()
        with pytest.raises(ringlog.PipelineEnded, match="another runs here now"):
            pipeline.sql("SELECT body FROM logs")
        assert pipeline.is_over
