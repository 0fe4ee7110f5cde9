"""Both ends of the data plane, over Arrow Flight.

Frames travel in two-way streams (DoExchange): ``producer`` streams carry `Submit` one way and its answers the other,
``replica`` streams carry the replication messages. Readers take batches of the table's schema from DoGet, and the
controller hears heartbeats from DoAction. Every call carries the pipeline's token. A stream says nothing about
outcomes: whoever loses one asks again.
"""

from __future__ import annotations

import hmac
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson
import pyarrow as pa
import pyarrow.flight as fl

from ringlog.errors import Fenced, RinglogError, Unavailable
from ringlog.schema import TABLE_SCHEMA

_logger = logging.getLogger(__name__)

Kind = Literal["producer", "replica"]
Send = Callable[[bytes], None]

TAIL_DEADLINE_S = 10.0
"""How long a read of one shard's tail may take before its answer begins."""
OPEN_DEADLINE_S = 5.0
CLOSE_DEADLINE_S = 1.0
LINK_FRAMES_MAX = 16
"""How many frames may wait for a peer that does not take them; more are dropped, and sent again when it is back."""
_RECONNECT_S = 0.2
_TAIL = b"ringlog.tail"
_BEAT = "beat"


class Handler(Protocol):
    """What a server is told; called from its threads."""

    def frame(self, kind: Kind, frame: memoryview, send: Send) -> None:
        """A frame arrived; answers go to ``send``, now or later, from any thread."""

    def tail(self, shard: str, deadline_s: float) -> TailReply:
        """The unflushed part of ``shard``. Raises `Fenced` or `Unavailable`."""

    def follow(self, shard: str, start: int | None, gone: Callable[[], bool]) -> TailReply:
        """What is committed from ``start`` (None: from now) on, without an end, until ``gone()``."""

    def beat(self, locations: Mapping[str, str], changes: int | None, wait_s: float) -> dict[str, Any]:
        """The status, as soon as its ``changes`` is another number, or after ``wait_s``. Raises `Unavailable`."""


@dataclass(frozen=True)
class TailReply:
    """Records of one shard in offset order, in `TABLE_SCHEMA`; ``[base, committed)`` held when it was asked for."""

    shard: str
    epoch: int
    base: int
    committed: int
    batches: Iterator[pa.RecordBatch]


class Server(fl.FlightServerBase):  # type: ignore[misc]
    """The Flight server of one shard actor, on a free port of ``host``."""

    def __init__(self, host: str, token: str, handler: Handler) -> None:
        super().__init__(f"grpc://{host}:0", middleware={"token": _TokenCheck(token)})
        self._handler = handler
        self.location = f"grpc://{host}:{self.port}"

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002
        """Hand each frame to the handler; a thread of the stream's own writes the answers."""
        kind = descriptor.command.decode()
        outgoing = _Outgoing(lambda: (writer.write_metadata, lambda: None))
        try:
            for piece in reader:
                self._handler.frame(kind, memoryview(piece.app_metadata), outgoing.put)
        except fl.FlightError:
            return  # the other side is gone; it asks again on another stream
        finally:
            outgoing.close()
            outgoing.join()

    def do_get(self, context: Any, ticket: Any) -> Any:
        """A tail, or the records that follow one."""
        asked = orjson.loads(ticket.ticket)
        try:
            if asked["follow"]:
                reply = self._handler.follow(asked["shard"], asked["start"], context.is_cancelled)
            else:
                reply = self._handler.tail(asked["shard"], TAIL_DEADLINE_S)
        except Fenced as error:
            raise fl.FlightUnavailableError(str(error), orjson.dumps({"epoch": error.epoch})) from error
        except RinglogError as error:
            raise fl.FlightUnavailableError(str(error)) from error
        described = orjson.dumps({"epoch": reply.epoch, "base": reply.base, "committed": reply.committed})
        return fl.GeneratorStream(TABLE_SCHEMA.with_metadata({_TAIL: described}), reply.batches)

    def do_action(self, context: Any, action: Any) -> list[bytes]:  # noqa: ARG002
        """A heartbeat."""
        if action.type != _BEAT:
            raise fl.FlightServerError(f"there is no action {action.type} here")
        try:
            return [orjson.dumps(self._handler.beat(**orjson.loads(action.body.to_pybytes())))]
        except RinglogError as error:
            raise fl.FlightUnavailableError(str(error)) from error


