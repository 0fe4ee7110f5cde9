"""The object store is away under load: what clients hear meanwhile, and how long it takes to catch up.

``python tests/storage/outage.py --seconds 180`` measures it, with the deadlines that users have; `outage` is the same for
a test.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ringlog.errors import Overloaded
from ringlog.storage import Table
from s3proxy import Door, S3Proxy, always
from storage.schedule import ACTORS, SERVERS, Load, Scene, Server, Told, check, lead_all, submitting

KINDS = ("503 before", "reset before", "silence before")
"""How the store is away, for each of the actors in another way."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Outage:
    """What was seen, in records and in seconds since the store was back."""

    before: int
    meanwhile: int
    afterwards: int
    overloaded: int
    """Submits, not records, that were refused because a buffer was full."""
    first_stored_s: float
    caught_up_s: float
    """Until the table held all that had been committed when the store was back; new records kept coming."""


def outage(server: Server, root: str, scene: Scene, load: Load, enough: Callable[[Told], bool]) -> Outage:
    """Take the store away until ``enough``, and wait until everything is archived, which nobody asks for."""
    told, draw = Told(), random.Random(0)
    table = Table(f"{root}/logs", server.storage_options)
    lead_all(scene, draw)
    with submitting(scene, draw, told, load):
        _until(lambda: table.find() is not None and sum(_stored(table, scene)) > 0)
        before = len(told.acknowledged)
        stored = _stored(table, scene)
        for door, kind in zip(scene.doors.values(), KINDS, strict=True):
            door.plan = always(kind)
        _until(lambda: enough(told))
        meanwhile, refused = len(told.acknowledged) - before, told.refused[Overloaded]
        goal = [committed for committed, _ in scene.held().values()]
        for door in scene.doors.values():
            door.plan = None
        back = time.monotonic()
        _until(lambda: _stored(table, scene) != stored)
        first = time.monotonic() - back
        _until(lambda: all(have >= wanted for have, wanted in zip(_stored(table, scene), goal, strict=True)))
        caught_up = time.monotonic() - back
    _until(lambda: all(committed == trimmed for committed, trimmed in scene.held().values()))
    assert scene.failures == []
    check(root, server.storage_options, told)
    return Outage(before, meanwhile, len(told.acknowledged) - before - meanwhile, refused, first, caught_up)


def _stored(table: Table, scene: Scene) -> list[int]:
    snapshot = table.snapshot()
    return [snapshot.stored(shard) for shard in scene.held()]


def _until(holds: Callable[[], bool]) -> None:
    time_passes = threading.Event()
    while not holds():
        time_passes.wait(_LOOK_S)


def doors_of(proxy: S3Proxy) -> Mapping[str, Door]:
    """A door for each actor."""
    return {actor: proxy.door() for actor in ACTORS}


def main() -> None:
    """Measure one outage on each server."""
    parser = argparse.ArgumentParser(description="An outage of the object store, under load.")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--server", choices=list(SERVERS), action="append", help="default: every one that is installed")
    parser.add_argument("--buffer-mib", type=int, default=256, help="what a shard may hold that is not archived")
    chosen = parser.parse_args()
    load = Load(rows_max=200, patience_s=2.0, padding="x" * 600)
    for name in chosen.server or list(SERVERS):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(SERVERS[name](folder / "server"))
            proxy = stack.enter_context(S3Proxy(server.url))
            root = server.root("outage")
            buffer = chosen.buffer_mib * 2**20
            scene = Scene(server, root, folder / "journals", doors_of(proxy), shard_buffer_bytes_max=buffer)
            stack.callback(scene.close)
            ends: list[float] = []

            def enough(_: Told, ends: list[float] = ends) -> bool:
                ends.append(time.monotonic() + chosen.seconds)
                return time.monotonic() >= ends[0]

            print(name, asdict(outage(server, root, scene, load, enough)), flush=True)


if __name__ == "__main__":
    main()
