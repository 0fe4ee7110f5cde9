"""Measure more than one pipeline: every combination of what is asked for, each in a Ray of its own; or an overload.

    python jobs/bench.py --shards 1,2,4,8 --replicas 1 --json
    python jobs/bench.py --replicas 1,3,5 --fsync group,never --batch 1000,5000 --clients 1,2 --json
    python jobs/bench.py --overload --seconds 120 --json
    python jobs/bench.py --convert

Each combination is a run of `ringlog bench`. An overload submits twice what the pipeline can archive, at fixed times,
and then checks: every process stayed within the memory that its settings allow, every acknowledged record is in the
table once, whoever was not served was told so, and how long it takes until acknowledgements are as fast as before.
``--convert`` starts nothing: it tells what the first step costs, from what is submitted to one checked batch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.json

import ringlog
from ringlog.cli.bench import headline, load, processes, tell
from ringlog.cli.bench.run import FLUSH_DEADLINE_S, Own, Plan, measure, own_pipeline
from ringlog.records import to_record_batch

_ROWS = 1000
_CONVERTED = 5000
_CALLERS = 8
_LATE_S = 1.0
_TIMEOUTS_S = (0.5, 10.0)  # some callers are patient, some are not
_CALM_ACKS = 10
_CALM_WITHIN_S = 120.0
_OUTCOMES = ("acknowledged", "refused", "held_back", "unknown", "unavailable")
_HOST = "submit-"
_WRONG_MAX = 20
_OTHERS_BYTES = 256 * 1024 * 1024


def main() -> int:
    """Run what is asked for; exit code 1 when an overload broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--source", default=",".join(load.SOURCES))
    for name, default in (("shards", "3"), ("replicas", "3"), ("batch", "5000"), ("clients", "1")):
        parser.add_argument(f"--{name}", type=_numbers, default=_numbers(default), help="one, or several with commas")
    parser.add_argument("--fsync", default="group", help="group, interval, never: one, or several with commas")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--acks", type=int, default=500)
    parser.add_argument("--curve", type=float, default=0.0, help="seconds at each of seven fixed rates")
    parser.add_argument("--vs", action="store_true", help="also plain pyarrow")
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the overload")
    parser.add_argument("--folder", help="on which disk")
    parser.add_argument("--json", action="store_true", help="one JSON object for each run")
    parser.add_argument("--convert", action="store_true", help="CPU time of records on their way into a batch")
    given = parser.parse_args()
    if given.convert:
        for name, cost in conversion_us().items():
            print(f"{name:26} {cost:.2f} us of CPU a record")
        return 0
    if given.overload:
        with tempfile.TemporaryDirectory(prefix="ringlog-bench-", dir=given.folder) as folder:
            found = overload(Path(folder), given.records, given.seconds)
        for name, value in found.items():
            print(f"{name:26} {value}")
        if given.json:
            print(orjson.dumps(found).decode())
        return 1 if found["broken"] else 0
    sources = tuple(given.source.split(","))
    same = Plan(
        given.records, sources=sources, runs=given.runs, acks=given.acks, curve_s=given.curve, baseline=given.vs
    )
    asked = product(given.shards, given.replicas, given.fsync.split(","), given.batch, given.clients)
    for shards, replicas, fsync, batch, clients in asked:
        plan = replace(same, shards=shards, replicas=replicas, fsync=fsync, batch=batch, clients=clients)
        with tempfile.TemporaryDirectory(prefix="ringlog-bench-", dir=given.folder) as folder:
            result = measure(plan, Path(folder), lambda what: print(f"measuring: {what}", file=sys.stderr))
        tell(result)
        if given.json:
            print(orjson.dumps({**headline(result, sources[0]), **result}).decode())
    return 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def conversion_us() -> dict[str, float]:
    """CPU microseconds a record, the least of several runs, of 5,000 records of the corpus in each form."""
    found = {}
    for source in ("arrow", "ndjson", "dicts"):
        (made,) = load.submits(source, _CONVERTED, _CONVERTED, seed=1)
        found[source] = _least_us(lambda made=made: to_record_batch(made, observed_ns=7))  # type: ignore[misc]
    (lines,) = load.submits("ndjson", _CONVERTED, _CONVERTED, seed=1)
    found["(pyarrow.json alone)"] = _least_us(lambda: pyarrow.json.read_json(pa.py_buffer(lines)))
    return found


