"""Archiving on demand: what every shard has committed by now, wherever it is led meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from ringlog.actors.heartbeats import HEARTBEAT_S, Remote
from ringlog.errors import RinglogError, Unavailable

CALL_DEADLINE_S = 3.0
"""How much longer than the flush itself an actor may take to answer."""


def flush(
    shards: Callable[[], Collection[str]],
    actors: Mapping[str, Remote],
    calls: ThreadPoolExecutor,
    timeout_s: float,
    over: threading.Event,
) -> dict[str, int]:
    """Let ``actors`` archive what they lead, until that is so of all ``shards``; how far each is stored then.

    A shard whose leader moved while the actors were asked is asked for again. Raises `Unavailable`, naming what is not
    archived; also where ``shards`` raises it to the end, since nobody knows then what all is.
    """
    deadline = time.monotonic() + timeout_s
    stored: dict[str, int] = {}
    while True:
        errors = _flush_led(actors, calls, max(0.0, deadline - time.monotonic()), stored)
        try:
            missing = [shard for shard in shards() if shard not in stored]
        except Unavailable as error:
            errors.append(str(error))
        else:
            if not missing:  # an actor that does not answer, and leads nothing, kept nothing from it
                return stored
            errors = errors or [f"{', '.join(missing)} have no leader that answers"]
        if time.monotonic() >= deadline or over.is_set():
            raise Unavailable("; ".join(errors))
        over.wait(HEARTBEAT_S)


def _flush_led(
    actors: Mapping[str, Remote], calls: ThreadPoolExecutor, timeout_s: float, stored: dict[str, int]
) -> list[str]:
    """Let every actor archive what it leads, and note how far in ``stored``; what went wrong."""
    asked = {
        actor: calls.submit(remote.call, "flush", timeout_s, timeout_s=timeout_s + CALL_DEADLINE_S)
        for actor, remote in list(actors.items())
    }
    errors = []
    for actor, call in asked.items():
        try:
            stored.update(call.result())
        except RinglogError as error:
            errors.append(f"{actor}: {error}")
    return errors
