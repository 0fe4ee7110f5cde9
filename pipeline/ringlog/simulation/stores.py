"""The metadata store and the table. Both may be away, or do what they are asked and not say so, or do it later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringlog.replication import CompareAndSet, Entry, ShardState
from ringlog.simulation.checker import Checker
from ringlog.simulation.faults import Hits
from ringlog.simulation.loop import Loop

TIMEOUT_S = 1.5
"""How long a caller waits for a store that says nothing."""


class _Store:
    """What both have in common: a call takes a while, is carried out or not, and answers or not."""

    latency_s = (0.001, 0.01)

    def __init__(self, loop: Loop, hits: Hits, name: str) -> None:
        self._loop = loop
        self._hits = hits
        self._name = name
        self.away = 0.0
        self.unknown = 0.0
        self.slow_s = 0.0

    def heal(self) -> None:
        """Nothing fails any more."""
        self.away = self.unknown = self.slow_s = 0.0

    def _call(self, what: str, carry_out: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        """``answer`` hears the result, or None: no answer."""
        draw = self._loop.draw
        wait = draw.uniform(*self.latency_s)
        if self.slow_s:
            self._hits.hit(f"{self._name} slow")
            wait += draw.random() * self.slow_s
        if self.away and draw.random() < self.away:
            self._hits.hit(f"{self._name} {'failing' if self._name == 'table' else 'away'}")
            self._loop.after(wait, f"no answer: {what}", answer, None)
        elif self.unknown and draw.random() < self.unknown:
            self._hits.hit(f"{self._name} unknown")
            late = draw.choice((wait, TIMEOUT_S * draw.random() * 3))
            self._loop.after(late, what, carry_out)
            self._loop.after(min(wait, late) + draw.random() * TIMEOUT_S, f"no answer: {what}", answer, None)
        else:
            self._loop.after(wait, what, lambda: self._loop.after(0.0005, f"answer: {what}", answer, carry_out()))


class Metadata(_Store):
    """One state for each shard, changed by compare-and-set only."""

    def __init__(self, loop: Loop, hits: Hits, checker: Checker) -> None:
        super().__init__(loop, hits, "metadata")
        self._checker = checker
        self.of: dict[str, tuple[ShardState | None, int]] = {}

    def read(self, shard: str, answer: Callable[[Any], None]) -> None:
        """``answer`` hears ``(state, version)``."""
        self._call(f"read {shard} of the metadata store", lambda: self.of.get(shard, (None, 0)), answer)

    def compare_and_set(self, change: CompareAndSet, answer: Callable[[Any], None]) -> None:
        """``answer`` hears what stands there afterwards, whoever wrote it."""
        self._call(f"compare and set {_told(change.state)}", lambda: self._swap(change), answer)

    def _swap(self, change: CompareAndSet) -> tuple[ShardState | None, int]:
        shard = change.state.shard
        _, version = self.of.get(shard, (None, 0))
        if version == change.expected:
            self.of[shard] = (change.state, version + 1)
            self._loop.note("stands now:", _told(change.state))
            self._checker.decided(change.state)
            if change.state.state == "retired":
                self._hits.hit("retirement")
        return self.of[shard]


def _told(state: ShardState) -> str:
    return f"{state.shard} epoch {state.epoch} {state.state} by {state.claimant}"


@dataclass(frozen=True)
class Piece:
    """Entries of one shard that a commit adds."""

    shard: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class TableVersion:
    """One version: how far it holds each shard, who may archive it, and how many rows there are."""

    number: int
    stored: Mapping[str, int] = field(default_factory=dict)
    fences: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"version {self.number} {dict(self.stored)}"


class Table(_Store):
    """A table as delta-rs keeps it.

    A commit whose snapshot has been overtaken for one of its shards is refused; nothing else about it is compared.
    """

    latency_s = (0.01, 0.08)

    def __init__(self, loop: Loop, hits: Hits, checker: Checker) -> None:
        super().__init__(loop, hits, "table")
        self._checker = checker
        self.newest = TableVersion(0)
        self._changed: dict[str, int] = {}

    def snapshot(self, answer: Callable[[Any], None]) -> None:
        """``answer`` hears the newest `TableVersion`."""
        self._call("read the table", lambda: self.newest, answer)

    def commit(self, base: TableVersion, pieces: Sequence[Piece], answer: Callable[[Any], None]) -> None:
        """``answer`` hears whether it was accepted."""
        told = ", ".join(f"{piece.shard} [{piece.entries[0].start}, {piece.entries[-1].end})" for piece in pieces)
        self._call(f"commit {told}", lambda: self._commit(base, pieces), answer)

    def fence(self, shard: str, epoch: int, answer: Callable[[Any], None]) -> None:
        """Close ``shard`` to earlier epochs; ``answer`` hears the version that says so."""
        self._call(f"fence {shard} at {epoch}", lambda: self._fence(shard, epoch), answer)

    def compact(self) -> None:
        """Another writer rewrites files: a version with the same rows."""
        self._hits.hit("compaction")
        self._publish(self.newest.stored, self.newest.fences, self.newest.rows)

    def _commit(self, base: TableVersion, pieces: Sequence[Piece]) -> bool:
        if any(self._changed.get(piece.shard, 0) > base.number for piece in pieces):
            return False
        stored, rows = dict(self.newest.stored), dict(self.newest.rows)
        for piece in pieces:
            self._checker.archived(piece.shard, stored.get(piece.shard, 0), piece.entries)
            stored[piece.shard] = piece.entries[-1].end
            rows[piece.shard] = rows.get(piece.shard, ()) + piece.entries
        self._publish(stored, self.newest.fences, rows)
        for piece in pieces:
            self._changed[piece.shard] = self.newest.number
        return True

    def _fence(self, shard: str, epoch: int) -> TableVersion:
        if self.newest.fences.get(shard, 0) < epoch:
            self._publish(self.newest.stored, {**self.newest.fences, shard: epoch}, self.newest.rows)
            self._changed[shard] = self.newest.number
        return self.newest

    def _publish(
        self, stored: Mapping[str, int], fences: Mapping[str, int], rows: Mapping[str, tuple[Entry, ...]]
    ) -> None:
        self.newest = TableVersion(self.newest.number + 1, stored, fences, rows)