def _least_us(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(30):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken) / _CONVERTED * 1e6


def overload(folder: Path, records: int, seconds: float) -> dict[str, Any]:
    """Twice the capacity for ``seconds``; what happened, and which promises were broken."""
    settings = ringlog.Settings()
    with own_pipeline(folder) as own:
        capacity = _capacity(own, records)
        usual_ms = load.percentiles(load.ack_times_ms(own.pipeline, 300))
        made = load.submits("arrow", 200_000, _ROWS, seed=3)
        pids = _named(own)
        base = {name: processes.resident_bytes(pid) for name, pid in pids.items()}
        for pid in pids.values():
            processes.forget_peak(pid)
        bounds = {name: size + _allowance(name, settings) for name, size in base.items()}
        told, outcomes, taken = _push(own, made, 2 * capacity, seconds)
        calm_s = _until_calm(own, 3 * usual_ms["p99_ms"])
        own.pipeline.flush_client(FLUSH_DEADLINE_S)
        peaks = {name: processes.peak_bytes(pid) for name, pid in pids.items()}
        own.pipeline.flush(FLUSH_DEADLINE_S)
        unknown_stored, wrong = _compared(own, told)
        dense = _dense(own)
    broken = [f"{name} took {peaks[name]} bytes" for name in peaks if peaks[name] > bounds[name]]
    broken += wrong
    if not dense:
        broken.append("the offsets of a shard have a gap, or one stands there twice")
    return {
        "capacity_per_second": round(capacity),
        "due_per_second": round(2 * capacity),
        "seconds": seconds,
        "records": {name: outcomes[name] for name in _OUTCOMES},
        "submits_compared": len(told),
        "unknown_stored": unknown_stored,
        "latency": load.percentiles(taken),
        "usual": usual_ms,
        "back_to_normal_s": calm_s,
        "peak_mb": {name: round(peak / 1e6) for name, peak in peaks.items()},
        "bound_mb": {name: round(bound / 1e6) for name, bound in bounds.items()},
        "broken": broken,
    }


def _capacity(own: Own, records: int) -> float:
    """Records a second that the pipeline takes and archives."""
    load.submit_all(own.pipeline, load.submits("arrow", 50_000, _ROWS, seed=99))
    own.pipeline.flush(FLUSH_DEADLINE_S)
    made = load.submits("arrow", records, _ROWS, seed=1)
    began = time.perf_counter()
    load.submit_all(own.pipeline, made)
    own.pipeline.flush(FLUSH_DEADLINE_S)
    return records / (time.perf_counter() - began)


def _named(own: Own) -> dict[str, int]:
    """Every process of the run: the client, the shard actors, and the others by number."""
    found = {"client": os.getpid(), **own.actors()}
    others = [pid for pid in processes.descendants(os.getpid()) if pid not in found.values()]
    return {**found, **{f"other {pid}": pid for pid in others}}


def _allowance(name: str, settings: ringlog.Settings) -> int:
    """What a process may take beyond what it had: a client holds its buffer as given, packed, and on its way; a shard
    actor holds what is not archived, the same while it is archived, and what it keeps of its siblings' shards."""
    if name == "client":
        return 3 * settings.client_buffer_bytes_max
    if name.startswith("other "):
        return _OTHERS_BYTES
    return (settings.replicas + 1) * settings.shard_buffer_bytes_max


Told = dict[int, ringlog.Ack | None]
"""Of each submit that was taken on, by its number: where it stands, or that nobody can say, or not all of it does."""


