"""One cut of hot and cold: first every leader's unflushed part, then one version of the table.

What always holds: every record that was acknowledged before the cut began is in it, once. A flush that falls between
the two reads moves records from the tails into the table; the version's own count says which, and those are dropped
from the tails. Read the other way round, they would be in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ringlog.errors import ConfigurationError
from ringlog.replication import already_stored
from ringlog.schema import TABLE_SCHEMA
from ringlog.storage import Snapshot, Table


@dataclass(frozen=True)
class Tail:
    """A leader's unflushed part: ``batches`` of `TABLE_SCHEMA` cover exactly ``[base, committed)``, in order."""

    shard: str
    base: int
    committed: int
    batches: tuple[pa.RecordBatch, ...]


@dataclass(frozen=True)
class Cut:
    """``snapshot`` is None where there is no table yet; ``missing`` are the shards whose tail could not be read."""

    snapshot: Snapshot | None
    tails: tuple[Tail, ...]
    missing: tuple[str, ...] = ()

    def hot(self) -> pa.Table:
        """The records of the tails that the table's version does not hold."""
        batches = [batch for tail in self.tails for batch in self._unstored(tail)]
        return pa.Table.from_batches(batches, schema=TABLE_SCHEMA)

    def cold(self) -> Any:
        """The table's version as an Arrow dataset: whoever scans it reads only the files and columns that it needs."""
        return None if self.snapshot is None else self.snapshot.delta.to_pyarrow_dataset()

    def _unstored(self, tail: Tail) -> list[pa.RecordBatch]:
        stored = self.snapshot.stored(tail.shard) if self.snapshot else 0
        skip = already_stored(tail.shard, tail.base, stored)
        kept = []
        for batch in tail.batches:
            if skip < batch.num_rows:
                kept.append(batch.slice(skip))
            skip = max(0, skip - batch.num_rows)
        return kept


def take_cut(tails: Callable[[], tuple[Sequence[Tail], Sequence[str]]], table: Table) -> Cut:
    """Read the tails (and which shards have none now), then the table."""
    hot, missing = tails()
    return Cut(table.find(), tuple(hot), tuple(missing))


def read_table(url: str, storage_options: Mapping[str, str]) -> Cut:
    """The table at ``url`` alone, with no cluster at all. Raises `ConfigurationError` where there is none."""
    snapshot = Table(url, storage_options).find()
    if snapshot is None:
        raise ConfigurationError(f"there is no table at {url}: give the root that the pipeline was started with")
    return Cut(snapshot, ())
