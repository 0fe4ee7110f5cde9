"""Waiting for what comes true by itself on a real cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import ray

import ringlog

WITHIN_S = 120.0


def eventually(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait until ``holds()``; where it does not in time, the failure shows the pipeline's status."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not holds():
        # Asked outside a cluster, it would join whichever runs on this machine.
        assert time.monotonic() < deadline, ringlog.status() if ray.is_initialized() else "no cluster is joined"
        pause.wait(0.1)
