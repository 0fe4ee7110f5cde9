"""The inbox of a process: what happens to its state, one event after the other, whichever threads bring them."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

Event = Callable[[], None]

EVENTS_MAX = 64
"""How many events of others a thread runs at most before it may go on with what it has to do itself."""


class Inbox:
    """Runs events in order, each in the thread that brings it, or in one that is running others just now.

    What always holds: no two events run at once, and each runs after those that were put before it. Nobody waits for a
    thread to wake up: that would be most of an acknowledgement. Whoever puts an event must hold no lock that events
    take, for it may have to run those of others, and none may wait for another event. A thread that may be interrupted,
    or has other things to do, hands its event over instead.

    ``wake`` is asked after events when ``tick`` is due, which then is called like an event, with the time.
    ``on_failure`` is told of the first error of an event; nothing runs after it. Times are those of `time.monotonic`.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[float], None],
        wake: Callable[[], float | None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._tick = tick
        self._wake = wake
        self._on_failure = on_failure
        self._events: deque[Event] = deque()
        self._running = threading.Lock()
        self._over = False
        self._clock = threading.Condition()
        self._due: float | None = None
        self._handed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Run ``event`` after all that were put before it: in this thread, or another is at it already."""
        self._events.append(event)
        if not self._drain(EVENTS_MAX):
            self._notify()

    def hand(self, event: Event) -> None:
        """Like `put`, but it is the inbox's own thread that runs ``event``, or another that is at it already."""
        self._events.append(event)
        self._notify()

    def close(self) -> None:
        """Run what was put before, and nothing any more. Not to be called by an event."""
        self.hand(self._end)
        self._thread.join()
        with self._running:  # until another thread is through with the last
            pass

    def _end(self) -> None:
        self._over = True
        self._notify()

    def _notify(self) -> None:
        with self._clock:
            self._handed = True
            self._clock.notify()

    def _drain(self, events_max: float) -> bool:
        """Run events until there are none; False when there are more than ``events_max``."""
        # Whoever runs events looks again after letting go: what was put meanwhile is never left behind.
        while self._events and self._running.acquire(blocking=False):
            try:
                events_max = self._run(events_max)
            finally:
                self._running.release()
            if events_max <= 0:
                return not self._events
        return True

    def _run(self, events_max: float) -> float:
        try:
            while self._events and events_max > 0:
                event = self._events.popleft()
                events_max -= 1
                if not self._over:
                    event()
            if not self._over:
                self._set_clock(self._wake())
        except BaseException as error:  # noqa: BLE001  (the state may be anything now)
            self._over = True
            self._notify()
            self._on_failure(error)
        return events_max

    def _set_clock(self, due: float | None) -> None:
        if due is not None and (self._due is None or due < self._due):
            with self._clock:
                self._due = due
                self._clock.notify()

    def _serve(self) -> None:
        while not self._over:
            with self._clock:
                pause = None if self._due is None else self._due - time.monotonic()
                if not (self._handed or self._over or (pause is not None and pause <= 0)):
                    self._clock.wait(pause)
                    continue
                self._handed = False
                if pause is not None and pause <= 0:
                    self._due = None
                    self._events.append(self._tick_now)
            self._drain(math.inf)

    def _tick_now(self) -> None:
        self._tick(time.monotonic())
