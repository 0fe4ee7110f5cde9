"""Archivers of other processes commit while compaction, expiry and vacuums run: no record is lost, doubled or revived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringlog.storage import Snapshot, Table
from ringlog.storage.compaction import compact
from ringlog.storage.retention import Expiry, expire, vacuum
from ringlog.storage.verification import verify_table
from storage.conftest import Place
from storage.test_commit import positions
from table_rows import NOON

ROUNDS, FLUSHES, RECORDS = 2, 4, 12
LATER_S = 2 * NOON / 1e9
SHARDS = ("a", "b", "c")

ARCHIVER = f"""
import json, os, pathlib, sys, threading
from table_rows import rows
from ringlog.errors import Conflict
from ringlog.storage import Flush, Table, write_segments

shard, url, options, stop = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), pathlib.Path(sys.argv[4])
table = Table(url, options)
snapshot, parent = table.snapshot(), os.getppid()
while not stop.exists() and os.getppid() == parent:
    start = snapshot.stored(shard)
    batch = rows(shard, start, {RECORDS}, service=["old", "new"] * {RECORDS // 2})
    segments = write_segments(table.objects, shard, start, [batch])
    try:
        snapshot = table.commit(snapshot, [Flush(shard, start, start + {RECORDS}, segments)])
    except Conflict:
        snapshot = table.snapshot()
    threading.Event().wait(0.2)
"""


@contextmanager
def archivers(place: Place, folder: Path) -> Iterator[None]:
    """One process for each shard, and a second for the first one, as a zombie would be."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    url, options = place
    stop = folder / "stop"
    processes = [
        subprocess.Popen([sys.executable, "-c", ARCHIVER, shard, url, json.dumps(options), str(stop)], env=environment)
        for shard in (*SHARDS, SHARDS[0])
    ]
    try:
        yield
        stop.touch()
        assert [process.wait(timeout=60) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rounds(table: Table) -> Iterator[int]:
    """`ROUNDS` times, each once some flushes of every shard have been stored since the last."""
    reached = dict.fromkeys(SHARDS, 0)
    pause = threading.Event()
    for number in range(ROUNDS):
        while any(table.snapshot().stored(shard) < reached[shard] + FLUSHES * RECORDS for shard in SHARDS):
            pause.wait(0.2)
        reached = {shard: table.snapshot().stored(shard) for shard in SHARDS}
        yield number


def test_compaction_expiry_and_vacuums_beside_archivers(place: Place, tmp_path: Path) -> None:
    """With no history at all: nothing but their construction keeps the vacuums from what is written just now."""
    table = Table(*place)
    table.open_or_create()
    vacuumed: set[str] = set()
    with archivers(place, tmp_path):
        for _ in rounds(table):
            check(table.snapshot())
            assert compact(table, LATER_S).merged >= FLUSHES
            check(table.snapshot())
            assert expire(table, Expiry(service="old")).records >= FLUSHES
            vacuumed.update(vacuum(table, 0))
            check(table.snapshot())
    expire(table, Expiry(service="old"))
    compact(table, LATER_S)
    vacuum(table, 0)
    after = Table(*place).snapshot()
    held = {segment.path for segment in after.segments()}
    check(after)
    assert {path for path in table.objects.list() if path.startswith("date=")} == held
    assert all(after.expired(shard) == after.stored(shard) // 2 for shard in SHARDS)
    assert verify_table(table).problems == ()
    assert len(vacuumed) > ROUNDS * FLUSHES
    assert vacuumed.isdisjoint(held)


def check(snapshot: Snapshot) -> None:
    """Every record that does not expire is there once, and the others are at most once."""
    for shard, offsets in positions(snapshot).items():
        assert [offset for offset in offsets if offset % 2 == 1] == list(range(1, snapshot.stored(shard), 2))
        assert len(set(offsets)) == len(offsets)
