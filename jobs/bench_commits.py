"""How many flushes a second one table takes from several archivers at once: what bounds a cluster of many shard actors.

    python jobs/bench_commits.py --archivers 1,4,16 --seconds 20 --root local --json
    python jobs/bench_commits.py --archivers 1,4,16 --seconds 20 --root s3     # SeaweedFS on loopback

Each archiver is a thread with a table of its own, as each shard actor has one. It writes a segment of one record for
its own shard and commits it, over and over; the time of one flush is that of both. delta-rs does the work outside the
interpreter's lock.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pyarrow as pa

from ringlog.errors import Conflict, OutcomeUnknown
from ringlog.records import to_record_batch
from ringlog.schema import with_position
from ringlog.storage import Flush, Table, write_segments
from seaweed import SeaweedFS


def main() -> None:
    """Measure each number of archivers on a table of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archivers", default="1,4,16", help="one number, or several with commas")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of them")
    parser.add_argument("--root", choices=["local", "s3"], default="local")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    found = {}
    with place(given.root) as (root, options):
        for count in map(int, given.archivers.split(",")):
            found[count] = figures = measure(f"{root}/{count}/logs", options, count, given.seconds)
            print(f"{count:4} archivers: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
            sys.stdout.flush()
    if given.json:
        print(orjson.dumps({"root": given.root, "archivers": found}, option=orjson.OPT_NON_STR_KEYS).decode())


@contextlib.contextmanager
def place(kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where the tables are made, and the options that reach them."""
    with tempfile.TemporaryDirectory(prefix="ringlog-bench-") as folder:
        if kind == "local":
            yield folder, {}
            return
        with SeaweedFS(Path(folder)) as server:
            yield f"s3://{server.bucket}/bench", dict(server.storage_options)


def measure(url: str, options: dict[str, str], archivers: int, seconds: float) -> dict[str, float]:
    """Flushes a second of all together, the median and the 99th percentile of one in ms, and how many were refused."""
    Table(url, options).open_or_create()
    ended = threading.Event()
    timer = threading.Timer(seconds, ended.set)
    timer.start()
    began = time.monotonic()
    with ThreadPoolExecutor(archivers) as threads:
        done = list(
            threads.map(lambda number: flush_until(Table(url, options), f"shard-{number}", ended), range(archivers))
        )
    took_s = time.monotonic() - began
    times = sorted(one for times, _ in done for one in times)
    return {
        "flushes_per_second": round(len(times) / took_s, 2),
        "p50_ms": round(statistics.median(times) * 1e3, 1),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 1),
        "refused": sum(refused for _, refused in done),
    }


def flush_until(table: Table, shard: str, ended: threading.Event) -> tuple[list[float], int]:
    """How long each flush took, and how many were refused and begun anew."""
    records = to_record_batch([{"body": "x", "service": shard}], observed_ns=time.time_ns())
    snapshot = table.open_or_create()
    times, refused = [], 0
    while not ended.is_set():
        began = time.perf_counter()
        start = snapshot.stored(shard)
        batches: list[pa.RecordBatch] = [with_position(records, shard, start)]
        try:
            segments = write_segments(table.objects, shard, start, batches)
            snapshot = table.commit(snapshot, [Flush(shard, start, start + 1, segments)])
        except (Conflict, OutcomeUnknown):
            refused += 1
            snapshot = table.open_or_create()
            continue
        times.append(time.perf_counter() - began)
    return times, refused


if __name__ == "__main__":
    main()
