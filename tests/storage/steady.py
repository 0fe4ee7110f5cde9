"""How large the table's log is in the long run: a trickle of flushes, merges every five minutes, a vacuum every hour.

``python tests/storage/steady.py --days 30 --flushes-a-minute 1`` simulates the end of so many days. What is kept is of the
last 24 hours, so only the last 26 are played flush by flush; of each day before, the one merged segment is there that is
left of it. Times of commits, segments and files are those of the simulation, which ends now.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ringlog.storage import Flush, Snapshot, Table, commit, write_segments
from ringlog.storage.compaction import compact
from ringlog.storage.retention import vacuum
from table_rows import rows

HOUR_S = 3600
PLAYED_S = 26 * HOUR_S
MERGE_EVERY_S = 300


class _Clock:
    """Stands for `time` in `storage.commit`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time_ns(self) -> int:
        return int(self.now_s * 1e9)

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@contextmanager
def simulated_clock() -> Iterator[_Clock]:
    real, commit.time = commit.time, _Clock()  # type: ignore[assignment]
    try:
        yield commit.time  # type: ignore[misc]
    finally:
        commit.time = real


class Trickle:
    """One shard's flushes of ten records each."""

    def __init__(self, table: Table, shard: str) -> None:
        self._table, self._shard, self._end = table, shard, 0

    def flush(self, snapshot: Snapshot, at_s: float, count: int = 10) -> Snapshot:
        times = int(at_s * 1e9) + np.arange(count)
        batch = rows(self._shard, self._end, count, times=times)
        segments = write_segments(self._table.objects, self._shard, self._end, [batch])
        snapshot = self._table.commit(snapshot, [Flush(self._shard, self._end, self._end + count, segments)])
        self._end += count
        return snapshot


def play(folder: Path, days: int, flushes_a_minute: int) -> dict[str, float]:
    """What the log comes to in the end, and how long it takes to load the table."""
    table = Table(str(folder / "logs"), {})
    log = folder / "logs" / "_delta_log"
    end_s = time.time()
    begin_s = end_s - PLAYED_S
    most = 0
    with simulated_clock() as clock:
        clock.now_s = begin_s
        snapshot = table.open_or_create()
        shards = [Trickle(table, f"shard-{number}") for number in range(flushes_a_minute)]
        for day in range(days, 1, -1):
            snapshot = shards[0].flush(snapshot, end_s - day * 24 * HOUR_S, 1000)
        dated: set[Path] = set()
        for minute in range(PLAYED_S // 60):
            clock.now_s = begin_s + 60 * minute
            for shard in shards:
                snapshot = shard.flush(snapshot, clock.now_s)
            if 60 * minute % MERGE_EVERY_S == 0:
                compact(table, clock.now_s)
                snapshot = table.snapshot()
            most = max(most, len(table.snapshot().segments()) if minute % 60 == 0 else 0)
            new = set(log.iterdir()) - dated
            for path in new:
                os.utime(path, (clock.now_s, clock.now_s))
            dated |= new
    vacuum(table, commit.HISTORY_HOURS)
    files = [path for path in log.iterdir() if path.is_file()]
    checkpoints = [path.stat().st_size for path in files if path.name.endswith(".checkpoint.parquet")]
    began = time.perf_counter()
    found = Table(table.url, {}).snapshot()
    loaded_s = time.perf_counter() - began
    return {
        "versions": found.version,
        "segments": len(found.segments()),
        "segments_most": most,
        "log_files": len(files),
        "log_mb": sum(path.stat().st_size for path in files) / 1e6,
        "checkpoints": len(checkpoints),
        "checkpoint_kb": max(checkpoints, default=0) / 1e3,
        "load_ms": loaded_s * 1e3,
    }


def main() -> None:
    """Play it, and print what came of it."""
    parser = argparse.ArgumentParser(description="The size of the table's log in the long run.")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--flushes-a-minute", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = play(Path(folder), chosen.days, chosen.flushes_a_minute)
    print(", ".join(f"{name} {value:g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
