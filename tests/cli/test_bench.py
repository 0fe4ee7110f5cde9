"""The load and the counting of `ringlog bench`, over a pipeline in memory; the whole of it runs in tests/cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ringlog
from ringlog.cli.bench import headline, load, processes, tell
from ringlog.client.transport import MemoryTransport
from ringlog.settings import Settings


@pytest.fixture
def pipeline() -> Iterator[ringlog.Pipeline]:
    with ringlog.Pipeline(MemoryTransport(Settings(shards=1, replicas=1))) as made:
        yield made


def count(pipeline: ringlog.Pipeline) -> int:
    ((found,),) = pipeline.sql("SELECT count(*) FROM logs").fetchall()
    return int(found)


@pytest.mark.parametrize("source", ["arrow", "ndjson", "dicts"])
def test_every_source_submits_the_same_records(
    pipeline: ringlog.Pipeline, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "DICTS_MAX", 1000)
    made = load.submits(source, 2000, 300 if source != "dicts" else 250, seed=1)
    assert load.submit_all(pipeline, made) == count(pipeline) == 2000
    bodies = pipeline.sql("SELECT body FROM logs ORDER BY record_offset LIMIT 1000").fetchall()
    assert [body for (body,) in bodies] == next(load.corpus.batches(1000))["body"].to_pylist()
    assert load.plain_parquet(made, tmp_path / "plain.parquet") > 0
    assert pq.read_metadata(tmp_path / "plain.parquet").num_rows == 2000


def test_a_handler_logs_all_of_it_and_its_cost_is_told(pipeline: ringlog.Pipeline) -> None:
    assert load.log_all(pipeline, 1234) == count(pipeline) == 1234
    cost = load.handler_cost_us(pipeline, 100)
    assert count(pipeline) == 1334
    assert cost["cost"] == cost["enabled"] - cost["disabled"]


def test_latencies_count_from_when_a_submit_was_due(pipeline: ringlog.Pipeline) -> None:
    found = load.at_rate(pipeline, load.submits("arrow", 100, 10, seed=1), each=10, rate=1000, seconds=0.2)
    assert count(pipeline) == 200
    assert found["refused"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"]
    assert len(load.ack_times_ms(pipeline, 3)) == 3
    assert len(load.queryable_times_ms(pipeline, 3)) == 3
    assert count(pipeline) == 206


def test_processes_are_counted_with_what_descends_from_them() -> None:
    held = bytearray(b"x") * 50_000_000
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(processes.descendants(os.getpid()))
        assert child.pid in processes.descendants(child.pid)
        child.communicate(b"\n")
    assert processes.cpu_seconds(os.getpid()) > 0
    assert processes.peak_bytes(os.getpid()) >= processes.resident_bytes(os.getpid()) > len(held)
    peak = processes.peak_bytes(os.getpid())
    del held
    processes.forget_peak(os.getpid())
    assert processes.peak_bytes(os.getpid()) < peak
    assert (processes.cpu_seconds(child.pid), processes.peak_bytes(child.pid)) == (0.0, 0)


def test_figures_are_told_to_people_and_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "acknowledged_per_second": 5000,
        "stored_per_second": 4000,
        "mb_per_second": 1.2,
        "cpu_seconds_per_gb": 9.5,
    }
    figures |= {"cpu_seconds_per_gb_clients": 1.5, "cpu_seconds_per_gb_actors": 7.5, "baseline_per_second": 8000}
    times = {"p50_ms": 1.5, "p99_ms": 2.5, "p999_ms": 3.5}
    step = {"records_per_second": 1000, "acknowledged_per_second": 999, "refused": 0, **times}
    result: dict[str, Any] = {
        "records": 10, "shards": 3, "replicas": 3, "fsync": "group", "clients": 1, "ack": times, "queryable": times,
        "handler_us": {"cost": 1.25}, "sources": {"arrow": {**figures, "peak_mb": {"client": 5, "shard-0": 7}}}, "curve": [step],
    }  # fmt: skip
    tell(result)
    said = capsys.readouterr().out
    assert "1.25 us over a disabled handler" in said
    assert "4,000" in said
    assert headline(result, "arrow") == {
        "source": "arrow", "records_per_second": 4000, "mb_per_second": 1.2, "cpu_seconds_per_gb": 9.5, "ack_p50_ms": 1.5,
        "ack_p99_ms": 2.5, "baseline_records_per_second": 8000,
    }  # fmt: skip
