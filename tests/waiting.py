"""Waiting for what comes true by itself on a real cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import ray

import ringlog

WITHIN_S = 120.0


def eventually(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait until ``holds()``; where it does not in time, the failure shows the pipeline's status.

    Whoever is `Unavailable` or not in a status holds not yet: one look misses an actor whose beat is late.
    """
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while True:
        missed: Exception | None = None
        try:
            if holds():
                return
        except (ringlog.Unavailable, KeyError) as error:
            missed = error
        if time.monotonic() >= deadline:
            # Asked outside a cluster, it would join whichever runs on this machine.
            raise AssertionError(ringlog.status() if ray.is_initialized() else "no cluster is joined") from missed
        pause.wait(0.1)
