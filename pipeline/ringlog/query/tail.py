"""Live records: what the shards commit, as they commit it, across take-overs and without holes."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from ringlog.errors import Fenced, PipelineEnded, Unavailable
from ringlog.query.search import Filter

_RETRY_S = 0.2
_BATCHES_MAX = 256
_LOOK_S = 2.0
"""How often it is asked whether there are other shards now."""
_EVERYTHING = 2**63 - 1


@dataclass(frozen=True)
class Followed:
    """A stream of one shard's records from ``base`` on; ``stop`` ends it from any thread."""

    base: int
    batches: Iterator[pa.RecordBatch]
    stop: Callable[[], None]


class Source(Protocol):
    """Where live records come from."""

    def shards(self) -> tuple[str, ...]:
        """The shards there are now. Raises `Unavailable` when nobody can say, and `PipelineEnded`."""

    def follow(self, shard: str, start: int | None) -> Followed:
        """From ``start`` (None: from now) on, or from the first offset after it that the leader still has.

        Raises `Fenced` or `Unavailable`, and `PipelineEnded` where another pipeline runs in its place.
        """

    def archived(self, shard: str, start: int, end: int) -> Iterator[pa.RecordBatch]:
        """The records ``[start, end)`` of the table, in order."""


def tail(source: Source, wanted: Filter) -> Iterator[pa.RecordBatch]:
    """Batches of the records that are committed from now on and that ``wanted`` lets through. Ends when it is closed.

    Records of one shard come in their order, each once; where a leader changes, or this reader falls behind, the tail
    goes on from the offset it has reached, out of the table where the leader has archived that part meanwhile. A shard
    that is added is followed from its first record on, one that is retired to its end.
    """
    wanted.least()  # a bad filter is told before anything runs
    batches: queue.Queue[pa.RecordBatch | Exception] = queue.Queue(_BATCHES_MAX)
    followers = _Followers(source, batches)
    followers.await_ready(_RETRY_S * 25)
    merged = _merged(followers, batches, wanted)
    weakref.finalize(merged, followers.stop).atexit = False  # also where nobody ever reads it
    return merged


def _merged(
    followers: _Followers, batches: queue.Queue[pa.RecordBatch | Exception], wanted: Filter
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
        followers.stop()


class _Followers:
    """One for each shard. A thread looks whether there are others."""

    def __init__(self, source: Source, batches: queue.Queue[pa.RecordBatch | Exception]) -> None:
        self._source = source
        self._batches = batches
        self._stopped = threading.Event()
        self._of = {shard: _Follower(source, shard, batches) for shard in source.shards()}
        threading.Thread(target=self._run, name="ringlog-tail", daemon=True).start()

    def await_ready(self, each_s: float) -> None:
        """Wait until the streams have begun, but for no longer than that for any."""
        for follower in self._of.values():
            follower.ready.wait(each_s)

    def stop(self) -> None:
        self._stopped.set()
        for follower in list(self._of.values()):
            follower.stop()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            try:
                shards = self._source.shards()
            except PipelineEnded as error:
                _put(self._batches, error, self._stopped)
                return
            except Unavailable:
                continue  # it is asked again
            for shard in shards:
                known = self._of.get(shard)
                if known is None:
                    self._of[shard] = _Follower(self._source, shard, self._batches, 0, added=True)
                elif not known.is_alive():  # it has come to its end, and the shard is back: it goes on there
                    self._of[shard] = _Follower(self._source, shard, self._batches, known.position)
            for shard in self._of.keys() - {*shards}:
                self._of[shard].retired.set()
            if self._stopped.is_set():
                self.stop()


class _Follower:
    """Follows one shard from a thread of its own; ``ready`` is set once the first stream has begun.

    It begins at ``start``, None: now. One that was ``added`` has nothing before where its leader began. ``retired`` is
    set when the shard is no more: the table has the rest of it.
    """

    def __init__(
        self,
        source: Source,
        shard: str,
        batches: queue.Queue[pa.RecordBatch | Exception],
        start: int | None = None,
        added: bool = False,
    ) -> None:
        self.ready = threading.Event()
        self.retired = threading.Event()
        self.position = start
        self._added = added
        self._source = source
        self._shard = shard
        self._batches = batches
        self._stopped = threading.Event()
        self._followed: Followed | None = None
        self._thread = threading.Thread(target=self._run, name=f"ringlog-tail-{shard}", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopped.set()
        if self._followed is not None:
            self._followed.stop()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                if self.retired.is_set():
                    self._archived(_EVERYTHING)
                    return
                self._follow_once()
            except PipelineEnded as error:
                self._put(error)
                return
            except (Fenced, Unavailable):
                self._stopped.wait(_RETRY_S)  # the leader changes, or is away: go on from the same offset
            except Exception as error:  # noqa: BLE001  (raised again where the records are read)
                self._put(error)
                return

    def _follow_once(self) -> None:
        self._followed = followed = self._source.follow(self._shard, self.position)
        if self._stopped.is_set():  # meanwhile: whoever stopped it may not have seen this stream, which has no end
            followed.stop()
            return
        if not self._added and self.position is not None and followed.base > self.position:
            self._archived(followed.base)
        self.position, self._added = followed.base, False
        self.ready.set()
        for batch in followed.batches:
            if batch.num_rows:
                self._put(batch)
                self.position += batch.num_rows

    def _archived(self, end: int) -> None:
        """What the table has up to ``end``, from the offset on that was reached."""
        for batch in self._source.archived(self._shard, self.position or 0, end):
            self._put(batch)
            self.position = (self.position or 0) + batch.num_rows

    def _put(self, batch: pa.RecordBatch | Exception) -> None:
        _put(self._batches, batch, self._stopped)


def _put(
    batches: queue.Queue[pa.RecordBatch | Exception], batch: pa.RecordBatch | Exception, stopped: threading.Event
) -> None:
    """Hand it to whoever reads, as soon as there is room, unless it is ``stopped`` before."""
    while not stopped.is_set():
        try:
            batches.put(batch, timeout=_RETRY_S)
        except queue.Full:
            continue
        return
