"""status: every shard and what troubles it, once or as a live view."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

import ringlog
from ringlog.cli import show
from ringlog.errors import Unavailable

_COLUMNS = ("shard", "condition", "leader", "epoch", "committed", "archived", "lag", "held bytes", "members", "trouble")
_EVERY_S = 2.0

LET_IT_READ = (
    "`ringlog doctor` on the machine of Ray's head says what the store answers there. The controller has the "
    "environment that Ray was started with, and goes on by itself once it can read that; nothing is lost meanwhile"
)
"""What to do where the controller knows no shards."""


def status(
    seconds: Annotated[float | None, typer.Argument(help="With --watch: how often to look; 2.", min=0.1)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Every shard: condition, leader, epoch, members, offsets, bytes that are not archived yet, gaps, and trouble."""
    if seconds is not None and not watch:
        raise typer.BadParameter(f"{seconds:g} seconds say how often to look: add --watch")
    if watch:
        _watch(seconds or _EVERY_S, json)
    elif json:
        show.json_line(ringlog.status())
    else:
        show.console.print(overview(ringlog.status()))


def overview(found: dict[str, Any]) -> RenderableType:
    """What `Pipeline.status` found, for people."""
    rows = [_row(name, shard) for name, shard in found["shards"].items()]
    return Group(Text(f"root {show.plain(found['root'])}"), show.as_table(list(_COLUMNS), rows), *_remarks(found))


def gap_line(shard: str, epoch: int, start: int) -> str:
    """What a gap means."""
    return (
        f"{shard} has a gap: at offset {start} and above, records that epochs before {epoch} had acknowledged may be "
        "missing (an accepted loss)"
    )


def troubles(found: dict[str, Any]) -> list[str]:
    """What keeps the controller from doing its part, in a line each: it needs somebody."""
    plan = [plan_line(found)] if found["plan_trouble"] else []
    return [*plan, *(away_line(actor, why) for actor, why in found["away"].items())]


def plan_line(found: dict[str, Any]) -> str:
    """Why the controller does not know which shards there should be, or only which there were."""
    unknown = "whether there should be other shards by now" if found["shards"] else "which shards there should be"
    return show.plain(f"{unknown} is not known: {found['plan_trouble']}")


def away_line(actor: str, why: str) -> str:
    """Why the actor is not there."""
    return show.plain(why if why.startswith(f"{actor} ") else f"{actor}: {why}")


def _remarks(found: dict[str, Any]) -> Iterator[Text]:
    for name, shard in found["shards"].items():
        if shard["condition"] == "unavailable":
            yield Text(f"{name} is UNAVAILABLE: `ringlog recover` says what it needs", style="bold red")
        for epoch, start in shard["gaps"] or ():
            yield Text(gap_line(name, epoch, start), style="yellow")
    for line in troubles(found):
        yield Text(line, style="red")
    for actor in found["lingering"]:
        yield Text(f"{actor} ends once no shard counts on its journals", style="dim")
    for actor, one in found["actors"].items():
        if one["archive_trouble"]:
            yield Text(show.plain(f"{actor} cannot archive: {one['archive_trouble']}"), style="red")
    if found["housekeeping_trouble"]:
        yield Text(show.plain(f"the table is not kept small: {found['housekeeping_trouble']}"), style="yellow")
    if found["metadata_trouble"]:
        yield Text(show.plain(found["metadata_trouble"]), style="red")


def _row(name: str, shard: dict[str, Any]) -> tuple[Any, ...]:
    trouble = shard["trouble"] or shard["waits_for"]
    if shard["leader"] is None:
        return (name, shard["condition"], "none", *[""] * 6, trouble)
    return (
        name,
        "retiring" if shard["retiring"] else shard["condition"],
        shard["leader"],
        shard["epoch"],
        shard["committed"],
        shard["archived"],
        shard["committed"] - shard["archived"],
        shard["held_bytes"],
        " ".join(f"{actor}@{one['end']}" for actor, one in shard["members"].items()),
        trouble,
    )


def _watch(seconds: float, json: bool) -> None:
    """Until Ctrl-C. A pipeline that gives no answer for a while is shown as that: it may come back."""
    pause = threading.Event()
    try:
        with Live(console=show.console, auto_refresh=False) as live:
            while True:
                if json:
                    show.json_line(ringlog.status())
                    sys.stdout.flush()
                else:
                    live.update(_look(), refresh=True)
                pause.wait(seconds)
    except KeyboardInterrupt:
        return


def _look() -> RenderableType:
    try:
        return overview(ringlog.status())
    except Unavailable as error:
        return Text(show.plain(f"no answer: {error}"), style="red")


COMMANDS = (status,)
