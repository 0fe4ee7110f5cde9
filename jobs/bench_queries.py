"""Measure reads: size of the table and time of six queries on a corpus, beside DuckDB on plain Parquet in the same run.

    .venv/bin/python jobs/bench_queries.py --records 1000000 --json

The table is made as archivers make it: records go to three shards by the ring, and each shard flushes when it holds
``flush_bytes``; ``--compact`` merges its segments then. Each query goes the way of `ringlog.sql` or
`ringlog.search`, over the table alone: a running pipeline adds the time of asking its leaders. The yardstick is one
connection on one Parquet file, written by DuckDB with zstd in order of arrival.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

import ringlog
from ringlog.cli.bench import corpus
from ringlog.query import Filter, read_table, run_search, run_sql
from ringlog.routing import Keys, Leading, Routes
from ringlog.schema import pack, with_position
from ringlog.settings import Settings
from ringlog.storage import Flush, Table, write_segments
from ringlog.storage.compaction import CALM_S, compact

_SHARDS = ("shard-0", "shard-1", "shard-2")
_BATCH_ROWS = 8192  # about what clients' batches of one round come to
_PLAIN_COLUMNS = ["timestamp", "severity_number", "severity_text", "service", "host", "body", "attributes"]
_TEXT, _PATTERN = "Connection reset", "blk_[0-9]+ .*exception"
_SERVICE, _SEVERITY = "ingress", 17
_LIMIT = 100

Query = Callable[[], list[Any]]


def main() -> None:
    """Make both, measure both in turn, and say how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=15, help="of each query; the median counts")
    parser.add_argument("--compact", action="store_true", help="merge the segments before the queries")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringlog-bench-") as folder:
        root, plain = f"{folder}/root", f"{folder}/plain.parquet"
        needle = _build(f"{root}/logs", arguments.records, arguments.compact)
        _write_plain(plain, arguments.records)
        ours, theirs = _ours(f"{root}/logs", needle), _theirs(plain, needle)
        rows = {name: _compare(ours[name], theirs[name], arguments.runs) for name in ours}
        sizes = {"table_mb": _megabytes(Path(root, "logs")), "plain_mb": _megabytes(Path(plain))}
        segments = len(list(Path(root).glob("logs/date=*/*.parquet")))
    result = {
        "records": arguments.records,
        "compacted": arguments.compact,
        "cores": os.cpu_count(),
        "segments": segments,
        **sizes,
        "queries": rows,
    }
    print(f"{arguments.records} records: {sizes['table_mb']} MB in {segments} segments, plain {sizes['plain_mb']} MB")
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"  {what} {value}" for what, value in row.items()))
    if arguments.json:
        print(orjson.dumps(result).decode())


