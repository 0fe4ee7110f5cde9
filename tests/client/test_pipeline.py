from __future__ import annotations

from collections.abc import Callable

import pytest

import ringlog
from ringlog.client.transport import Connection, MemoryTransport, OnFrame
from ringlog.routing import Leading


class Away(MemoryTransport):
    """Its leader is not reached; it notes that the pipeline was ended."""

    ended = False

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        raise ringlog.Unavailable("not now")

    def stop(self) -> None:
        self.ended = True


def test_stopping_ends_the_pipeline_also_where_something_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringlog.Pipeline.close, "__defaults__", (0.1,))  # the time that it gives what waits
    transport = Away()
    pipeline = ringlog.Pipeline(transport)
    waiting = pipeline.submit_logs({"body": "x"}, wait=False, timeout_s=1000)
    with pytest.raises(ringlog.Unavailable, match="not retried any more.*`OutcomeUnknown`, or as not stored"):
        pipeline.stop()
    assert transport.ended
    assert isinstance(waiting.exception(20), ringlog.Unavailable)


def test_a_pipeline_that_is_closed_can_be_stopped() -> None:
    transport = Away()
    pipeline = ringlog.Pipeline(transport)
    pipeline.close()
    pipeline.stop()
    assert transport.ended
