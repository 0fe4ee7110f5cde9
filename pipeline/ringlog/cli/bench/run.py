"""One pipeline of its own on this machine, and what is measured of it."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ringlog
from ringlog.actors.cluster import begin_ray, leave_ray
from ringlog.cli.bench import corpus, load, processes
from ringlog.errors import CorruptionError, Unavailable

FLUSH_DEADLINE_S = 300.0
CURVE = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.2)
"""Parts of the highest rate at which latencies are measured."""
BENDS_MS = 50.0
_CURVE_ROWS = 1000
_CLIENT_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Plan:
    """What is measured: ``records`` by each of ``sources``, ``batch`` at a time, from ``clients`` processes.

    ``shards``: as many as ``replicas`` where those are more. ``curve_s``: seconds at each of the rates of `CURVE`; 0
    for none.
    """

    records: int = 1_000_000
    batch: int = 5_000
    sources: tuple[str, ...] = load.SOURCES
    shards: int = 3
    replicas: int = 3
    fsync: str = "group"
    clients: int = 1
    runs: int = 1
    acks: int = 500
    curve_s: float = 0.0
    baseline: bool = False


@dataclass(frozen=True)
class Own:
    """A pipeline and the Ray that it has to itself."""

    pipeline: ringlog.Pipeline
    address: str

    def actors(self) -> dict[str, int]:
        """The pid of each shard actor."""
        found = self.pipeline.status()["actors"]
        return {name: one["pid"] for name, one in found.items() if "pid" in one}


@contextlib.contextmanager
def own_pipeline(folder: Path, **settings: Any) -> Iterator[Own]:
    """A pipeline in a Ray of its own on loopback; both end with the block."""
    address = begin_ray()
    try:
        chosen = {"journal_dir": str(folder / "journals"), **settings}
        own = Own(ringlog.start(str(folder / "root"), **chosen), address)
        try:
            yield own
        finally:
            ringlog.stop()
    finally:
        leave_ray()


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that ``plan`` asks for, as plain values."""
    shards = max(plan.shards, plan.replicas)
    with own_pipeline(folder, shards=shards, replicas=plan.replicas, fsync=plan.fsync) as own:
        load.submit_all(own.pipeline, load.submits("arrow", 50_000, plan.batch, seed=99))  # connections, first pages
        own.pipeline.flush(FLUSH_DEADLINE_S)
        before = _count(own)
        sources: dict[str, Any] = {}
        for source in plan.sources:
            say(f"{plan.records} records as {source}")
            found = []
            for run in range(plan.runs):
                found.append(_throughput(own, plan, source, run, folder))
                before += found[-1]["records"]
                if _count(own) != before:
                    raise CorruptionError(f"{_count(own)} records are there where {before} were acknowledged")
            sources[source] = {**_medians(found), "runs": [one["stored_per_second"] for one in found]}
        say("acknowledgements")
        acks = load.percentiles(load.ack_times_ms(own.pipeline, plan.acks)) if plan.acks else {}
        result: dict[str, Any] = {
            "records": plan.records, "batch": plan.batch, "replicas": plan.replicas, "shards": shards,
            "fsync": plan.fsync, "clients": plan.clients, "record_bytes": round(record_bytes()), "sources": sources,
            "ack": acks,
        }  # fmt: skip
        if plan.acks:
            result["queryable"] = load.percentiles(load.queryable_times_ms(own.pipeline, 50))
            result["handler_us"] = load.handler_cost_us(own.pipeline, 20_000)
            own.pipeline.flush(FLUSH_DEADLINE_S)
        if plan.curve_s:
            say("latencies at fixed rates")
            result["curve"] = list(_curve(own, sources[plan.sources[0]]["acknowledged_per_second"], plan.curve_s))
            calm = [one["records_per_second"] for one in result["curve"] if _is_calm(one)]
            result["bends_above"] = max(calm, default=0)
    return result


def record_bytes() -> float:
    """The mean size of a record as a line of JSON."""
    batch = next(corpus.batches(corpus.ROWS))
    return len(corpus.ndjson(batch)) / int(batch.num_rows)


def _is_calm(step: dict[str, Any]) -> bool:
    kept_up = step["acknowledged_per_second"] > 0.95 * step["records_per_second"]
    return bool(not step["refused"] and kept_up and step.get("p99_ms", math.inf) <= BENDS_MS)


def _count(own: Own) -> int:
    ((count,),) = own.pipeline.sql("SELECT count(*) FROM logs").fetchall()
    return int(count)


