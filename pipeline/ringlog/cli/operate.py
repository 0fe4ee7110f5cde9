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
from ringlog.cli.recover import explained
from ringlog.cli.status import troubles
from ringlog.client.current import settings_of
from ringlog.errors import ConfigurationError, Unavailable
from ringlog.storage import Snapshot, Table


def up(
    root: Annotated[str | None, typer.Option(help="A local folder or s3://bucket/prefix.")] = None,
    shards: Annotated[int | None, typer.Option(help="Shards of a new root; `ringlog shards` changes it.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each batch that is not archived yet.")] = None,
    journal_dir: Annotated[str | None, typer.Option(help="Local folder of the journals, on every node.")] = None,
) -> None:
    """Start the pipeline in the Ray cluster that is there; where there is none, start a local one that stays.

    On a root that was used before, it goes on with what the journals hold, and says how much that is. Exit code 0 when
    every shard can be written.
    """
    options = {"shards": shards, "replicas": replicas, "journal_dir": journal_dir}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        cluster.join_ray(start_local=False)
    except Unavailable:
        _start_ray()
        cluster.join_ray(start_local=False)
    running = _running()
    settings = settings_of(root, **given)
    table = Table(settings.table_url, settings.storage_options()).find()
    try:
        pipeline = ringlog.start(root, **given)
    except Unavailable as error:
        begun = _running()
        if begun is None:
            raise
        now = begun.status()
        for line in (*recovered(now["shards"], table), *waiting(now)):
            show.errors.print(line, soft_wrap=True)
        others = "opens the others once that is seen to" if troubles(now) else "opens the others by itself"
        raise Unavailable(f"{error}. The pipeline runs, and {others}; look again with `ringlog recover`") from None
    status = pipeline.status()
    show.console.print(f"ringlog is up: root {status['root']}", highlight=False)
    if running is None:
        for line in recovered(status["shards"], table):
            show.console.print(line, soft_wrap=True)
    for line in waiting(status):
        show.console.print(line, soft_wrap=True)
    _say_how_to_submit_jobs()


def _running() -> cluster.Cluster | None:
    """The pipeline that runs in this Ray cluster."""
    try:
        return cluster.connect()
    except Unavailable:
        return None


def recovered(shards: dict[str, Any], table: Snapshot | None) -> Iterator[Text]:
    """What the shards began with that ``table``, read before, did not have; nothing is said where they had nothing."""
    led = {name: shard for name, shard in shards.items() if shard["leader"] is not None and shard["epoch"] > 1}
    if not any(shard["begun"] for shard in led.values()):
        return  # it may well be that no earlier epoch opened
    records = sum(shard["begun"] - (table.stored(name) if table else 0) for name, shard in led.items())
    waiting = sum(shard["held_bytes"] for shard in led.values())
    begun = f"recovered {len(led)} of {len(shards)} shards"
    if records:
        left = f"{waiting / 1e6:,.1f} MB still wait there and go to the table by themselves"
        yield Text(f"{begun}, with {records:,} records that only the journals had; {left}")
    else:
        yield Text(f"{begun}: the table has all that the journals had")


def waiting(found: dict[str, Any]) -> Iterator[Text]:
    """What is not complete, what it waits for, and what to do."""
    return explained(found, [name for name, shard in found["shards"].items() if shard["condition"] != "complete"])


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
