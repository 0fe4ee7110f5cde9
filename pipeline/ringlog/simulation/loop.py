"""The clock of a simulation: events in the order of their times, each with the event that caused it."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from random import Random
from typing import Any


class Loop:
    """Runs events one at a time. All chance comes from ``draw``, so that a seed decides everything.

    `digest` is a checksum of all that happened. With ``traced``, `story` tells what led to an event.
    """

    def __init__(self, draw: Random, *, traced: bool = False) -> None:
        self.draw = draw
        self.now = 0.0
        self.events = 0
        self.digest = 0
        self._traced = traced
        self._queue: list[tuple[float, int, int, str, Callable[..., object], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._current = 0
        self._causes: dict[int, int] = {}
        self._lines: dict[int, list[str]] = {}

    def after(self, delay_s: float, what: str, event: Callable[..., object], *arguments: Any) -> None:
        """Let ``event`` happen ``delay_s`` from now; ``what`` names it in a story."""
        self.at(self.now + delay_s, what, event, *arguments)

    def at(self, time_s: float, what: str, event: Callable[..., object], *arguments: Any) -> None:
        """Let ``event`` happen at ``time_s``, after all others that were scheduled for that time before."""
        self._scheduled += 1
        heapq.heappush(self._queue, (time_s, self._scheduled, self._current, what, event, arguments))

    def run(self, until_s: float) -> None:
        """Run all events up to ``until_s``."""
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            self.now, self._current, cause, what, event, arguments = heapq.heappop(queue)
            self.events += 1
            self.digest = zlib.crc32(f"{self.now!r} {what}".encode(), self.digest)
            if self._traced:
                self._causes[self._current] = cause
                self.note(what, *arguments)
            event(*arguments)
        self.now = until_s
        self._current = 0

    def note(self, what: str, *details: Any) -> None:
        """One more line about the current event."""
        if self._traced:
            words = " ".join(str(one) for one in details if not callable(one) and not isinstance(one, list | tuple))
            self._lines.setdefault(self._current, []).append(f"{self.now:9.4f}  {what}  {words}"[:240].rstrip())

    def story(self, last: int | None = None) -> list[str]:
        """The events that led to the current one, from the first cause on; or the ``last`` ones that happened."""
        if last is None:
            chosen, at = [], self._current
            while at:
                chosen.append(at)
                at = self._causes.get(at, 0)
            chosen.reverse()
        else:
            chosen = list(self._lines)[-last:]
        return [
            f"#{event:<6} <- #{self._causes.get(event, 0):<6} {line}"
            for event in chosen
            for line in self._lines.get(event, ())
        ]