class _TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> None:  # noqa: ARG002
        given = next(iter(headers.get("authorization", [])), "")
        if not hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._expected):
            raise fl.FlightUnauthenticatedError("this pipeline wants its own token: connect through ringlog.connect()")


class _Outgoing:
    """Frames on their way out, written by one thread, so that nobody who sends ever waits for the network.

    ``begin`` is called in that thread first; it gives how to write a frame, and how to end.
    """

    def __init__(self, begin: Callable[[], tuple[Callable[[Any], None], Callable[[], None]]]) -> None:
        self._begin = begin
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="ringlog-stream-out", daemon=True)
        self._thread.start()

    def put(self, frame: bytes) -> None:
        if not self._broken:
            self._frames.put(frame)

    def close(self) -> None:
        """No more frames; those that wait are still written."""
        self._frames.put(None)

    def join(self) -> None:
        self._thread.join(CLOSE_DEADLINE_S)

    def waiting(self) -> int:
        return self._frames.qsize()

    def _run(self) -> None:
        try:
            write, end = self._begin()
            while (frame := self._frames.get()) is not None:
                write(frame)
            end()
        except (pa.ArrowException, OSError):  # whoever waits for an answer hears from the reading side
            self._broken = True


def _options(token: str, timeout_s: float | None = None) -> Any:
    return fl.FlightCallOptions(timeout=timeout_s, headers=[(b"authorization", f"Bearer {token}".encode())])


