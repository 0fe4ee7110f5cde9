from __future__ import annotations

from typing import Any, ClassVar

import pytest

from ringlog.wire import flight


class FakeStream:
    """Stands for a stream, so that its end can be told at any moment."""

    made: ClassVar[list[FakeStream]] = []

    def __init__(self, location: str, token: str, kind: str, on_frame: Any, on_closed: Any) -> None:
        self.end = on_closed
        self.frames: list[bytes] = []
        FakeStream.made.append(self)

    def waiting(self) -> int:
        return 0

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)


def test_the_late_end_of_an_old_stream_leaves_the_new_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "Stream", FakeStream)
    monkeypatch.setattr(flight, "_RECONNECT_S", 0.0)
    FakeStream.made.clear()
    link = flight.Link("somewhere", "token", lambda _: None)
    link.send(b"one")
    first = FakeStream.made[0]
    first.end()
    link.send(b"two")
    first.end()
    link.send(b"three")
    assert [stream.frames for stream in FakeStream.made] == [[b"one"], [b"two", b"three"]]
