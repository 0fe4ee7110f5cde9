"""shards: how many there are, and how that is changed while records come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.cli.status import plan_line
from ringlog.errors import Unavailable

WITHIN_S = 300.0
_LOOK_S = 0.3


def shards(
    number: Annotated[int | None, typer.Argument(help="Have so many from now on.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How many shards take records; with a number, have so many from now on, and wait until that is done.

    New shards get the keys that they win, and only those move. Of fewer, the ones with the highest numbers take no new
    keys, are archived to their end, and are retired: their records stay in the table, and are read as before.
    """
    cluster.join_ray(start_local=False)
    running = cluster.connect()
    if number is not None:
        running.change_shards(number)
        _await(running, number)
    found = running.status()
    if not found["shards"]:
        raise Unavailable(plan_line(found))
    if json:
        taking = [name for name, shard in found["shards"].items() if not shard["retiring"]]
        show.json_line({"shards": len(taking), "to_do": list(to_do(found, len(taking)))})
        return
    for line in told(found):
        show.console.print(line, soft_wrap=True, highlight=False, markup=False)


def told(found: dict[str, Any]) -> Iterator[str]:
    """What `Cluster.status` says of the number of shards."""
    taking = [name for name, shard in found["shards"].items() if not shard["retiring"]]
    yield f"{len(taking)} shards take records"
    yield from to_do(found, len(taking))


def to_do(found: dict[str, Any], number: int) -> Iterator[str]:
    """What is left to be done until there are ``number`` shards and nothing else."""
    shards = found["shards"]
    if found["plan_trouble"]:  # what is known may have been decided otherwise
        yield plan_line(found)
    for name, shard in shards.items():
        if shard["retiring"]:
            left = "" if shard["leader"] is None else f", {shard['committed'] - shard['archived']} records to archive"
            yield f"{name} takes no new keys and is to be retired{left}"
        elif shard["condition"] != "complete":
            yield f"{name} is {shard['condition']}"
    for actor in found["lingering"]:
        yield f"{actor} ends once no shard counts on its journals"
    if sum(not shard["retiring"] for shard in shards.values()) != number:
        yield f"{number} shards are wanted"


def _await(running: cluster.Cluster, number: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    pause = threading.Event()
    with show.errors.status("") as line:
        while left := list(_left(running, number)):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"not done after {WITHIN_S:g} s: {'; '.join(left)}. `ringlog recover` says what "
                    "hinders it; else it goes on by itself: look again with `ringlog shards`"
                )
            line.update(Text(show.plain(left[0])))
            pause.wait(_LOOK_S)


def _left(running: cluster.Cluster, number: int) -> Iterator[str]:
    try:
        yield from to_do(running.status(), number)
    except Unavailable as error:  # its controller may just be starting again
        yield str(error)


COMMANDS = (shards,)
