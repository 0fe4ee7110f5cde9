"""A process of a chaos run that submits, or that reads, and writes down what it asked and what it was told.

`chaos.py` runs `python chaos_client.py submit|read --address GCS --node-ip IP --table URL --history FILE …`.
It ends when its standard input does, so that it never outlives the run.
"""

import argparse
import itertools
import os
import random
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import orjson
import ray
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

import ringlog
from ringlog.replication import Acks

OUTSTANDING = 200
"""How many submits one client has under way: enough that a shard without a leader does not hold up the others."""
PAUSE_S = 0.012
READ_EVERY_S, READ_WITHIN_S = 2.0, 5.0
CONNECT_DEADLINE_S = 90.0
SETTLE_DEADLINE_S = 60.0
TIMEOUTS_S = (1.0, 4.0, 20.0)
STORED_PART = 0.004
"""Of the submits, how many wait until they are in the table: each of them makes a file there."""
SERVICES = (None, *(f"service-{number}" for number in range(9)))

WINDOW_S, SLACK_S = 60.0, 5.0
"""Most reads ask for what is younger than the one; what was submitted up to the other later must then be there."""
WHOLE_EVERY = 20
"""One read in so many asks for everything."""
TABLE_DEADLINES = {"connect_timeout": "3s", "timeout": "5s", "max_retries": "2", "retry_timeout": "10s"}

SEEN = """
WITH seen AS (
    SELECT split_part(body, ' ', 1) client, split_part(body, ' ', 2)::BIGINT number, count(*) times
    FROM logs WHERE timestamp >= to_timestamp($since) GROUP BY ALL
), runs AS (SELECT *, number - row_number() OVER (PARTITION BY client ORDER BY number) run FROM seen)
SELECT client, min(number), max(number) + 1, sum(times) - count(*) FROM runs GROUP BY client, run ORDER BY ALL
"""


class History:
    """Lines that are with the kernel when `write` returns: a SIGKILL of this process loses none of them."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **line: Any) -> None:
        """Append one line."""
        os.write(self._file, orjson.dumps(line) + b"\n")


class Client:
    """Submits all the time: some that wait, some that linger, some until they are in the table."""

    def __init__(self, pipeline: ringlog.Pipeline, table: str, history: History, name: str, seed: int) -> None:
        self._pipeline = pipeline
        self._table = table
        self._history = history
        self._name = name
        self._draw = random.Random(seed)
        self._room = threading.Semaphore(OUTSTANDING)
        self._threads = ThreadPoolExecutor(OUTSTANDING)
        self._next = 0

    def run(self, ended: threading.Event) -> None:
        """Submit until ``ended``; every submit must then be answered."""
        while not ended.wait(self._draw.uniform(0, 2 * PAUSE_S)):
            self._room.acquire()
            self._submit()
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        for _ in range(OUTSTANDING):
            if not self._room.acquire(timeout=max(0.0, deadline - time.monotonic())):
                sys.exit(f"{self._name}: some submits have no answer {SETTLE_DEADLINE_S:g} s after the last")

    def _submit(self) -> None:
        first, count = self._next, self._draw.randint(1, 8)
        self._next += count
        service = self._draw.choice(SERVICES)
        records = [{"body": f"{self._name} {first + number}", "service": service} for number in range(count)]
        linger, stored = self._draw.random() < 0.5, self._draw.random() < STORED_PART
        acks: Acks = "stored" if stored else "quorum"
        timeout_s = self._draw.choice(TIMEOUTS_S)
        self._history.write(op="submit", client=self._name, first=first, count=count, at=time.monotonic_ns())
        future: Future[ringlog.Ack]
        if linger:
            future = self._pipeline.submit_logs(records, wait=False, acks=acks)
        else:
            future = self._threads.submit(self._pipeline.submit_logs, records, acks=acks, timeout_s=timeout_s)
        future.add_done_callback(partial(self._answered, first, stored and not linger))

    def _answered(self, first: int, stored: bool, done: "Future[ringlog.Ack]") -> None:
        at = time.monotonic_ns()
        error = done.exception()
        answer: dict[str, Any]
        if error is None:
            (part,) = done.result().parts
            answer = {"outcome": "acknowledged", "shard": part.shard, "start": part.start}
            if stored:
                answer["stored"] = stored_in(self._table, part.shard)
        elif isinstance(error, ringlog.Overloaded | ringlog.Unavailable):
            answer = {"outcome": "not stored", "error": str(error)}
        elif isinstance(error, ringlog.OutcomeUnknown):
            answer = {"outcome": "unknown", "error": str(error)}
        else:
            answer = {"outcome": "unexpected", "error": repr(error)}
        self._history.write(op="answer", first=first, at=at, **answer)
        self._room.release()


def stored_in(table: str, shard: str) -> int | None:
    """How far the table holds the shard, as any reader of Delta sees it; None while it cannot be read."""
    try:
        return DeltaTable(table, storage_options=TABLE_DEADLINES).transaction_version(shard) or 0
    except (DeltaError, OSError) as error:
        print(f"the table cannot be read: {error}", file=sys.stderr)
        return None


def read(pipeline: ringlog.Pipeline, history: History, ended: threading.Event) -> None:
    """Now and then what is new, and all that there is; what takes long is done less often."""
    took_s = 0.0
    for number in itertools.count():
        if ended.wait(min(max(READ_EVERY_S, took_s), READ_WITHIN_S)):
            return
        whole = number % WHOLE_EVERY == WHOLE_EVERY - 1
        now, begin = time.time(), time.monotonic_ns()
        try:
            result = pipeline.sql(SEEN, {"since": 0.0 if whole else now - WINDOW_S})
            rows = result.fetchall()
        except ringlog.Unavailable as error:
            history.write(op="no read", begin=begin, error=str(error))
            continue
        finally:
            took_s = (time.monotonic_ns() - begin) / 1e9
        since = 0 if whole else begin - int((WINDOW_S - SLACK_S) * 1e9)
        seen: dict[str, list[tuple[int, int]]] = {}
        doubled = 0
        for client, first, end, more in rows:
            seen.setdefault(client, []).append((first, end))
            doubled += int(more)
        history.write(op="read", begin=begin, since=since, missing=result.missing, seen=seen, doubled=doubled)


def connect(deadline: float) -> ringlog.Pipeline:
    """The pipeline; whoever comes while its controller is away waits for it."""
    while True:
        try:
            return ringlog.connect()
        except ringlog.Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["submit", "read"])
    for name in ("--address", "--node-ip", "--table", "--history", "--name"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    ray.init(address=given.address, _node_ip_address=given.node_ip, log_to_driver=False, logging_level="WARNING")
    pipeline = connect(time.monotonic() + CONNECT_DEADLINE_S)
    history = History(given.history)
    if given.role == "submit":
        Client(pipeline, given.table, history, given.name, given.seed).run(ended)
    else:
        read(pipeline, history, ended)
    pipeline.close()


if __name__ == "__main__":
    main()
