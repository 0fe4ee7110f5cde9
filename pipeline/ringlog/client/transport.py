"""How a client reaches a pipeline. One for Ray, one in memory for tests of code that logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ringlog.errors import Unavailable
from ringlog.replication import NO_PRODUCERS, Append, Leader, Member, Replica, ReplicaState, Submit
from ringlog.routing import Leading, Routes
from ringlog.schema import unpack, with_position
from ringlog.settings import Settings
from ringlog.wire import TailReply, answer_to, decode, encode, follow, open_stream, read_tail

OnFrame = Callable[[memoryview], None]


class Connection(Protocol):
    """The calling end of a producer's stream."""

    def send(self, frame: bytes) -> None:
        """Put a frame on its way; never waits."""

    def close(self) -> None:
        """End the stream; never waits."""

    def join(self) -> None:
        """Wait until it has ended."""


class Transport(Protocol):
    """What `Pipeline` needs of the other side."""

    settings: Settings

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        """The newest routes, as soon as they are newer than version ``known``, or after ``wait_s``.

        ``key_bytes`` says what was sent for each key since the last call. Raises `Unavailable`, and
        `PipelineEnded` where another pipeline runs in its place.
        """

    def shards(self) -> tuple[str, ...]:
        """The shards that are not retired, from who decides it: slower than `routes`. Raises `Unavailable`."""

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        """A stream to a leader. Raises `Unavailable`."""

    def tail(self, leading: Leading) -> TailReply:
        """The unflushed part of a shard, confirmed. Raises `Fenced` or `Unavailable`."""

    def follow(self, leading: Leading, start: int | None) -> tuple[TailReply, Callable[[], None]]:
        """What a shard commits from ``start`` on, and how to stop it."""

    def fields(self) -> Mapping[str, Any]:
        """What is known of the calling process: Ray's ids and names, as columns of a record."""

    def flush(self, timeout_s: float) -> None:
        """Archive all that is committed. Raises `Unavailable`."""

    def status(self) -> dict[str, Any]:
        """What `ringlog status` shows."""

    def stop(self) -> None:
        """End the pipeline."""


class FlightTransport:
    """The data plane of a pipeline whose control plane is given: what `Transport` has in common over Arrow Flight."""

    def __init__(self, settings: Settings, token: str) -> None:
        self.settings = settings
        self._token = token

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:
        """See `Transport`."""
        return open_stream(leading.location, self._token, on_frame, on_closed)

    def tail(self, leading: Leading) -> TailReply:
        """See `Transport`."""
        return read_tail(leading.location, self._token, leading.shard)

    def follow(self, leading: Leading, start: int | None) -> tuple[TailReply, Callable[[], None]]:
        """See `Transport`."""
        return follow(leading.location, self._token, leading.shard, start)


class MemoryTransport:
    """A pipeline in this process's memory, for tests of your own code: no Ray, no disk, the same client and protocol.

    >>> import ringlog
    >>> with ringlog.Pipeline(ringlog.MemoryTransport()) as pipeline:
    ...     ack = pipeline.submit_logs({"body": "epoch 3 done", "service": "train"})
    ...     pipeline.sql("SELECT service, body FROM logs").fetchall()
    [('train', 'epoch 3 done')]
    """

    _SHARD = "shard-0"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(shards=1, replicas=1)
        self._replica = Replica(ReplicaState(self._SHARD, "memory", promised=1, log_epoch=1))
        self._leader = Leader(
            self._SHARD,
            1,
            [Member("memory", "memory")],
            1,
            "memory",
            0,
            (),
            NO_PRODUCERS,
            self.settings.shard_buffer_bytes_max,
        )

    def routes(
        self,
        key_bytes: Mapping[int, int],  # noqa: ARG002  (one shard: nothing to balance)
        known: int = -1,  # noqa: ARG002
        wait_s: float = 0.0,  # noqa: ARG002
    ) -> Routes:
        """One shard, always led."""
        return Routes(1, (self._SHARD,), {self._SHARD: Leading(self._SHARD, "memory", "memory", 1)})

    def shards(self) -> tuple[str, ...]:
        """One."""
        return (self._SHARD,)

    def connect(self, leading: Leading, on_frame: OnFrame, on_closed: Callable[[], None]) -> Connection:  # noqa: ARG002
        """A stream that answers at once."""
        return _MemoryConnection(lambda submit: self._append(submit, on_frame))

    def tail(self, leading: Leading) -> TailReply:
        """Everything: nothing is ever archived."""
        batches = (
            with_position(unpack(entry.payload), leading.shard, entry.start) for entry in self._leader.committed_from(0)
        )
        return TailReply(leading.shard, 1, 0, self._leader.committed, batches)

    def follow(self, leading: Leading, start: int | None) -> tuple[TailReply, Callable[[], None]]:  # noqa: ARG002
        """Not offered in memory: read with ``sql`` or ``search``."""
        raise Unavailable(f"{leading.shard} is in memory: it cannot be followed; read it with sql() or search()")

    def fields(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def flush(self, timeout_s: float) -> None:
        """Nothing is archived."""

    def status(self) -> dict[str, Any]:
        """How much is held."""
        return {"shards": {self._SHARD: {"committed": self._leader.committed, "epoch": 1}}}

    def stop(self) -> None:
        """Nothing to end."""

    def _append(self, submit: Submit, on_frame: OnFrame) -> None:
        def answer(result: Any) -> None:
            on_frame(memoryview(encode(answer_to(submit, result))))

        if submit.acks == "stored":  # nothing is archived here
            submit = replace(submit, acks="quorum")
        output = self._leader.append(answer, submit, 0.0)
        appends: Iterator[Append] = iter(output.send)
        replies = list(output.reply)
        for append in appends:
            for reply in self._replica.handle(append).send:
                replies.extend(self._leader.handle(reply, 0.0).reply)
        for caller, result in replies:
            caller(result)


class _MemoryConnection:
    def __init__(self, append: Callable[[Submit], None]) -> None:
        self._append = append

    def send(self, frame: bytes) -> None:
        self._append(decode(frame))

    def close(self) -> None:
        """Nothing to end."""

    def join(self) -> None:
        """Nothing to wait for."""
