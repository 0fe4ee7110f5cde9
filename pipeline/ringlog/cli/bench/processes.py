"""What the processes of a run have used: CPU time and memory, as Linux counts them."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """``pid`` and every process that descends from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            children[int(fields[1])].append(int(folder.name))
    found = [pid]
    for parent in found:
        found.extend(children[parent])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that it has reaped; 0 where it is gone."""
    fields = _stat(pid)
    return 0.0 if fields is None else sum(map(int, fields[11:15])) / _TICKS


def peak_bytes(pid: int) -> int:
    """The most memory that a process had resident since `forget_peak`; 0 where it is gone."""
    return _status_bytes(pid, "VmHWM:")


def resident_bytes(pid: int) -> int:
    """The memory that a process has resident now; 0 where it is gone."""
    return _status_bytes(pid, "VmRSS:")


def forget_peak(pid: int) -> None:
    """Let the peak begin anew."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended by itself


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _status_bytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)
