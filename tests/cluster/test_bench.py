"""`ringlog bench`, small and whole, in the Ray of its own that it always has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster


def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    arguments = [
        "--records",
        "4000",
        "--batch",
        "500",
        "--acks",
        "20",
        "--clients",
        "2",
        "--curve",
        "0.2",
        "--vs",
        "--json",
    ]
    done = subprocess.run(
        [Path(sys.executable).parent / "ringlog", "bench", *arguments, "--folder", str(tmp_path)],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["sources"]) == {"arrow", "ndjson", "dicts", "handler"}
    for figures in told["sources"].values():
        assert 0 < figures["stored_per_second"] <= figures["acknowledged_per_second"]
        assert 0 < figures["cpu_seconds_per_gb_actors"] < figures["cpu_seconds_per_gb"]
        assert set(figures["peak_mb"]) == {"client", "shard-0", "shard-1", "shard-2"}
        assert min(figures["peak_mb"].values()) > 0
    assert told["records_per_second"] == told["sources"]["arrow"]["stored_per_second"]
    assert 0 < told["ack_p50_ms"] <= told["ack_p99_ms"]
    assert len(told["curve"]) == 7
    assert os.listdir(tmp_path) == [], "nothing of it stays"


def test_an_overload_loses_nothing_and_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    job = Path(__file__).resolve().parents[2] / "jobs" / "bench.py"
    arguments = ["--overload", "--records", "20000", "--seconds", "3", "--json", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(job), *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["broken"] == []
    assert told["records"]["acknowledged"] > 0
    assert told["peak_mb"].keys() == told["bound_mb"].keys() > {"client", "shard-0", "shard-1", "shard-2"}
