"""A corpus for measurements: seeded records that look like a cluster's logs, as Arrow batches and as NDJSON.

16 services, 50 hosts, one line in the style of loghub's templates (Hadoop, HDFS, Spark, ZooKeeper, OpenSSH and others), and two
attributes: ``request_id``, 16 random hex digits, and ``pid``. A record is about 311 bytes of NDJSON. The same seed gives the same records,
and more records begin with the same ones.

>>> [batch.num_rows for batch in batches(70_000)]
[65536, 4464]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ringlog.schema import RECORD_SCHEMA

START_NS = 1_769_846_400_000_000_000
"""The first record's time, in ns: 2026-01-31 08:00:00 UTC. The mean gap is 10 ms, so 5,000,000 records are of one day."""
GAP_NS = 10_000_000
ROWS = 65_536
"""Records in each batch but the last."""

HOSTS = [f"node-{number:02d}" for number in range(50)]
_LEVELS = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17}
# Service, level, how often, and the line. The share of a service is the sum of its lines.
_LINES = """
namenode INFO 60 [IPC Server handler {small} on 9000] hdfs.StateChange: BLOCK* NameSystem.addStoredBlock: blockMap updated: {ip}:50010 is added to blk_{block} size 67108864
namenode INFO 20 [IPC Server handler {small} on 9000] hdfs.StateChange: BLOCK* NameSystem.delete: blk_{block} is added to invalidSet of {ip}:50010
namenode WARN 5 [ReplicationMonitor] hdfs.server.blockmanagement: Not able to place enough replicas, still in need of {small} to reach 3 for blk_{block}
datanode INFO 50 [PacketResponder {small}] hdfs.datanode.DataNode$DataXceiver: Receiving block blk_{block} src: /{ip}:{port} dest: /{ip}:50010
datanode INFO 40 [PacketResponder {small}] hdfs.datanode.DataNode$PacketResponder: Received block blk_{block} of size {size} from /{ip} in {ms} ms
datanode ERROR 3 [DataXceiver for client DFSClient_{count} at /{ip}:{port}] hdfs.datanode: writeBlock blk_{block} received exception java.io.IOException: Connection reset by peer
resourcemanager INFO 45 [RMCommunicator Allocator] mapreduce.rm.RMContainerAllocator: Recalculating schedule, headroom=<memory:{size}, vCores:{small}> after {ms} ms
resourcemanager WARN 10 [LeaseRenewer:{user}@nn-0:9000] hdfs.LeaseRenewer: Failed to renew lease for [DFSClient_NONMAPREDUCE_{count}_1] for {small} seconds. Will retry shortly ...
resourcemanager ERROR 4 [RMCommunicator Allocator] mapreduce.rm.RMContainerAllocator: ERROR IN CONTACTING RM after {small} attempts; last tried {ip}:{port}
nodemanager INFO 40 [AsyncDispatcher event handler] mapreduce.job.TaskAttemptImpl: Progress of TaskAttempt attempt_1445144423722_0020_m_{count}_0 is : 0.{count}
nodemanager WARN 6 [ContainersLauncher #{small}] yarn.server.nodemanager.ContainersMonitorImpl: Container container_1445144423722_{count}_01 uses {size} of {size} bytes of memory
executor INFO 50 [Executor task launch worker-{small}] spark.executor.Executor: Finished task {small}.0 in stage {small}.0 (TID {count}). {size} bytes result sent to driver in {ms} ms
executor INFO 30 [Executor task launch worker-{small}] spark.storage.BlockManager: Found block rdd_{small}_{small} locally; estimated size {size} B
executor DEBUG 30 [Executor task launch worker-{small}] spark.shuffle: Getting {small} non-empty blocks out of {small} blocks, started {small} remote fetches in {ms} ms
driver INFO 35 [dispatcher-event-loop-{small}] spark.scheduler.TaskSetManager: Starting task {small}.0 in stage {small}.0 (TID {count}, {ip}, executor {small}, NODE_LOCAL, {size} bytes)
driver WARN 4 [task-result-getter-{small}] spark.scheduler.TaskSetManager: Lost task {small}.1 in stage {small}.0 (TID {count}, {ip}, executor {small}): FetchFailed, retry in {ms} ms
zookeeper INFO 30 [NIOServerCxn.Factory:0.0.0.0/0.0.0.0:2181] server.ZooKeeperServer: Established session 0x{hex} with negotiated timeout {ms} for client /{ip}:{port}
zookeeper WARN 12 [RecvWorker:{small}] server.quorum.QuorumCnxManager: Connection broken for id {count}, my id = {small}, error = java.io.EOFException from /{ip}:{port}
sshd INFO 30 sshd[{pid}]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={ip} user={user} after {ms} ms [preauth]
sshd WARN 15 sshd[{pid}]: Failed password for invalid user {user} from {ip} port {port} ssh2; reverse mapping checking has failed - POSSIBLE BREAK-IN ATTEMPT!
ingress INFO 80 {ip} - {user} "GET {path}/{count} HTTP/1.1" 200 {size} upstream={ip}:{port} request_time=0.{count} host=api.example.org tls=TLSv1.3
ingress INFO 30 {ip} - {user} "POST {path} HTTP/1.1" 201 {size} upstream={ip}:{port} request_time=0.{count} host=api.example.org tls=TLSv1.3
ingress ERROR 5 {ip} - {user} "GET {path}/{count} HTTP/1.1" 502 {size} upstream={ip}:{port} error="connect() failed (111: Connection refused)" request_time=0.{count}
checkout INFO 50 order {count} of {user} was confirmed by the payment provider in {ms} ms and handed to the warehouse: {small} items, total {price} EUR, standard parcel
checkout ERROR 5 order {count} of {user} could not be confirmed: payment provider answered with a timeout after {ms} ms at /{ip}:{port}; kept for {small} minutes
search DEBUG 40 query planner: rewrote {small} terms, chose index shard {small} at {ip}:{port}, expected {count} hits; not found in the local cache of this worker
search INFO 30 query q_{hex} returned {count} hits of {size} documents in {ms} ms (fetch {ms} ms), served by replica {small}
trainer INFO 40 epoch {small} step {count}: loss=0.{count} grad_norm={price} lr=0.0003 data wait {ms} ms, checkpoint at {path}/step_{count}.safetensors
trainer WARN 4 epoch {small} step {count}: gradient norm {price} is above the limit of 1.0 and was clipped; rank {small} waited {ms} ms for its peers at {ip}
inference INFO 60 request finished: model=llama-8b-instruct prompt_tokens={small} completion_tokens={small} time_to_first_token={ms} ms batch={small} gpu={small}
inference WARN 6 request was preempted: model=llama-8b-instruct, the KV cache has {small} free blocks; it is computed again; waited {ms} ms in the queue of {ip}
scheduler INFO 30 (raylet) worker {pid} on {ip} finished task {hex} in {ms} ms; object store used {size} bytes, {small} tasks are queued, {small} wait for arguments
scheduler ERROR 2 (raylet) worker {pid} on {ip} died unexpectedly while it ran task {hex}: exit code {small}, signal 9; the memory monitor may have killed it
mail INFO 25 postfix/smtp[{pid}]: to=<{user}@example.org>, relay=mx.example.org[{ip}]:25, delay=0.{count}, delays=0.1/0/0.3/0.{small}, dsn=2.0.0, status=sent (250 Ok: queued as {hex})
kernel WARN 10 CE sym {small}, at 0x{hex}, mask 0x{small}: {count} microseconds spent in the rbs signal handler during {small} calls
kernel ERROR 2 generating core.{count}: data TLB error interrupt at 0x{hex}, machine check enable {small}, floating point register {small} unavailable
""".strip().splitlines()
SERVICES = sorted({line.split(" ", 1)[0] for line in _LINES})
_USERS = [f"{first}{last}" for first in ("ana", "ben", "eva", "jon", "kim", "lea", "max", "tim") for last in range(64)]
_PATHS = [f"/{area}/v{version}/{thing}" for area in ("api", "data", "static") for version in (1, 2) for thing in (
    "items", "users", "orders", "search", "blocks", "reports", "models", "sessions",
)]  # fmt: skip
_IPS = [f"10.{251 - number % 4}.{number // 4 % 64}.{number // 64 + 10}" for number in range(4096)]