def _build(url: str, records: int, merge: bool) -> str:
    """A table of the corpus at ``url``; the request id of one record in its middle."""
    table = Table(url, {})
    snapshot = table.open_or_create()
    routes = Routes(1, _SHARDS, {shard: Leading(shard, shard, "", 1) for shard in _SHARDS})
    held: dict[str, list[pa.RecordBatch]] = {shard: [] for shard in _SHARDS}
    sizes, starts = dict.fromkeys(_SHARDS, 0), dict.fromkeys(_SHARDS, 0)
    flush_bytes = Settings().flush_bytes
    needle, seen = "", 0

    def flush(shard: str) -> None:
        nonlocal snapshot
        end = starts[shard] + sum(batch.num_rows for batch in held[shard])
        segments = write_segments(table.objects, shard, starts[shard], held[shard])
        snapshot = table.commit(snapshot, [Flush(shard, starts[shard], end, segments)])
        held[shard], sizes[shard], starts[shard] = [], 0, end

    for whole in corpus.batches(records):
        if seen <= records // 2 < seen + whole.num_rows:
            needle = orjson.loads(whole["attributes"][records // 2 - seen].as_py())["request_id"]
        seen += whole.num_rows
        for at in range(0, whole.num_rows, _BATCH_ROWS):
            piece = whole.slice(at, _BATCH_ROWS)
            for shard, batch in routes.assign(piece, Keys.of(piece), (0.0, 0.0)):
                end = starts[shard] + sum(part.num_rows for part in held[shard])
                held[shard].append(with_position(batch, shard, end))
                sizes[shard] += len(pack(batch))
                if sizes[shard] >= flush_bytes:
                    flush(shard)
    for shard in _SHARDS:
        if held[shard]:
            flush(shard)
    if merge:
        compact(table, time.time() + 2 * CALM_S)  # as if the day were over for some time
        kept = {segment.path for segment in table.snapshot().segments()}
        for path in set(table.objects.list("date=2026-01-31")) - kept:
            table.objects.remove(path)  # as a vacuum would
    return needle


def _write_plain(path: str, records: int) -> None:
    connection = duckdb.connect()
    connection.register("records", pa.Table.from_batches(corpus.batches(records)).select(_PLAIN_COLUMNS))
    connection.execute(f"COPY records TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


def _ours(url: str, needle: str) -> dict[str, Query]:
    def sql(query: str) -> Query:
        return lambda: run_sql(query, read_table(url, {})).fetchall()

    def search(wanted: Filter) -> Query:
        now = datetime.datetime.now(datetime.timezone.utc)
        return lambda: run_search(read_table(url, {}), wanted, limit=_LIMIT, now=now).fetchall()

    return {
        **{name: sql(query.format(logs="logs", needle=needle)) for name, query in _QUERIES.items()},
        "one id, search()": search(Filter(attributes={"request_id": needle})),
        "newest 100, search()": search(Filter(service=_SERVICE, severity=_SEVERITY)),
        "newest text, search()": search(Filter(text=_TEXT)),
    }


def _theirs(path: str, needle: str) -> dict[str, Query]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    logs = f"read_parquet('{path}')"

    def sql(query: str) -> Query:
        return lambda: connection.execute(query.format(logs=logs, needle=needle)).fetchall()

    newest = "SELECT * FROM {logs} WHERE contains(lower(body), lower('%s')) ORDER BY timestamp DESC LIMIT %d"
    return {
        **{name: sql(query) for name, query in _QUERIES.items()},
        "one id, search()": sql(_QUERIES["one id, JSON"]),
        "newest 100, search()": sql(_QUERIES["newest 100"]),
        "newest text, search()": sql(newest % (_TEXT, _LIMIT)),
    }


_QUERIES = {
    "count by service": "SELECT service, count(*) FROM {logs} GROUP BY service",
    "one id, JSON": "SELECT * FROM {logs} WHERE attributes->>'request_id' = '{needle}'",
    "one id, substring": "SELECT * FROM {logs} WHERE contains(attributes, '{needle}')",
    "substring": f"SELECT count(*) FROM {{logs}} WHERE contains(body, '{_TEXT}')",
    "regex": f"SELECT count(*) FROM {{logs}} WHERE regexp_matches(body, '{_PATTERN}')",
    "newest 100": f"SELECT * FROM {{logs}} WHERE service = '{_SERVICE}' AND severity_number = {_SEVERITY} "
    f"ORDER BY timestamp DESC LIMIT {_LIMIT}",
    "histogram": "SELECT time_bucket(INTERVAL 1 minute, timestamp), severity_number, count(*) FROM {logs} GROUP BY ALL",
}


def _compare(ours: Query, theirs: Query, runs: int) -> dict[str, float]:
    """Both in turn, so that what else the machine does hits both; they have to find as many rows."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    if len(ours()) != len(theirs()):
        raise ringlog.CorruptionError("the table and the plain file give different answers: this measures nothing")
    for _ in range(runs):
        for name, query in (("ours", ours), ("plain", theirs)):
            began = time.perf_counter()
            query()
            times[name].append((time.perf_counter() - began) * 1e3)
    medians = {f"{name}_ms": round(statistics.median(taken), 2) for name, taken in times.items()}
    least = {f"{name}_min_ms": round(min(taken), 2) for name, taken in times.items()}
    return {**medians, **least, "ratio": round(medians["ours_ms"] / medians["plain_ms"], 2)}


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else path.glob("date=*/*.parquet")
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


if __name__ == "__main__":
    main()