def _throughput(own: Own, plan: Plan, source: str, run: int, folder: Path) -> dict[str, Any]:
    """One run: until everything is acknowledged, and until everything is in the table.

    CPU time is that of this process and all that descend from it: clients, shard actors, controller, router,
    housekeeper, and Ray's own.
    """
    with _Clients(own, plan, source, run) as clients:
        every = processes.descendants(os.getpid())
        for pid in every:
            processes.forget_peak(pid)
        used = {pid: processes.cpu_seconds(pid) for pid in every}
        began = time.perf_counter()
        records = clients.submit()
        acknowledged_s = time.perf_counter() - began
        own.pipeline.flush(FLUSH_DEADLINE_S)
        stored_s = time.perf_counter() - began
        cpu_s = {pid: processes.cpu_seconds(pid) - before for pid, before in used.items()}
        actors = own.actors()
        peaks = {name: processes.peak_bytes(pid) for name, pid in {"client": os.getpid(), **actors}.items()}
        plain_s = load.plain_parquet(clients.made, folder / "plain.parquet") if plan.baseline and clients.made else 0.0
    size = records * record_bytes()
    return {
        "records": records,
        "acknowledged_per_second": round(records / acknowledged_s),
        "stored_per_second": round(records / stored_s),
        "mb_per_second": round(size / stored_s / 1e6, 1),
        "cpu_seconds_per_gb": round(sum(cpu_s.values()) / size * 1e9, 1),
        "cpu_seconds_per_gb_clients": round(sum(cpu_s[pid] for pid in cpu_s if pid in clients.pids) / size * 1e9, 1),
        "cpu_seconds_per_gb_actors": round(sum(cpu_s.get(pid, 0.0) for pid in actors.values()) / size * 1e9, 1),
        "peak_mb": {name: round(peak / 1e6) for name, peak in peaks.items()},
        **({"baseline_per_second": round(records / plain_s)} if plain_s else {}),
    }


class _Clients:
    """Who submits: this process, or several others that have joined the same Ray."""

    def __init__(self, own: Own, plan: Plan, source: str, run: int) -> None:
        self._own, self._plan, self._source = own, plan, source
        self.made: list[Any] = []
        self._others: list[subprocess.Popen[str]] = []
        self._seed = 1 + run * plan.clients

    @property
    def pids(self) -> set[int]:
        """Their processes."""
        return {other.pid for other in self._others} or {os.getpid()}

    def __enter__(self) -> _Clients:
        plan = self._plan
        if self._source == "handler":
            return self
        if plan.clients == 1:
            self.made = load.submits(self._source, plan.records, plan.batch, self._seed)
            return self
        for number in range(plan.clients):
            asked = map(str, (plan.records // plan.clients, plan.batch, self._seed + number))
            self._others.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ringlog.cli.bench.client", self._source, *asked],
                    env={**os.environ, "RAY_ADDRESS": self._own.address},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for other in self._others:
            self._read(other, "ready")
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            if other.poll() is None:
                other.kill()
            other.communicate()

    def submit(self) -> int:
        """All of it; how many records were acknowledged."""
        if self._source == "handler":
            return load.log_all(self._own.pipeline, self._plan.records)
        if not self._others:
            return load.submit_all(self._own.pipeline, self.made)
        for other in self._others:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        return sum(int(self._read(other)) for other in self._others)

    def _read(self, other: subprocess.Popen[str], expected: str | None = None) -> str:
        assert other.stdout is not None
        line = other.stdout.readline().strip()
        if not line or (expected is not None and line != expected):
            raise Unavailable(f"a client of the run ended early, with exit code {other.wait(_CLIENT_DEADLINE_S)}")
        return line


def _medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure, and the peaks of the run with the highest."""
    names = [name for name, value in found[0].items() if isinstance(value, int | float) and name != "records"]
    highest = max(found, key=lambda one: max(one["peak_mb"].values()))
    return {**{name: statistics.median(one[name] for one in found) for name in names}, "peak_mb": highest["peak_mb"]}


def _curve(own: Own, highest: float, seconds: float) -> Iterator[dict[str, Any]]:
    for part in CURVE:
        rate = part * highest
        rows = max(1, min(_CURVE_ROWS, int(rate / 100)))  # a hundred submits a second, or more
        made = load.submits("arrow", 100 * rows, rows, seed=5)
        yield load.at_rate(own.pipeline, made, rows, rate, seconds)
        own.pipeline.flush(FLUSH_DEADLINE_S)
