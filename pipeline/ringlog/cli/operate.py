"""up, down: a pipeline on the Ray cluster that is there, or on a local one that stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

import ringlog
from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.cli.recover import explanation
from ringlog.errors import ConfigurationError, Unavailable


def up(
    root: Annotated[str | None, typer.Option(help="A local folder or s3://bucket/prefix.")] = None,
    shards: Annotated[int | None, typer.Option(help="Shard actors; fixed once the root is in use.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each batch that is not archived yet.")] = None,
    journal_dir: Annotated[str | None, typer.Option(help="Local folder of the journals, on every node.")] = None,
) -> None:
    """Start the pipeline in the Ray cluster that is there; where there is none, start a local one that stays.

    On a root that was used before, it goes on with what the journals hold, and says how much that is. Exit code 0 when
    every shard can be written.
    """
    given = {"shards": shards, "replicas": replicas, "journal_dir": journal_dir}
    try:
        cluster.join_ray(start_local=False)
    except Unavailable:
        _start_ray()
        cluster.join_ray(start_local=False)
    running = _running()
    try:
        pipeline = ringlog.start(root, **{name: value for name, value in given.items() if value is not None})
    except Unavailable as error:
        begun = _running()
        if begun is None:
            raise
        shards_now = begun.status()["shards"]
        for line in (*recovered(shards_now), *waiting(shards_now)):
            show.errors.print(line, soft_wrap=True)
        raise Unavailable(
            f"{error}. The pipeline runs, and opens the others by itself; look again with `ringlog recover`"
        ) from None
    status = pipeline.status()
    show.console.print(f"ringlog is up: root {status['root']}", highlight=False)
    if running is None:
        for line in recovered(status["shards"]):
            show.console.print(line, soft_wrap=True)
    for line in waiting(status["shards"]):
        show.console.print(line, soft_wrap=True)
    _say_how_to_submit_jobs()


def _running() -> cluster.Cluster | None:
    """The pipeline that runs in this Ray cluster."""
    try:
        return cluster.connect()
    except Unavailable:
        return None


def recovered(shards: dict[str, Any]) -> Iterator[Text]:
    """What the shards began with; nothing is said where all of them are new."""
    before = [shard for shard in shards.values() if shard["leader"] is not None and shard["epoch"] > 1]
    if not before:
        return
    begun = f"recovered {len(before)} of {len(shards)} shards"
    records, bytes = (sum(shard[f"taken_over_{unit}"] for shard in before) for unit in ("records", "bytes"))
    if records:
        held = f"{records:,} records ({bytes / 1e6:,.1f} MB) that only the journals had"
        yield Text(f"{begun}, with {held}: they can be read, and go to the table by themselves")
    else:
        yield Text(f"{begun}: the table has all that the journals had")


def waiting(shards: dict[str, Any]) -> Iterator[Text]:
    """What of them is not complete, what it waits for, and what to do."""
    for name, shard in shards.items():
        if shard["condition"] != "complete":
            yield from explanation(name, shard)


def down() -> None:
    """End the pipeline. What is not archived waits in the journals for the next `ringlog up`; Ray runs on."""
    ringlog.stop()
    show.console.print("ringlog is down; Ray still runs (`ray stop` ends a local one)")


def _start_ray() -> None:
    ray = Path(sys.executable).with_name("ray")
    show.errors.print("no Ray cluster found: starting a local one (`ray start --head`)")
    done = subprocess.run(
        [str(ray), "start", "--head", "--disable-usage-stats"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ConfigurationError(f"`ray start --head` failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _say_how_to_submit_jobs() -> None:
    """A cluster that `ray start` made with a token asks `ray job submit` for it, which does not look by itself."""
    if (Path.home() / ".ray" / "auth_token").exists():
        show.console.print("for `ray job submit`, set RAY_AUTH_MODE=token first: this cluster asks for its token")


COMMANDS = (up, down)
