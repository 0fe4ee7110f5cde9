"""One cut of hot and cold: first every leader's unflushed part, then one version of the table.

What always holds: every record that was acknowledged before the cut began is in it, once. A flush that falls between
the two reads moves records from the tails into the table; the version's own count says which, and those are dropped
from the tails. Read the other way round, they would be in neither.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ringlog.errors import ConfigurationError
from ringlog.replication import already_stored
from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.settings import local_path
from ringlog.storage import Snapshot, Table

Identity = tuple[int, int, int]

_newest: dict[str, tuple[Snapshot, Identity]] = {}


@dataclass(frozen=True)
class Tail:
    """A leader's unflushed part: ``batches`` of `TABLE_SCHEMA` cover exactly ``[base, committed)``, in order."""

    shard: str
    base: int
    committed: int
    batches: tuple[pa.RecordBatch, ...]


@dataclass(frozen=True)
class Cut:
    """``snapshot`` is None where there is no table yet; ``missing`` are the shards whose tail could not be read.

    ``wanted`` are attributes that will have a column, also where the table has none yet: the reader sees one already.
    """

    snapshot: Snapshot | None
    tails: tuple[Tail, ...]
    missing: tuple[str, ...] = ()
    wanted: tuple[Promoted, ...] = ()

    @functools.cached_property
    def promoted(self) -> tuple[Promoted, ...]:
        """The attributes that have a column of their own."""
        if self.snapshot is None:
            return self.wanted
        names = {field.name.lower() for field in self.snapshot.delta.schema().fields}
        return (*self.snapshot.promoted, *(one for one in self.wanted if one.name.lower() not in names))

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


def take_cut(
    tails: Callable[[], tuple[Sequence[Tail], Sequence[str]]], table: Table, wanted: Sequence[Promoted] = ()
) -> Cut:
    """Read the tails (and which shards have none now), then the table."""
    hot, missing = tails()
    return Cut(newest(table), tuple(hot), tuple(missing), tuple(wanted))


def newest(table: Table) -> Snapshot | None:
    """The newest version of ``table``, or None where there is none; read anew only when something was committed.

    Versions have no gaps, and a version's file is never written again. So a version is still the newest when its own
    file is the one that was there, and the next one's is not. An object store is asked each time.
    """
    folder = local_path(table.url)
    if folder is None:
        return table.find()
    known = _newest.get(folder)
    if known is not None:
        snapshot, identity = known
        # The next file first: when the log is cleaned up, earlier versions go before later ones.
        if _identity(folder, snapshot.version + 1) is None and _identity(folder, snapshot.version) == identity:
            return snapshot
    found = table.find()
    found_identity = _identity(folder, found.version) if found else None
    if found is not None and found_identity is not None:
        _newest[folder] = (found, found_identity)
    return found


def _identity(folder: str, version: int) -> Identity | None:
    """Tells the file of ``version`` from any other that was there before; None where there is none."""
    try:
        found = os.stat(Path(folder, "_delta_log", f"{version:020d}.json"))
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_table(url: str, storage_options: Mapping[str, str], version: int | None = None) -> Cut:
    """The table at ``url`` alone, with no cluster at all; its newest version, or an earlier one.

    Raises `ConfigurationError` where there is none, and `InvalidQuery` where it has no such version.
    """
    table = Table(url, storage_options)
    snapshot = newest(table) if version is None else table.at(version)
    if snapshot is None:
        raise ConfigurationError(f"there is no table at {url}: give the root that the pipeline was started with")
    return Cut(snapshot, ())
