"""bench: records per second and the time of one acknowledgement, beside a plain file on the same disk."""

from __future__ import annotations

import os
import platform
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

import orjson
import pyarrow as pa
import typer

import ringlog
from ringlog.actors.cluster import leave_ray
from ringlog.cli import show
from ringlog.records import to_record_batch

_SERVICES = 12
_IN_FLIGHT = 24


def bench(
    records: Annotated[int, typer.Option(help="Records of each throughput run.")] = 300_000,
    batch: Annotated[int, typer.Option(help="Records of one submit.")] = 5_000,
    acks: Annotated[int, typer.Option(help="Single acknowledgements that are timed.")] = 500,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure a pipeline of its own on this machine: 3 shards, 3 copies, fsync in groups, acknowledged by a majority.

    The yardstick of the same run is one file that gets the same records as NDJSON, with one fsync for each batch.
    """
    with tempfile.TemporaryDirectory(prefix="ringlog-bench-") as folder:
        rows = _rows(batch)
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        rounds = max(1, records // batch)
        plain = _time(lambda: _write_file(Path(folder) / "plain.ndjson", lines, rounds))
        ringlog.start(f"{folder}/root", journal_dir=f"{folder}/journals", shards=3, replicas=3)
        try:
            found = _measure(rows, lines, rounds, acks)
        finally:
            ringlog.stop()
            leave_ray()
    total = rounds * batch
    result = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "record_bytes": round(len(lines) / batch),
        "plain_file": _figures(total, len(lines) * rounds, plain, plain),
        **{name: _figures(total, len(lines) * rounds, seconds, plain) for name, seconds in found["runs"].items()},
        "ack_ms": found["ack_ms"],
        "tail_ms": found["tail_ms"],
    }
    if json:
        show.json_line(result)
        return
    names = ["plain_file", *found["runs"]]
    rows_shown = [(name, *result[name].values()) for name in names]
    show.table(["input", "records/s", "MB/s of NDJSON", "of the plain file"], rows_shown)
    show.console.print(f"one record, acknowledged by a majority: {result['ack_ms']} ms")
    show.console.print(f"one record, from its submission to tail(): {result['tail_ms']} ms")


def _measure(rows: list[dict[str, Any]], lines: bytes, rounds: int, acks: int) -> dict[str, Any]:
    arrow = to_record_batch(rows, observed_ns=time.time_ns())
    _run(lambda: arrow, 3)  # connections, and the first pages of every file
    runs = {
        "dicts": _time(lambda: _run(lambda: rows, rounds)),
        "arrow": _time(lambda: _run(lambda: arrow, rounds)),
        "ndjson": _time(lambda: _run(lambda: [orjson.loads(line) for line in lines.splitlines()], rounds)),
    }
    ringlog.flush()
    single = [_time(lambda: ringlog.submit_logs(rows[0])) * 1e3 for _ in range(acks)]
    return {"runs": runs, "ack_ms": _percentiles(single), "tail_ms": _percentiles(_tail_times(min(acks, 100)))}


def _run(make: Callable[[], Any], rounds: int) -> None:
    pipeline = ringlog.connect()
    waiting: deque[Future[ringlog.Ack]] = deque()
    for _ in range(rounds):
        waiting.append(pipeline.submit_logs(make(), wait=False))
        if len(waiting) > _IN_FLIGHT:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()


def _tail_times(count: int) -> list[float]:
    """From before a submit until tail() gives its record."""
    batches = ringlog.tail(service="bench-tail")
    times = []
    for number in range(count):
        began = time.perf_counter()
        ringlog.submit_logs({"body": str(number), "service": "bench-tail"})
        seen: pa.RecordBatch = next(batches)
        times.append((time.perf_counter() - began) * 1e3)
        assert_same(seen["body"][0].as_py(), str(number))
    return times


def assert_same(found: str, expected: str) -> None:
    """A measurement of the wrong record would be worth nothing."""
    if found != expected:
        raise ringlog.CorruptionError(f"tail() gave {found!r} where {expected!r} was due")


def _rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(11)
    return [
        {
            "body": f"GET /api/v1/items/{draw.randint(1, 99999)} 200 in {draw.random():.3f} s by worker {number % 64}",
            "severity": draw.choice(["DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR"]),
            "service": f"service-{draw.randrange(_SERVICES)}",
            "timestamp": 1_790_000_000_000_000_000 + number * 1_000_000,
            "latency_ms": draw.randint(1, 500),
        }
        for number in range(count)
    ]


def _write_file(path: Path, lines: bytes, rounds: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(rounds):
            file.write(lines)
            os.fsync(file.fileno())


def _time(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _figures(records: int, size: int, seconds: float, plain: float) -> dict[str, Any]:
    return {
        "records_per_second": round(records / seconds),
        "megabytes_per_second": round(size / seconds / 1e6, 1),
        "ratio_to_plain_file": round(plain / seconds, 3),
    }


def _percentiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


COMMANDS = (bench,)