class Stream:
    """The calling end of a two-way stream.

    ``on_frame`` gets every answer, ``on_closed`` is told once when the stream has ended or could not be opened, both
    from threads of the stream's own. Opening may take as long as the other side is stopped, so it is done there too.
    """

    def __init__(
        self,
        location: str,
        token: str,
        kind: Kind,
        on_frame: Callable[[memoryview], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._location = location
        self._token = token
        self._kind = kind
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._client: Any = None
        self._reader: Any = None
        self._reading: threading.Thread | None = None
        self._tried = threading.Event()
        self._error: Exception | None = None
        self._outgoing = _Outgoing(self._open)

    def await_opened(self, timeout_s: float) -> None:
        """Wait until the other side has taken the stream. Raises `Unavailable`."""
        if not self._tried.wait(timeout_s):
            self.close()
            raise Unavailable(f"the shard actor at {self._location} does not answer in {timeout_s:g} s")
        if self._error is not None:
            raise Unavailable(f"the shard actor at {self._location} does not answer: {self._error}") from self._error

    def send(self, frame: bytes) -> None:
        """Put ``frame`` on its way; never waits."""
        self._outgoing.put(frame)

    def waiting(self) -> int:
        """How many frames the other side has not taken yet."""
        return self._outgoing.waiting()

    def close(self) -> None:
        """End the stream once what waits is written; never waits itself."""
        self._outgoing.close()
        threading.Thread(target=self.join, name="ringlog-stream-end", daemon=True).start()

    def join(self) -> None:
        """Wait until the stream has ended; a side that does not answer is not waited for long."""
        self._outgoing.join()
        if self._reading is None:
            return  # it is not open; if it opens yet, it ends at once
        self._reading.join(CLOSE_DEADLINE_S)
        if self._reading.is_alive():
            self._reader.cancel()

    def _open(self) -> tuple[Callable[[Any], None], Callable[[], None]]:
        try:
            self._client = fl.connect(self._location)
            descriptor = fl.FlightDescriptor.for_command(self._kind.encode())
            writer, self._reader = self._client.do_exchange(descriptor, _options(self._token))
        except (pa.ArrowException, OSError) as error:
            self._error = error
            self._tried.set()
            self._on_closed()
            raise
        reading = threading.Thread(target=self._read, name="ringlog-stream-in", daemon=True)
        reading.start()
        self._reading = reading
        self._tried.set()
        return writer.write_metadata, writer.done_writing

    def _read(self) -> None:
        try:
            while True:
                self._on_frame(memoryview(self._reader.read_chunk().app_metadata))
        except (StopIteration, pa.ArrowException, OSError):
            pass
        except Exception:  # whoever holds this stream must hear that nobody reads it any more
            _logger.exception("an answer of %s does not read: the stream is given up", self._location)
            self._reader.cancel()
        self._outgoing.close()
        self._on_closed()


def open_stream(
    location: str, token: str, on_frame: Callable[[memoryview], None], on_closed: Callable[[], None]
) -> Stream:
    """A producer's stream to the shard actor at ``location``, once it is open. Raises `Unavailable`."""
    stream = Stream(location, token, "producer", on_frame, on_closed)
    stream.await_opened(OPEN_DEADLINE_S)
    return stream


class Link:
    """Frames to one sibling, over a stream that is opened again whenever it broke. Frames may be lost, never wrong."""

    def __init__(self, location: str, token: str, on_frame: Callable[[memoryview], None]) -> None:
        self.location = location
        self._token = token
        self._on_frame = on_frame
        self._stream: Stream | None = None
        self._ended = threading.Event()  # of the newest stream
        self._retry_at = 0.0

    def send(self, frame: bytes) -> None:
        """Put ``frame`` on its way, or drop it where the sibling is away; never waits for the network."""
        stream = self._stream  # another thread may take it away meanwhile
        if stream is None:
            if time.monotonic() < self._retry_at:
                return
            stream = self._open()
        if stream.waiting() < LINK_FRAMES_MAX:
            stream.send(frame)

    def close(self) -> None:
        """End the stream that is open."""
        stream = self._stream
        if stream is not None:
            stream.close()

    def _open(self) -> Stream:
        ended = self._ended = threading.Event()
        stream = Stream(self.location, self._token, "replica", self._on_frame, lambda: self._closed(ended))
        self._stream = stream
        if ended.is_set():  # it could not be opened, and that was told before there was a stream to take away
            self._stream = None
        return stream

    def _closed(self, ended: threading.Event) -> None:
        ended.set()
        self._retry_at = time.monotonic() + _RECONNECT_S
        if self._ended is ended:  # not one that was opened since
            self._stream = None


class Pulse:
    """Hears the heartbeats of the shard actor at ``location``. The end of its process is heard at once."""

    def __init__(self, location: str, token: str) -> None:
        self._location = location
        self._token = token
        self._client: Any = None

    def beat(
        self, locations: Mapping[str, str], changes: int | None, wait_s: float, silence_s: float
    ) -> dict[str, Any]:
        """The next one: see `Handler.beat`. Raises `Unavailable` when it is ``silence_s`` late, or will not come."""
        body = orjson.dumps({"locations": dict(locations), "changes": changes, "wait_s": wait_s})
        try:
            self._client = self._client or fl.connect(self._location)
            (answer,) = self._client.do_action(fl.Action(_BEAT, body), _options(self._token, wait_s + silence_s))
        except (pa.ArrowException, OSError) as error:
            raise Unavailable(f"the shard actor at {self._location} is silent: {error}") from error
        status: dict[str, Any] = orjson.loads(answer.body.to_pybytes())
        return status

    def close(self) -> None:
        """Hear no more."""
        if self._client is not None:
            self._client.close()


def read_tail(location: str, token: str, shard: str) -> TailReply:
    """The unflushed part of ``shard`` from its leader, confirmed by a quorum. Raises `Fenced` or `Unavailable`."""
    return _get(location, token, {"shard": shard, "follow": False, "start": None}, TAIL_DEADLINE_S)


def follow(location: str, token: str, shard: str, start: int | None) -> tuple[TailReply, Callable[[], None]]:
    """What ``shard`` commits from ``start`` (None: from now) on, as it does, and how to stop it.

    An empty batch now and then only shows that the leader lives.
    """
    reader: list[Any] = []
    reply = _get(location, token, {"shard": shard, "follow": True, "start": start}, None, reader)
    return reply, reader[0].cancel


def _get(
    location: str, token: str, ticket: dict[str, Any], timeout_s: float | None, readers: list[Any] | None = None
) -> TailReply:
    try:
        client = fl.connect(location)
        reader = client.do_get(fl.Ticket(orjson.dumps(ticket)), _options(token, timeout_s))
        described = orjson.loads(reader.schema.metadata[_TAIL])
    except (pa.ArrowException, OSError) as error:
        raise _explained(error, ticket["shard"]) from error
    if readers is not None:
        readers.append(reader)
    return TailReply(ticket["shard"], **described, batches=_batches(client, reader, ticket["shard"]))


def _batches(client: Any, reader: Any, shard: str) -> Iterator[pa.RecordBatch]:
    try:
        for piece in reader:
            yield piece.data.replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise _explained(error, shard) from error
    finally:
        client.close()


def _explained(error: Exception, shard: str) -> RinglogError:
    info = getattr(error, "extra_info", b"")
    if info:
        return Fenced(f"{shard} has another leader", orjson.loads(info)["epoch"])
    return Unavailable(f"{shard} cannot be read now: {str(error).splitlines()[0]}")
