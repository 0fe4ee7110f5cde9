"""The journals' folder on this machine: whether a sync there means anything, how long it takes, and what is in it."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringlog.cli.doctor.finding import Finding
from ringlog.errors import CorruptionError
from ringlog.settings import MIB, Settings
from ringlog.storage import JournalReport, find_journals, inspect

_WRITES = 50
_WRITE = bytes(4096)
_SLOW_MS = 10.0
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


def journal_dir(settings: Settings) -> Iterator[Finding]:
    """The folder, its room and its speed; each is looked at only where the folder can be used at all."""
    folder = Path(settings.journal_dir)
    try:
        with _probe(folder) as probe:
            yield _lasting(folder, file_system(probe, Path("/proc/self/mounts").read_text()))
            yield _room(folder, shutil.disk_usage(probe).free, settings.shard_buffer_bytes_max)
            yield speed(_sync_times_ms(probe / "probe"))
    except OSError as error:
        yield Finding("journal folder", "fail", f"{folder}: {error}", "give a journal_dir on a local disk with room")


def journals(settings: Settings) -> Finding:
    """Every journal of this machine, read to its end; nothing is changed, and whoever writes them may go on."""
    folder = Path(settings.journal_dir)
    found: list[JournalReport] = []
    broken: list[str] = []
    for path in find_journals(folder):
        try:
            report = inspect(path)
            found.extend([report] if report else [])
        except (CorruptionError, OSError) as error:
            broken.append(str(error))
    if broken:
        to_do = (
            "when its actor starts, it sets this journal aside and takes its log from its siblings: keep theirs until "
            "`ringlog status` shows the shard complete, and look at this disk"
        )
        return Finding("journals", "fail", "; ".join(broken), to_do)
    seen = f"{len(found)} in {folder} read back, {sum(one.end - one.trimmed for one in found)} records"
    aside = [str(path) for one in found for path in one.set_aside]
    if aside:
        to_do = "look at that disk; remove these folders once `ringlog status` shows their shards complete"
        return Finding("journals", "warn", f"{seen}; set aside: {', '.join(aside)}", to_do)
    return Finding("journals", "ok", seen if found else f"none in {folder} yet")


def file_system(path: Path, mounts: str) -> str:
    """The kind of file system that ``path`` lies on, by the text of /proc/self/mounts.

    >>> file_system(Path("/var/log"), "/dev/sda1 / ext4 rw 0 0\\ntmpfs /var tmpfs rw 0 0\\n")
    'tmpfs'
    """
    of = {point.replace("\\040", " "): kind for _, point, kind, *_ in map(str.split, mounts.splitlines())}
    above = (str(one) for one in (path, *path.parents))
    return next((of[one] for one in above if one in of), "unknown")


def speed(times_ms: list[float]) -> Finding:
    """How long a small write takes until it is on disk."""
    ordered = sorted(times_ms)
    p50, p99 = ordered[len(ordered) // 2], ordered[-1 - len(ordered) // 100]
    seen = f"fdatasync of 4 KiB: p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    if p99 <= _SLOW_MS:
        return Finding("journal speed", "ok", seen)
    to_do = "every acknowledgement waits for two of these: a faster or a less busy disk, or fsync=interval if you may"
    return Finding("journal speed", "warn", seen, to_do)


def _lasting(folder: Path, kind: str) -> Finding:
    if kind in _MEMORY:
        seen = f"{folder} is {kind}: memory, gone with a restart of the machine"
        return Finding("journal folder", "fail", seen, "give a journal_dir on a local disk: an ack is an fsync on it")
    return Finding("journal folder", "ok", f"{folder} on {kind}")


def _room(folder: Path, free: int, buffer: int) -> Finding:
    seen = f"{free // MIB} MiB free, a shard may hold {buffer // MIB} MiB"
    if free >= 2 * buffer:
        return Finding("journal room", "ok", seen)
    to_do = f"free some of {folder}: twice that for each shard kept here, or set shard_buffer_bytes_max lower"
    return Finding("journal room", "warn", seen, to_do)


def _sync_times_ms(path: Path) -> list[float]:
    times = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(_WRITES):
            began = time.perf_counter()
            os.write(handle, _WRITE)
            os.fdatasync(handle)
            times.append(1000 * (time.perf_counter() - began))
    finally:
        os.close(handle)
    return times


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A folder of one's own in ``folder``; it, and what had to be made for it, is gone afterwards."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    probe = folder / f"doctor-{uuid.uuid4().hex}"
    probe.mkdir(parents=True)
    try:
        yield probe.resolve()
    finally:
        shutil.rmtree(probe)
        for one in made:
            if any(one.iterdir()):
                break  # somebody has begun to use it
            one.rmdir()
