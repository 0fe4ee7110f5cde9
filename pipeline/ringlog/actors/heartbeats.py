"""What each shard actor said of itself last, heard all the time; one that is stopped holds up nobody else.

An actor is found by a Ray call, and heard over the data plane: a connection tells of the end of a process within
milliseconds, where a Ray call waits a second or two for the actor to be started again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from ringlog.errors import Unavailable
from ringlog.wire import Pulse

_logger = logging.getLogger(__name__)

HEARTBEAT_S = 0.3
SILENCE_S = 2.0
"""An actor that has not answered for so long counts as gone. Being wrong costs an epoch, never a record."""


class Remote(Protocol):
    """An actor elsewhere."""

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        """Its answer. Raises `Unavailable` when there is none in time, and whatever ringlog error the method raised."""


class Heartbeats:
    """One thread for each actor hears its status; ``changed`` is set when one comes, goes or leads another epoch.

    Each beat tells the actor where the others listen now: one that began again listens elsewhere. ``token`` is the
    pipeline's.
    """

    def __init__(self, changed: threading.Event, token: str) -> None:
        self._changed = changed
        self._token = token
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[float, dict[str, Any]]] = {}
        self._errors: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}

    def watch(self, name: str, actor: Remote) -> None:
        """Begin to ask ``actor``; an actor of the same ``name`` is asked no more."""
        thread = threading.Thread(target=self._ask, args=(name, actor), name=f"ringlog-heart-{name}", daemon=True)
        self._threads[name] = thread
        self._note(name, None)  # what another said under this name is not true of it
        thread.start()

    def forget(self, name: str) -> None:
        """Ask the actor of this name no more: it has ended."""
        if self._threads.pop(name, None) is not None:
            self._note(name, None)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Of those that answer."""
        now = time.monotonic()
        with self._lock:
            return {name: status for name, (heard, status) in self._heard.items() if now - heard < SILENCE_S}

    def error(self, name: str) -> str | None:
        """Why the actor of this name did not answer, the last time that it did not."""
        return self._errors.get(name)

    def close(self) -> None:
        """End all the threads."""
        self._closed.set()
        for thread in list(self._threads.values()):
            thread.join()

    def _ask(self, name: str, actor: Remote) -> None:
        while self._wanted(name):
            began = time.monotonic()
            try:
                self._hear(name, actor.call("status", self._locations(), timeout_s=SILENCE_S))
            except Exception as error:  # noqa: BLE001  (whatever Ray or Flight raises: it is asked again)
                _logger.debug("%s does not answer: %s", name, error)
                if self._wanted(name):
                    self._errors[name] = str(error)
                    self._note(name, None)
            self._closed.wait(max(0.0, HEARTBEAT_S - (time.monotonic() - began)))

    def _hear(self, name: str, found: dict[str, Any]) -> None:
        """Note every beat of the actor that was ``found``, until there is none."""
        pulse = Pulse(found["location"], self._token)
        try:
            status = found
            while self._wanted(name):
                self._note(name, status)
                beat = pulse.beat(self._locations(), status["changes"], HEARTBEAT_S, SILENCE_S)
                if beat["actor"] != name:
                    raise Unavailable(f"{beat['actor']} listens where {name} did")
                status = {**found, **beat}
        finally:
            pulse.close()

    def _wanted(self, name: str) -> bool:
        return not self._closed.is_set() and self._threads.get(name) is threading.current_thread()

    def _locations(self) -> dict[str, str]:
        with self._lock:
            return {name: status["location"] for name, (_, status) in self._heard.items()}

    def _note(self, name: str, status: dict[str, Any] | None) -> None:
        with self._lock:
            before = self._heard.pop(name, None)
            if status is not None:
                self._heard[name] = (time.monotonic(), status)
        if _leads(before[1] if before else None) != _leads(status):
            self._changed.set()


def _leads(status: Mapping[str, Any] | None) -> object:
    """What of a status decides whether anything is to be done."""
    if status is None:
        return None
    return (
        {shard: led["epoch"] for shard, led in status["leading"].items()},
        {shard: (kept["id"], kept["promised"]) for shard, kept in status["keeping"].items()},
    )
