"""up, down: a pipeline on the Ray cluster that is there, or on a local one that stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import ringlog
from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.errors import ConfigurationError, Unavailable


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
