"""demo: the main job in one command, on this machine alone."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from deltalake import DeltaTable
from rich.live import Live
from rich.table import Table

import ringlog
from ringlog.actors.cluster import leave_ray
from ringlog.cli import show
from ringlog.cli.write import Tally
from ringlog.client.files import expand, read_records
from ringlog.errors import ConfigurationError, RinglogError

_RECORDS_MAX = 200_000
_FILES_MAX = 20
_MACHINE = ("/var/log/*.log", "/var/log/*/*.log", "/var/log/syslog", "/var/log/messages")
_GENERATED = 20_000

_COUNT = "SELECT count(*), count(DISTINCT (shard, record_offset)) FROM logs"
_BY_SEVERITY = """
SELECT service, count(*) AS records, count(*) FILTER (severity_number >= 17) AS errors,
       min(timestamp) AS first, max(timestamp) AS last
FROM logs GROUP BY service ORDER BY records DESC LIMIT 10
"""


def demo(
    paths: Annotated[list[str] | None, typer.Argument(help="Log files; default: what this machine has.")] = None,
    root: Annotated[str | None, typer.Option(help="Default: a new folder under ~/.ringlog/demo.")] = None,
) -> None:
    """Start a pipeline on this machine, put real logs through it, read them hot and cold, and check every record."""
    batches, what = _source(paths)
    folder = Path.home() / ".ringlog" / "demo" / time.strftime("%Y%m%d-%H%M%S")
    root = root or str(folder / "root")
    _say(f"1. starting Ray and a pipeline of 3 shard actors, 3 copies of everything; root {root}")
    pipeline = ringlog.start(root, journal_dir=str(folder / "journals"), shards=3, replicas=3)
    try:
        _run(pipeline, batches, what)
    finally:
        ringlog.stop()
        leave_ray()
    _say(f"The table stays at {root}/logs: read it with no cluster at all, with any Delta reader, or with")
    _say(f'  ringlog sql --root {root} "SELECT service, count(*) FROM logs GROUP BY ALL"')


def _run(pipeline: ringlog.Pipeline, batches: Iterator[Any], what: str) -> None:
    before = _count(pipeline)
    _say(f"2. submitting {what}; each batch is acknowledged once 2 of 3 journals have it, fsynced")
    sent = _submit(pipeline, batches)
    _say(f"3. reading them back by SQL: {_unarchived(pipeline)} of them are in no file of the table yet")
    hot = pipeline.sql(_BY_SEVERITY)
    show.table(list(hot.columns), hot.fetchall())
    _require(_count(pipeline) - before == sent, "every acknowledged record is visible at once, and once")
    _say("4. archiving: committed batches become Parquet segments in the Delta table")
    pipeline.flush()
    _require(_unarchived(pipeline) == 0, "everything is archived, and the journals are trimmed")
    _require(_count(pipeline) - before == sent, "the same query gives the same records, now from the table")
    _say("5. reading the table as anybody can, without ringlog")
    url = pipeline.status()["root"] + "/logs"
    options = ringlog.Settings(root=pipeline.status()["root"]).storage_options()
    stored = DeltaTable(url, storage_options=options).to_pyarrow_table(columns=["shard", "record_offset"])
    _require(stored.num_rows - before == sent, f"Delta sees {stored.num_rows} records")
    by_shard = stored.group_by("shard").aggregate([("record_offset", "max"), ("record_offset", "count_distinct")])
    dense = all(row["record_offset_max"] + 1 == row["record_offset_count_distinct"] for row in by_shard.to_pylist())
    _require(dense, "in each shard the offsets are dense: nothing lost, nothing doubled")


def _submit(pipeline: ringlog.Pipeline, batches: Iterator[Any]) -> int:
    tally = Tally()
    began = time.monotonic()
    with Live(console=show.console, refresh_per_second=8) as live:
        for batch in batches:
            tally.sent(pipeline.submit_logs(batch, wait=False))
            live.update(_path(tally.accepted, pipeline))
        tally.settle()
        live.update(_path(tally.accepted, pipeline))
    _say(f"\n   {tally.accepted} records acknowledged in {time.monotonic() - began:.2f} s")
    return tally.accepted


def _path(accepted: int, pipeline: ringlog.Pipeline) -> Table:
    """The path of the records, with what stands where now."""
    table = Table(title=f"{accepted} acknowledged", title_justify="left")
    for name in ("shard", "leader (pid)", "epoch", "committed", "in the table", "replica ends"):
        table.add_column(name)
    status = pipeline.status()
    for name, shard in status["shards"].items():
        if shard["leader"]:
            leader = f"{shard['leader']} ({status['actors'][shard['leader']]['pid']})"
            ends = " ".join(str(member["end"]) for member in shard["members"].values())
            table.add_row(name, leader, str(shard["epoch"]), str(shard["committed"]), str(shard["archived"]), ends)
    return table


def _count(pipeline: ringlog.Pipeline) -> int:
    records, positions = pipeline.sql(_COUNT).fetchall()[0]
    _require(records == positions, f"{records} records at as many positions", quiet=True)
    return int(records)


def _unarchived(pipeline: ringlog.Pipeline) -> int:
    """From the leaders themselves; `status` is as old as the controller's last heartbeat."""
    stored = ringlog.table(pipeline.status()["root"], _COUNT).fetchall()[0][0] if _has_table(pipeline) else 0
    return _count(pipeline) - int(stored)


def _has_table(pipeline: ringlog.Pipeline) -> bool:
    root = pipeline.status()["root"]
    options = ringlog.Settings(root=root).storage_options() or None
    return bool(DeltaTable.is_deltatable(f"{root}/logs", options))


def _require(holds: bool, what: str, quiet: bool = False) -> None:
    if not holds:
        raise RinglogError(f"the demo found that this does not hold: {what}")
    if not quiet:
        show.console.print(f"   [green]✓[/green] {what}", highlight=False)


def _say(text: str) -> None:
    show.console.print(text, highlight=False, soft_wrap=True)


def _source(paths: list[str] | None) -> tuple[Iterator[Any], str]:
    """What to submit, and what it is: the files given, else the machine's own logs, else generated ones."""
    if paths:
        return _read(expand(paths)), f"{len(expand(paths))} given files"
    found = []
    for pattern in _MACHINE:
        try:
            found += expand([pattern])
        except ConfigurationError:
            continue  # this machine has none of these
    readable = [path for path in found if _readable(path)][:_FILES_MAX]
    if readable:
        return _read(readable), f"{len(readable)} log files of this machine ({readable[0]}, …)"
    return _generate(), f"{_GENERATED} generated records, because this machine has no log files to read"


def _readable(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def _read(files: list[str]) -> Iterator[Any]:
    taken = 0
    for path in files:
        for block in read_records(path, now_ns=time.time_ns()):
            if block.batch.num_rows and taken < _RECORDS_MAX:
                taken += block.batch.num_rows
                yield block.batch


def _generate() -> Iterator[Any]:
    draw = random.Random(7)
    levels = ["DEBUG"] * 3 + ["INFO"] * 12 + ["WARN"] * 2 + ["ERROR"]
    for first in range(0, _GENERATED, 1_000):
        yield [
            {
                "body": f"step {number} loss {draw.random():.4f} took {draw.randint(5, 90)} ms",
                "severity": draw.choice(levels),
                "service": draw.choice(["train", "serve", "batch"]),
                "step": number,
            }
            for number in range(first, first + 1_000)
        ]


COMMANDS = (demo,)
