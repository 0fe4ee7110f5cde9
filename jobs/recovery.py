"""How long a pipeline takes to come back after all of its processes were killed while its journals were full.

`python recovery.py --gib 1 --json`. It starts a Ray cluster of its own on loopback, submits until the journals hold
that much, kills every process under load, and measures `ringlog up` and the way of everything into the table. Exit code
0 only when every acknowledged record is there once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from deltalake import DeltaTable

import ringlog
from own_cluster import HEAD_IP, OwnCluster, peak_bytes

PORT = 6421
GIB = 1024**3
ROWS = 5000
OUTSTANDING = 16
POLL_S = 0.1
FILL_DEADLINE_S = 300.0
UP_DEADLINE_S = 180.0
ARCHIVE_DEADLINE_S = 400.0
SERVICES = [f"service-{number}" for number in range(16)]
NEVER = {"RINGLOG_FLUSH_BYTES": str(64 * GIB), "RINGLOG_FLUSH_AGE_S": "1e6"}


def join() -> ringlog.Pipeline:
    """The pipeline of the cluster of this process's environment."""
    ray.init(address=os.environ["RAY_ADDRESS"], _node_ip_address=HEAD_IP, log_to_driver=False, logging_level="ERROR")
    return ringlog.connect()


def fill() -> None:
    """Submit until killed; every line says how many records have been acknowledged."""
    pipeline = join()
    draw = np.random.default_rng(1)
    words = np.array([f"{word:06x}" for word in draw.integers(0, 16**6, 4000)])
    under_way: deque[Future[ringlog.Ack]] = deque()
    acknowledged = number = 0
    while True:
        parts = [pa.array(words[draw.integers(0, len(words), ROWS)]) for _ in range(20)]
        numbers = pa.array(np.arange(number, number + ROWS)).cast(pa.string())
        bodies = pc.binary_join_element_wise(numbers, *parts, " ")
        services = pa.array(np.array(SERVICES)[draw.integers(0, len(SERVICES), ROWS)])
        under_way.append(pipeline.submit_logs(pa.table({"body": bodies, "service": services}), wait=False))
        number += ROWS
        while len(under_way) > OUTSTANDING or (under_way and under_way[0].done()):
            acknowledged += under_way.popleft().result().records
            print(acknowledged, flush=True)


def archive() -> None:
    """Wait until the table has everything, and say what the shard actors needed for it."""
    pipeline = join()
    pipeline.flush(ARCHIVE_DEADLINE_S)
    pids = [actor["pid"] for actor in pipeline.status()["actors"].values()]
    print(json.dumps({"actor_peak_bytes": peak_bytes(pids)}))


def journal_bytes(folder: Path) -> int:
    """What the entry files hold, every copy counted."""
    return sum(path.stat().st_size for path in folder.rglob("*.arrows"))


def measure(folder: Path, size: int, shard_buffer_bytes: int) -> dict[str, Any]:
    """Fill, kill, start again, archive; the figures."""
    root, journals = folder / "root", folder / "journals"
    script = Path(__file__)
    up = ("up", "--root", str(root), "--journal-dir", str(journals))
    buffers = {"RINGLOG_SHARD_BUFFER_BYTES_MAX": str(shard_buffer_bytes)}
    with OwnCluster(PORT, variables={**buffers, **NEVER}) as cluster:
        cluster.start()
        began = cluster.ringlog(*up, timeout_s=UP_DEADLINE_S)
        assert began.returncode == 0, began.stderr
        with (folder / "acknowledged").open("wb") as out, (folder / "client.err").open("wb") as errors:
            client = cluster.begin(sys.executable, script, "fill", stdout=out, stderr=errors)
            deadline = time.monotonic() + FILL_DEADLINE_S
            while journal_bytes(journals) < size:
                if client.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the journals do not fill: {(folder / 'client.err').read_text()[-2000:]}")
                time.sleep(POLL_S)
            cluster.kill(client)
    acknowledged = int((folder / "acknowledged").read_text().split("\n")[-2])
    on_disk = journal_bytes(journals)
    with OwnCluster(PORT, variables=buffers) as cluster:
        begun = time.monotonic()
        cluster.start()
        ray_s = time.monotonic() - begun
        again = cluster.ringlog(*up, timeout_s=UP_DEADLINE_S)
        led_s = time.monotonic() - begun - ray_s
        print(again.stdout + again.stderr, file=sys.stderr)
        assert again.returncode == 0
        done = cluster.run(sys.executable, script, "archive", timeout_s=ARCHIVE_DEADLINE_S)
        assert done.returncode == 0, done.stderr
        archived_s = time.monotonic() - begun - ray_s
        told = json.loads(done.stdout)
    return {
        "journal_bytes": on_disk,
        "acknowledged": acknowledged,
        **told,
        "ray_s": ray_s,
        "led_s": led_s,
        "archived_s": archived_s,
        "journal_mb_per_second": on_disk / archived_s / 1e6,
        **checked(str(root / "logs"), acknowledged),
    }


def checked(table: str, acknowledged: int) -> dict[str, int]:
    """What is wrong with the table: every number up to the last that was acknowledged must be there, and none twice."""
    rows = DeltaTable(table).to_pyarrow_table(columns=["body", "shard", "record_offset"])
    numbers = pc.cast(pc.list_element(pc.split_pattern(rows["body"], " ", max_splits=1), 0), pa.int64())
    distinct = pc.count_distinct(numbers).as_py()
    positions = rows.group_by("shard").aggregate([("record_offset", "max"), ("record_offset", "count_distinct")])
    holes = sum(row["record_offset_max"] + 1 - row["record_offset_count_distinct"] for row in positions.to_pylist())
    lost = acknowledged - pc.sum(pc.less(pc.unique(numbers), acknowledged)).as_py()
    return {"stored": rows.num_rows, "lost": lost, "doubled": rows.num_rows - distinct, "holes": holes}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["measure", "fill", "archive"], default="measure")
    parser.add_argument("--gib", type=float, default=1.0, help="what the journals hold, every copy counted")
    parser.add_argument("--folder", type=Path, help="keep the root and the journals there")
    parser.add_argument("--json", action="store_true", help="the last line is one object")
    given = parser.parse_args()
    if given.role != "measure":
        {"fill": fill, "archive": archive}[given.role]()
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ringlog-recovery-"))
    folder.mkdir(parents=True, exist_ok=True)
    size = int(given.gib * GIB)
    told = measure(folder, size, shard_buffer_bytes=size)
    print(json.dumps(told) if given.json else json.dumps(told, indent=2))
    if not given.folder:
        shutil.rmtree(folder)
    sys.exit(any(told[name] for name in ("lost", "doubled", "holes")))


if __name__ == "__main__":
    main()
