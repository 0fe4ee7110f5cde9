"""Live records: what the shards commit, as they commit it, across take-overs and without holes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from ringlog.errors import Fenced, Unavailable
from ringlog.query.search import Filter

_RETRY_S = 0.2
_BATCHES_MAX = 256


@dataclass(frozen=True)
class Followed:
    """A stream of one shard's records from ``base`` on; ``stop`` ends it from any thread."""

    base: int
    batches: Iterator[pa.RecordBatch]
    stop: Callable[[], None]


class Source(Protocol):
    """Where live records come from."""

    def shards(self) -> tuple[str, ...]:
        """The shards there are."""

    def follow(self, shard: str, start: int | None) -> Followed:
        """From ``start`` (None: from now) on, or from the first offset after it that the leader still has.

        Raises `Fenced` or `Unavailable`.
        """

    def archived(self, shard: str, start: int, end: int) -> Iterator[pa.RecordBatch]:
        """The records ``[start, end)`` of the table, in order."""


def tail(source: Source, wanted: Filter) -> Iterator[pa.RecordBatch]:
    """Batches of the records that are committed from now on and that ``wanted`` lets through. Ends when it is closed.

    Records of one shard come in their order, each once; where a leader changes, or this reader falls behind, the tail
    goes on from the offset it has reached, out of the table where the leader has archived that part meanwhile.
    """
    wanted.least()  # a bad filter is told before anything runs
    batches: queue.Queue[pa.RecordBatch | Exception] = queue.Queue(_BATCHES_MAX)
    followers = [_Follower(source, shard, batches) for shard in source.shards()]
    ready = [follower.ready for follower in followers]
    for event in ready:
        event.wait(_RETRY_S * 25)
    return _merged(followers, batches, wanted)


def _merged(
    followers: list[_Follower], batches: queue.Queue[pa.RecordBatch | Exception], wanted: Filter
) -> Iterator[pa.RecordBatch]:
    try:
        while True:
            batch = batches.get()
            if isinstance(batch, Exception):
                raise batch
            found = wanted.apply(batch)
            if found.num_rows:
                yield found
    finally:
        for follower in followers:
            follower.stop()


class _Follower:
    """Follows one shard from a thread of its own; ``ready`` is set once the first stream has begun."""

    def __init__(self, source: Source, shard: str, batches: queue.Queue[pa.RecordBatch | Exception]) -> None:
        self.ready = threading.Event()
        self._source = source
        self._shard = shard
        self._batches = batches
        self._position: int | None = None
        self._stopped = threading.Event()
        self._followed: Followed | None = None
        self._thread = threading.Thread(target=self._run, name=f"ringlog-tail-{shard}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._followed is not None:
            self._followed.stop()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow_once()
            except (Fenced, Unavailable):
                self._stopped.wait(_RETRY_S)  # the leader changes, or is away: go on from the same offset
            except Exception as error:  # noqa: BLE001  (raised again where the records are read)
                self._put(error)
                return

    def _follow_once(self) -> None:
        self._followed = followed = self._source.follow(self._shard, self._position)
        if self._position is not None and followed.base > self._position:
            for batch in self._source.archived(self._shard, self._position, followed.base):
                self._put(batch)
        self._position = followed.base
        self.ready.set()
        for batch in followed.batches:
            if batch.num_rows:
                self._put(batch)
                self._position += batch.num_rows

    def _put(self, batch: pa.RecordBatch | Exception) -> None:
        while not self._stopped.is_set():
            try:
                self._batches.put(batch, timeout=_RETRY_S)
            except queue.Full:
                continue
            return
