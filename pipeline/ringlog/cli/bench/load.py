"""Load for a pipeline: the corpus in each form that clients have it in, as fast as it goes, or at a fixed rate."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

import ringlog
from ringlog.cli.bench import corpus
from ringlog.errors import CorruptionError, Overloaded

SOURCES = ("arrow", "ndjson", "dicts", "handler")
DICTS_MAX = 200_000
"""Dicts take much memory: of a larger corpus, this many records are submitted again and again."""
_HANDLER_QUEUE = 1_000_000
_CALLERS = 64


def submits(source: str, records: int, batch: int, seed: int) -> list[Any]:
    """What is submitted, one submit each: ``batch`` records of the corpus as Arrow, NDJSON bytes, or dicts."""
    distinct = min(records, DICTS_MAX) if source == "dicts" else records
    whole = pa.Table.from_batches(corpus.batches(distinct, seed=seed)).combine_chunks()
    pieces = [piece for at in range(0, distinct, batch) for piece in whole.slice(at, batch).to_batches()]
    if source == "arrow":
        return pieces
    lines = [corpus.ndjson(piece) for piece in pieces]
    if source == "ndjson":
        return lines
    dicts = [[orjson.loads(line) for line in piece.splitlines()] for piece in lines]
    return list(islice(cycle(dicts), -(-records * len(dicts) // distinct)))


def submit_all(pipeline: ringlog.Pipeline, made: Sequence[Any]) -> int:
    """Submit without waiting for more than room, then wait for every acknowledgement; how many records."""
    waiting: list[Future[ringlog.Ack]] = [pipeline.submit_logs(one, wait=False) for one in made]
    return sum(future.result().records for future in waiting)


def log_all(pipeline: ringlog.Pipeline, records: int) -> int:
    """Log lines of the corpus through a `LogHandler`; returns when all of them are acknowledged."""
    lines = [line for batch in corpus.batches(min(records, DICTS_MAX)) for line in batch["body"].to_pylist()]
    handler = ringlog.LogHandler("bench", pipeline=pipeline, queue_max=_HANDLER_QUEUE)
    logger = _logger(handler)
    for line in islice(cycle(lines), records):
        logger.info("%s", line)
    handler.close()
    logger.removeHandler(handler)
    if handler.dropped:
        raise CorruptionError(f"the handler dropped {handler.dropped} of {records} records: this measures nothing")
    return records


def handler_cost_us(pipeline: ringlog.Pipeline, calls: int) -> dict[str, float]:
    """Microseconds of one call, medians: with a handler that is disabled, and with a `LogHandler`."""
    disabled = logging.NullHandler(level=logging.CRITICAL)
    handler = ringlog.LogHandler("bench-cost", pipeline=pipeline, queue_max=_HANDLER_QUEUE)
    found = {}
    for name, one in (("disabled", disabled), ("enabled", handler)):
        logger = _logger(one)
        taken = []
        for number in range(calls):
            began = time.perf_counter_ns()
            logger.info("step %d of %s took %.3f s", number, "stage", 0.25)
            taken.append(time.perf_counter_ns() - began)
        logger.removeHandler(one)
        found[name] = statistics.median(taken) / 1e3
    handler.close()
    return {**found, "cost": found["enabled"] - found["disabled"]}


def _logger(handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger("bench")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return logger


def ack_times_ms(pipeline: ringlog.Pipeline, count: int) -> list[float]:
    """One record after the other, each acknowledged before the next is submitted."""
    rows = orjson.loads(b"[" + corpus.ndjson(next(corpus.batches(1))).rstrip() + b"]")
    return [_milliseconds(lambda: pipeline.submit_logs(rows)) for _ in range(count)]


def queryable_times_ms(pipeline: ringlog.Pipeline, count: int) -> list[float]:
    """From before a submit until `sql` has given its record."""
    taken = []
    for number in range(count):
        service = f"bench-sql-{number}"
        began = time.perf_counter()
        pipeline.submit_logs({"body": "x", "service": service})
        found = pipeline.sql("SELECT count(*) FROM logs WHERE service = ?", [service]).fetchall()
        taken.append((time.perf_counter() - began) * 1e3)
        if found != [(1,)]:
            raise CorruptionError(f"an acknowledged record was not there: {found}")
    return taken


def at_rate(pipeline: ringlog.Pipeline, made: Sequence[Any], each: int, rate: float, seconds: float) -> dict[str, Any]:
    """Submit ``rate`` records a second, ``each`` at a time, at times fixed beforehand, whatever the answers do.

    A latency counts from the time at which its submit was due: who is held up has waited, too.
    """
    taken: list[float] = []
    refused: list[float] = []

    def submit(one: Any, due: float) -> None:
        try:
            pipeline.submit_logs(one, timeout_s=5.0)
        except Overloaded as error:
            refused.append(error.retry_after_s)
        else:
            taken.append((time.perf_counter() - due) * 1e3)

    begin = time.perf_counter()
    count = max(1, round(rate * seconds / each))
    with ThreadPoolExecutor(_CALLERS) as callers:
        for number, one in enumerate(islice(cycle(made), count)):
            due = begin + number * each / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            callers.submit(submit, one, due)
    spent = time.perf_counter() - begin
    return {
        "records_per_second": round(rate),
        "acknowledged_per_second": round(len(taken) * each / spent),
        "refused": len(refused),
        **percentiles(taken),
    }


def plain_parquet(made: Sequence[Any], path: Path) -> float:
    """Seconds that pyarrow alone takes to write what is submitted to one zstd Parquet file, synced at the end."""
    began = time.perf_counter()
    writer = None
    with path.open("wb") as file:
        for table in _tables(made):
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _tables(made: Sequence[Any], rows: int = corpus.ROWS) -> Iterator[pa.Table]:
    """The submits as tables of about ``rows`` rows: small row groups would be slow to write."""
    held: list[pa.Table] = []
    for one in made:
        if isinstance(one, pa.RecordBatch):
            held.append(pa.Table.from_batches([one]))
        elif isinstance(one, bytes):
            held.append(pyarrow.json.read_json(pa.py_buffer(one)))
        else:
            held.append(pa.Table.from_pylist(one))
        if sum(table.num_rows for table in held) >= rows:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def percentiles(taken: Sequence[float]) -> dict[str, float]:
    """p50, p99 and p99.9 of milliseconds."""
    if len(taken) < 2:
        return {}
    cuts = statistics.quantiles(taken, n=1000, method="inclusive")
    return {"p50_ms": round(cuts[499], 2), "p99_ms": round(cuts[989], 2), "p999_ms": round(cuts[998], 2)}


def _milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
