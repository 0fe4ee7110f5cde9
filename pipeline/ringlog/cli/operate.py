"""up, down, status: a pipeline on the Ray cluster that is there, or on a local one that stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import ringlog
from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.errors import ConfigurationError, Unavailable

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def up(
    root: Annotated[str | None, typer.Option(help="A local folder or s3://bucket/prefix.")] = None,
    shards: Annotated[int | None, typer.Option(help="Shard actors; fixed once the root is in use.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each batch that is not archived yet.")] = None,
    journal_dir: Annotated[str | None, typer.Option(help="Local folder of the journals, on every node.")] = None,
) -> None:
    """Start the pipeline in the Ray cluster that is there; where there is none, start a local one that stays."""
    given = {"shards": shards, "replicas": replicas, "journal_dir": journal_dir}
    try:
        cluster.join_ray(start_local=False)
    except Unavailable:
        _start_ray()
        cluster.join_ray(start_local=False)
    pipeline = ringlog.start(root, **{name: value for name, value in given.items() if value is not None})
    show.console.print(f"ringlog is up: root {pipeline.status()['root']}", highlight=False)
    _say_how_to_submit_jobs()


def down() -> None:
    """End the pipeline. What is not archived waits in the journals for the next `ringlog up`; Ray runs on."""
    ringlog.stop()
    show.console.print("ringlog is down; Ray still runs (`ray stop` ends a local one)")


def status(json: Json = False) -> None:
    """Every shard: leader, epoch, members, offsets, bytes that are not archived yet, and trouble."""
    found = ringlog.status()
    if json:
        show.json_line(found)
        return
    show.console.print(f"root {found['root']}", highlight=False)
    show.table(
        ["shard", "leader", "epoch", "committed", "archived", "lag", "held bytes", "members", "trouble"],
        [_row(name, shard) for name, shard in found["shards"].items()],
    )
    for actor, one in found["actors"].items():
        if one["archive_trouble"]:
            show.console.print(f"{actor} cannot archive: {one['archive_trouble']}", style="red", markup=False)


def _row(name: str, shard: dict[str, Any]) -> tuple[Any, ...]:
    if shard["leader"] is None:
        return (name, "none", *[""] * 6, shard["trouble"])
    members = " ".join(f"{actor}@{one['end']}" for actor, one in shard["members"].items())
    lag = shard["committed"] - shard["archived"]
    return (
        name,
        shard["leader"],
        shard["epoch"],
        shard["committed"],
        shard["archived"],
        lag,
        shard["held_bytes"],
        members,
        shard["trouble"],
    )


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


COMMANDS = (up, down, status)