def _push(own: Own, made: list[Any], rate: float, seconds: float) -> tuple[Told, Counter[str], list[float]]:
    """Submit at fixed times from several threads. One that is held up for long leaves out what is overdue.

    What was said of each, how many records had which outcome, and the latencies; all go on changing until the client
    is flushed. Every submit has its number as the host of its records.
    """
    told: Told = {}
    outcomes: Counter[str] = Counter()
    taken: list[float] = []
    lock = threading.Lock()
    begin = time.perf_counter()

    def settle(number: int, due: float, done: Future[ringlog.Ack]) -> None:
        error = done.exception()
        with lock:
            told[number] = done.result() if error is None else None
            outcomes[_outcome(error)] += _ROWS
            if error is None:
                taken.append((time.perf_counter() - due) * 1e3)

    def call(first: int) -> None:
        patience_s = _TIMEOUTS_S[first % len(_TIMEOUTS_S)]
        for number in range(first, int(rate * seconds / _ROWS), _CALLERS):
            due = begin + number * _ROWS / rate
            now = time.perf_counter()
            if now > due + _LATE_S:
                with lock:
                    outcomes["held_back"] += _ROWS
                continue
            time.sleep(max(0.0, due - now))
            try:
                batch = _hosted(made[number % len(made)], number)
                sent = own.pipeline.submit_logs(batch, wait=False, timeout_s=patience_s)
            except ringlog.RinglogError as error:
                with lock:
                    outcomes[_outcome(error)] += _ROWS
            else:
                sent.add_done_callback(partial(settle, number, due))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(_CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return told, outcomes, taken


def _hosted(batch: pa.RecordBatch, number: int) -> pa.RecordBatch:
    at = batch.schema.get_field_index("host")
    return batch.set_column(at, batch.schema.field(at), pa.repeat(pa.scalar(_HOST + str(number)), batch.num_rows))


def _compared(own: Own, told: Told) -> tuple[int, list[str]]:
    """How many records of unknown outcome are stored; and every submit that is not where it was said to be, once."""
    query = f"""
        SELECT host[{len(_HOST) + 1}:]::BIGINT AS submit, shard, count(*), count(DISTINCT body || attributes),
               list(record_offset ORDER BY record_offset)
        FROM logs WHERE starts_with(host, '{_HOST}') GROUP BY ALL
    """
    found: defaultdict[int, dict[str, list[int]]] = defaultdict(dict)
    twice = set()
    for number, shard, count, distinct, offsets in own.pipeline.sql(query).fetchall():
        found[number][shard] = offsets
        if distinct != count:
            twice.add(number)
    wrong = [f"submit {number} is stored twice" for number in twice]
    wrong += [f"submit {number} is stored, and was never taken on" for number in found.keys() - told.keys()]
    unknown = 0
    for number, ack in told.items():
        if ack is None:
            unknown += sum(map(len, found[number].values()))
            continue
        expected: defaultdict[str, list[int]] = defaultdict(list)
        for part in sorted(ack.parts, key=lambda part: part.start):
            expected[part.shard].extend(range(part.start, part.end))
        if expected != found[number]:
            wrong.append(f"submit {number} was acknowledged and is not what the table has")
    return unknown, wrong[:_WRONG_MAX]


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "acknowledged"
    kinds = {ringlog.Overloaded: "refused", ringlog.OutcomeUnknown: "unknown", ringlog.Unavailable: "unavailable"}
    found = next((name for kind, name in kinds.items() if isinstance(error, kind)), None)
    if found is None:
        raise error
    return found


def _until_calm(own: Own, usual_ms: float) -> float:
    """Seconds until acknowledgements are as fast as before."""
    began = time.perf_counter()
    taken: list[float] = []
    while len(taken) < _CALM_ACKS or statistics.median(taken[-_CALM_ACKS:]) > usual_ms:
        if time.perf_counter() - began > _CALM_WITHIN_S:
            return float("inf")
        taken += load.ack_times_ms(own.pipeline, 1)
    return round(time.perf_counter() - began, 2)


def _dense(own: Own) -> bool:
    """Whether each shard's offsets are 0, 1, 2, …, each once."""
    query = "SELECT count(*), count(DISTINCT record_offset), max(record_offset) + 1 FROM logs GROUP BY shard"
    return all(count == distinct == end for count, distinct, end in own.pipeline.sql(query).fetchall())


if __name__ == "__main__":
    sys.exit(main())
