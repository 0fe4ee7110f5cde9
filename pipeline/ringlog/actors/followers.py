"""Live followers of a shard: each gets what is committed, in order, for as long as it keeps up."""

from __future__ import annotations

import queue
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from ringlog.replication import Entry

_HEARTBEAT_S = 0.5


class _Follower:
    def __init__(self) -> None:
        self.entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self.bytes = 0

    def push(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.bytes += len(entry.payload)
            self.entries.put(entry)


class Followers:
    """The followers of the shards that one actor leads. All methods are called by the inbox thread.

    One that falls more than ``bytes_max`` behind is let go; it comes back with the offset that it has reached. What
    `begin` gives holds it, and nothing else does: it is gone with the stream, however that ends.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._of: defaultdict[str, weakref.WeakSet[_Follower]] = defaultdict(weakref.WeakSet)

    def begin(self, shard: str, entries: Iterable[Entry], gone: Callable[[], bool]) -> Iterator[Entry | None]:
        """First ``entries``, then what `push` brings; None now and then when there is nothing. Ends with `end`."""
        follower = _Follower()
        follower.push(entries)
        self._of[shard].add(follower)
        return self._follow(follower, gone)

    def push(self, shard: str, entries: tuple[Entry, ...]) -> None:
        """``entries`` were committed just now."""
        for follower in list(self._of[shard]):
            if follower.bytes > self._bytes_max:
                self._let_go(shard, follower)
            else:
                follower.push(entries)

    def end(self, shard: str) -> None:
        """This actor does not lead ``shard`` any more."""
        for follower in list(self._of[shard]):
            self._let_go(shard, follower)

    def close(self) -> None:
        """End them all."""
        for shard in list(self._of):
            self.end(shard)

    def _let_go(self, shard: str, follower: _Follower) -> None:
        self._of[shard].discard(follower)
        follower.entries.put(None)

    def _follow(self, follower: _Follower, gone: Callable[[], bool]) -> Iterator[Entry | None]:
        while not gone():
            try:
                entry = follower.entries.get(timeout=_HEARTBEAT_S)
            except queue.Empty:
                yield None
                continue
            if entry is None:
                return
            follower.bytes -= len(entry.payload)
            yield entry
