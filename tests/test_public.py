"""The public names: all there, all documented, and nothing of a user's project is imported by mistake."""

from __future__ import annotations

import inspect
import subprocess
import sys

import ringlog


def test_every_public_name_is_there_and_documented() -> None:
    for name in ringlog.__all__:
        thing = getattr(ringlog, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), f"{name} has no docstring"


def test_every_public_method_is_documented() -> None:
    for kind in (ringlog.Pipeline, ringlog.Ack, ringlog.Result, ringlog.LogHandler, ringlog.MemoryTransport):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and method.__module__.startswith("ringlog"):
                assert (method.__doc__ or "").strip(), f"{kind.__name__}.{name} has no docstring"


def test_importing_ringlog_starts_nothing() -> None:
    code = "import threading, ringlog, ray; print(threading.active_count(), ray.is_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
