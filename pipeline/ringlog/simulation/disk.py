"""A journal on a simulated disk: what is written, what of it is synced, and what is left when its process ends."""

from __future__ import annotations

from collections.abc import Callable

from ringlog.replication import Output, ReplicaState, StoreOp, Write, applied, is_still_itself
from ringlog.simulation.checker import Checker
from ringlog.simulation.faults import Hits
from ringlog.simulation.loop import Loop

SYNC_S = (0.0002, 0.002)


class Disk:
    """The journal of one replica. `apply` takes outputs in order, in groups, and lets nothing out before it is true."""

    def __init__(self, loop: Loop, hits: Hits, checker: Checker, state: ReplicaState, fsync: str) -> None:
        self._loop = loop
        self._hits = hits
        self._checker = checker
        self._fsync = fsync
        self.synced = self.written = state
        self.unsynced: list[StoreOp] = []
        self.flipped = False
        self.slow_s = 0.0
        self._waiting: list[tuple[Output, Callable[[Output], None]]] = []
        self._busy = False

    @property
    def at_rest(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._busy and not self._waiting

    def apply(
        self,
        output: Output,
        deliver: Callable[[Output], None],
        later: Callable[..., None],
        full: Callable[[], bool],
        fail: Callable[[], None],
    ) -> None:
        """Store what ``output`` asks for, then ``deliver`` it.

        ``later`` lets something happen unless the process has ended by then; ``full`` says whether a write fails now,
        and ``fail`` ends the process for that.
        """
        self._waiting.append((output, deliver))
        if not self._busy:
            self._begin(later, full, fail)

    def killed(self) -> None:
        """The process ended: what the kernel has is there; of the group being written, a part."""
        ops = [op for output, _ in self._waiting for op in output.store]
        self._write(_part(ops, self._loop))
        self._forget()

    def power_cut(self) -> None:
        """The kernel ended too: of what was not synced, a part is there, and the last entry of it may be torn."""
        kept = _part(self.unsynced, self._loop)
        if self._fsync != "group":
            self._checker.lost(self.synced.id)
        self.written, self.unsynced = self.synced, []
        self._write(kept)
        self._forget()

    def reopened(self, same_boot: bool, new_id: Callable[[], str]) -> ReplicaState:
        """The state with which a process begins; under a new id where the disk lost something or cannot be read."""
        itself = is_still_itself(self._fsync, False, "boot", "boot" if same_boot else "another")
        if self.flipped or not itself:
            self._checker.lost(self.synced.id)
            self.written = ReplicaState(self.synced.shard, new_id())
            self.flipped = False
        self._sync()
        return self.synced

    def _begin(self, later: Callable[..., None], full: Callable[[], bool], fail: Callable[[], None]) -> None:
        self._busy = True
        group, self._waiting = self._waiting, []
        ops = [op for output, _ in group for op in output.store]
        if ops and full():
            self._hits.hit("full disk")
            self._write(_part(ops, self._loop))
            fail()
            return
        self._write(ops)
        wait = self._loop.draw.uniform(*SYNC_S) if ops and self._fsync == "group" else 0.0
        if wait and self.slow_s:
            self._hits.hit("slow disk")
            wait += self._loop.draw.random() * self.slow_s
        later(wait, f"the disk of {self.synced.id} is done", self._end, group, later, full, fail)

    def _end(
        self,
        group: list[tuple[Output, Callable[[Output], None]]],
        later: Callable[..., None],
        full: Callable[[], bool],
        fail: Callable[[], None],
    ) -> None:
        if self._fsync == "group" or (self._fsync == "interval" and self._loop.draw.random() < 0.3):
            self._sync()
        self._busy = False
        for output, deliver in group:
            deliver(output)
        if self._waiting and not self._busy:
            self._begin(later, full, fail)

    def _write(self, ops: list[StoreOp]) -> None:
        for op in ops:
            self._checker.stores(self.written, op)
            self.written = applied(self.written, op)
            self.unsynced.append(op)
            if not isinstance(op, Write):  # a promise and a new log are made durable at once, whatever fsync is
                self._sync()

    def _sync(self) -> None:
        self.synced, self.unsynced = self.written, []

    def _forget(self) -> None:
        self._waiting, self._busy = [], False


def _part(ops: list[StoreOp], loop: Loop) -> list[StoreOp]:
    """The first of ``ops``; of a write that was cut, the first entries: a torn one is cut off when it is read back."""
    kept = ops[: loop.draw.randint(0, len(ops))]
    if kept and isinstance(kept[-1], Write):
        entries = kept[-1].entries
        kept = [*kept[:-1], Write(entries[: loop.draw.randint(0, len(entries))])]
    return kept