_Draw = Callable[[np.random.Generator, int], pa.Array]


def batches(count: int, *, seed: int = 1) -> Iterator[pa.RecordBatch]:
    """``count`` records of `RECORD_SCHEMA` in order of arrival, `ROWS` at a time."""
    for number, start in enumerate(range(0, count, ROWS)):
        # A whole batch is drawn and then cut, so that what comes before does not hang on how many were asked for.
        drawn = _batch(np.random.default_rng((seed, number)), START_NS + start * GAP_NS, ROWS)
        yield drawn.slice(0, min(ROWS, count - start))


def ndjson(batch: pa.RecordBatch) -> bytes:
    """The records of ``batch`` as lines of JSON, as a log shipper sends them."""
    lines = pc.binary_join_element_wise(
        '{"timestamp":"', pc.strftime(batch["timestamp"], "%Y-%m-%dT%H:%M:%S"), 'Z","severity":"', batch["severity_text"],
        '","service":"', batch["service"], '","host":"', batch["host"],
        '","body":"', pc.replace_substring(batch["body"], '"', '\\"'), '","attributes":', batch["attributes"], "}\n", "",
    )  # fmt: skip
    return "".join(lines.to_pylist()).encode()


def _batch(draw: np.random.Generator, start_ns: int, count: int) -> pa.RecordBatch:
    weights = np.array([float(line.split(" ", 3)[2]) for line in _LINES])
    which = draw.choice(len(_LINES), count, p=weights / weights.sum())
    by_line = np.argsort(which, kind="stable")
    place = np.empty(count, dtype=np.int64)
    place[by_line] = np.arange(count)
    counts = np.bincount(which, minlength=len(_LINES)).tolist()
    lines = [line.split(" ", 3) for line in _LINES]
    bodies = pa.concat_arrays([_bodies(draw, line[3], number) for line, number in zip(lines, counts, strict=True)])
    # A record arrives a little after it was made, some later than others: its time is nearly, not quite, in order.
    arrived = start_ns + np.sort(draw.integers(0, count * GAP_NS, count)) // 1000 * 1000
    made = arrived - draw.exponential(5e6, count).astype(np.int64) // 1000 * 1000
    columns = {
        "timestamp": _time(made),
        "time_unix_nano": pa.array(made),
        "observed_timestamp": _time(arrived),
        "severity_number": pa.array(np.array([_LEVELS[line[1]] for line in lines], dtype=np.int8)[which]),
        "severity_text": pa.array([line[1] for line in lines]).take(pa.array(which)),
        "body": bodies.take(pa.array(place)),
        "service": pa.array([line[0] for line in lines]).take(pa.array(which)),
        "host": _one_of(HOSTS)(draw, count),
        "attributes": pc.binary_join_element_wise(
            '{"request_id":"', _hex(draw, count), '","pid":', _number(300, 32_768)(draw, count), "}", ""
        ),
        "tenant": pa.repeat("default", count),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in RECORD_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def _bodies(draw: np.random.Generator, line: str, count: int) -> pa.Array:
    """``count`` lines like ``line``, each with values of its own."""
    parts = [
        _VALUES[part[1:-1]](draw, count) if part.startswith("{") else part for part in re.split(r"(\{[a-z]+\})", line)
    ]
    return pc.binary_join_element_wise(pa.repeat("", count), *(part for part in parts if part != ""), "")


def _time(nanos: np.ndarray) -> pa.Array:
    return pa.array(nanos // 1000).cast(pa.timestamp("us", "UTC"))


def _number(low: int, high: int) -> _Draw:
    return lambda draw, count: pa.array(draw.integers(low, high, count)).cast(pa.string())


def _one_of(words: list[str]) -> _Draw:
    return lambda draw, count: pa.array(words).take(pa.array(draw.integers(0, len(words), count)))


def _hex(draw: np.random.Generator, count: int) -> pa.Array:
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)[draw.integers(0, 16, count * 16)]
    offsets = np.arange(0, 16 * (count + 1), 16, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def _millis(draw: np.random.Generator, count: int) -> pa.Array:
    return pa.array(draw.lognormal(4, 1.5, count).astype(np.int64)).cast(pa.string())


_VALUES: dict[str, _Draw] = {
    "small": _number(0, 64),
    "count": _number(1, 100_000),
    "size": _number(1024, 16_777_216),
    "port": _number(32_768, 61_000),
    "pid": _number(300, 32_768),
    "block": _number(10**8, 10**12),
    "price": lambda draw, count: pc.round(pa.array(draw.gamma(2, 30, count)), 2).cast(pa.string()),
    "ms": _millis,
    "hex": _hex,
    "ip": _one_of(_IPS),
    "user": _one_of(_USERS),
    "path": _one_of(_PATHS),
}
