"""A process that is stopped keeps its connections, and a new stream to it does not open: nobody may wait for that."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ringlog.errors import CorruptionError, Unavailable
from ringlog.wire import Link, open_stream

SERVER = """
from ringlog.wire import Server
class Echo:
    def frame(self, kind, frame, send):
        send(bytes(frame))
server = Server("127.0.0.1", "token", Echo())
print(server.location, flush=True)
server.serve()
"""
WITHIN_S = 10.0


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Where a server in a process of its own listens, and its pid."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.kill()


def test_a_link_to_a_process_that_is_stopped_takes_frames_at_once(echo: tuple[str, int]) -> None:
    location, pid = echo
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    first = Link(location, "token", lambda frame: answers.put(bytes(frame)))
    first.send(b"one")
    assert answers.get(timeout=WITHIN_S) == b"one", "there is a connection"
    os.kill(pid, signal.SIGSTOP)
    second = Link(location, "token", lambda frame: answers.put(bytes(frame)))
    began = time.monotonic()
    second.send(b"two")
    second.send(b"three")
    assert time.monotonic() - began < 1
    os.kill(pid, signal.SIGCONT)
    assert [answers.get(timeout=WITHIN_S) for _ in range(2)] == [b"two", b"three"]
    first.close()
    second.close()


def test_a_producers_stream_to_a_process_that_is_stopped_does_not_open(
    echo: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    location, pid = echo
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    first = open_stream(location, "token", lambda frame: answers.put(bytes(frame)), lambda: None)
    first.send(b"one")
    assert answers.get(timeout=WITHIN_S) == b"one"
    monkeypatch.setattr("ringlog.wire.flight.OPEN_DEADLINE_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        open_stream(location, "token", lambda frame: answers.put(bytes(frame)), lambda: None)
    os.kill(pid, signal.SIGCONT)
    first.send(b"two")
    assert answers.get(timeout=WITHIN_S) == b"two"
    first.close()


def test_an_answer_that_does_not_read_ends_the_stream_and_whoever_holds_it_is_told(
    echo: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    def read(frame: memoryview) -> None:
        raise CorruptionError(f"{len(frame)} bytes that mean nothing")

    closed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    stream = open_stream(echo[0], "token", read, lambda: closed.put(True))
    stream.send(b"one")
    assert closed.get(timeout=WITHIN_S)
    assert "3 bytes that mean nothing" in caplog.text
    stream.join()
