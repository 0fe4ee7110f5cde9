"""Collects small batches until rows, bytes or linger. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ringlog.schema import joined


@dataclass(slots=True)
class Group:
    """What goes into one append: ``pieces`` are batches with their callers, in order."""

    pieces: list[tuple[pa.RecordBatch, Any]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    due: float = 0.0

    def batch(self) -> pa.RecordBatch:
        """All pieces as one batch."""
        batches = [batch for batch, _ in self.pieces]
        return batches[0] if len(batches) == 1 else joined(batches)


class Batcher:
    """Groups by any key, in order within a key.

    A group is full at ``rows_max`` rows or ``bytes_max`` bytes, and due ``linger_s`` after its first piece.
    """

    def __init__(self, rows_max: int, bytes_max: int, linger_s: float) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._linger_s = linger_s
        self._groups: dict[Any, Group] = {}

    def add(self, key: Any, batch: pa.RecordBatch, caller: Any, now: float) -> Iterator[tuple[Any, Group]]:
        """Take one batch; the groups that are full because of it."""
        size = batch.nbytes
        group = self._groups.get(key)
        if group and (group.rows + batch.num_rows > self._rows_max or group.bytes + size > self._bytes_max):
            yield key, self._groups.pop(key)
            group = None
        if group is None:
            group = self._groups[key] = Group(due=now + self._linger_s)
        group.pieces.append((batch, caller))
        group.rows += batch.num_rows
        group.bytes += size
        if group.rows >= self._rows_max or group.bytes >= self._bytes_max:
            yield key, self._groups.pop(key)

    def take(self, now: float | None = None) -> list[tuple[Any, Group]]:
        """The groups that are due at ``now``; all of them for None."""
        keys = [key for key, group in self._groups.items() if now is None or group.due <= now]
        return [(key, self._groups.pop(key)) for key in keys]

    def wake(self) -> float | None:
        """When the next group is due."""
        return min((group.due for group in self._groups.values()), default=None)
