"""bench: what a pipeline of its own does on this machine, beside plain pyarrow."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ringlog.cli import show
from ringlog.cli.bench.load import SOURCES
from ringlog.cli.bench.run import Plan, measure
from ringlog.errors import ConfigurationError

_WIDTH = 40


def bench(
    records: Annotated[int, typer.Option(help="Records of each run.")] = 1_000_000,
    batch: Annotated[int, typer.Option(help="Records of one submit.")] = 5_000,
    source: Annotated[str, typer.Option(help="Comma-separated: arrow, ndjson, dicts, handler.")] = ",".join(SOURCES),
    shards: Annotated[int, typer.Option(help="Shards; as many as copies where those are more.")] = 3,
    replicas: Annotated[int, typer.Option(help="Copies of everything.")] = 3,
    fsync: Annotated[str, typer.Option(help="group, interval or never.")] = "group",
    clients: Annotated[int, typer.Option(help="Client processes.")] = 1,
    runs: Annotated[int, typer.Option(help="Runs of each source; medians count.")] = 1,
    acks: Annotated[int, typer.Option(help="Single acknowledgements that are timed.")] = 500,
    curve: Annotated[float, typer.Option(help="Also latencies at fixed rates: seconds at each of seven.")] = 0.0,
    vs: Annotated[bool, typer.Option("--vs", help="Also plain pyarrow, writing the same to one Parquet file.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="On which disk; a new folder in it. Default: the system's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Measure a pipeline of its own on this machine: seeded records of 311 bytes, everything archived at the end.

    CPU seconds are those of all processes: clients, actors, Ray. The yardstick is one process that writes the same
    submits with pyarrow: no copies, no acknowledgements, no index.
    """
    sources = tuple(source.split(","))
    if unknown := set(sources) - set(SOURCES):
        raise ConfigurationError(f"no source is called {sorted(unknown)[0]!r}: one of {', '.join(SOURCES)}")
    plan = Plan(records, batch, sources, shards, replicas, fsync, clients, runs, acks, curve, vs)
    with tempfile.TemporaryDirectory(prefix="ringlog-bench-", dir=folder) as made:
        result = measure(plan, Path(made), lambda what: show.errors.print(f"measuring: {what}", highlight=False))
    result["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    tell(result)
    if json:
        show.json_line({**headline(result, sources[0]), **result})


def headline(result: dict[str, Any], source: str) -> dict[str, Any]:
    """The figures that are compared from run to run: those of ``source``."""
    figures = result["sources"][source]
    return {
        "source": source,
        "records_per_second": figures["stored_per_second"],
        "mb_per_second": figures["mb_per_second"],
        "cpu_seconds_per_gb": figures["cpu_seconds_per_gb"],
        "ack_p50_ms": result["ack"].get("p50_ms"),
        "ack_p99_ms": result["ack"].get("p99_ms"),
        "baseline_records_per_second": figures.get("baseline_per_second"),
    }


def tell(result: dict[str, Any]) -> None:
    """The figures as tables, and the latencies as a plot of plain text."""
    rows = []
    for name, one in result["sources"].items():
        peaks = one["peak_mb"]
        actors = max(peak for who, peak in peaks.items() if who != "client")
        rows.append(
            (
                name, f"{one['stored_per_second']:,}", f"{one['acknowledged_per_second']:,}", one["mb_per_second"],
                one["cpu_seconds_per_gb"], one["cpu_seconds_per_gb_clients"], one["cpu_seconds_per_gb_actors"],
                peaks["client"], actors, f"{one['baseline_per_second']:,}" if "baseline_per_second" in one else "",
            )
        )  # fmt: skip
    columns = [
        "source", "records/s archived", "acknowledged", "MB/s", "CPU s/GB", "clients", "shard actors", "peak MB client",
        "largest actor", "plain pyarrow",
    ]  # fmt: skip
    what = f"{result['records']:,} records, {result['shards']} shards, {result['replicas']} copies"
    show.table(columns, rows, f"{what}, fsync {result['fsync']}, clients: {result['clients']}")
    if result["ack"]:
        show.table(
            ["", "p50 ms", "p99 ms", "p99.9 ms"],
            [
                (name, *result[key].values())
                for name, key in (("one ack", "ack"), ("until sql() gives it", "queryable"))
            ],
        )
        cost = result["handler_us"]
        show.console.print(f"one call of a LogHandler: {cost['cost']:.2f} us over a disabled handler, median")
    if "curve" in result:
        steps = [(f"{one['records_per_second']:,}", f"{one['acknowledged_per_second']:,}", one["refused"],
                 one.get("p50_ms"), one.get("p99_ms"), one.get("p999_ms"), _bar(one.get("p99_ms", 0.0)))
                for one in result["curve"]]  # fmt: skip
        show.table(
            ["records/s due", "acknowledged/s", "refused", "p50 ms", "p99 ms", "p99.9 ms", "p99, 10 ms each"], steps
        )


def _bar(milliseconds: float) -> str:
    """
    >>> _bar(32.0), _bar(1e6)[-1]
    ('███', '…')
    """
    length = round(milliseconds / 10)
    return "█" * length if length <= _WIDTH else "█" * _WIDTH + "…"


COMMANDS = (bench,)
