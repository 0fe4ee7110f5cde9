"""A replica's local append-only file: what it has promised and the entries that it holds, on disk before it answers.

One folder for each replica::

    state.json                      who it is (a UUID made with the journal), its promise, where its log begins, and the
                                    producers' table as of there; replaced atomically
    00000001-00000000000000004096.arrows   entries from offset 4096 on: an Arrow IPC stream, one record batch a write
    lock                            held by the process that writes

Only entry files of the generation that ``state.json`` names count, so that a whole log is replaced by one rename. The
files that the new log has in common with the old one are linked, not written again: a log changes hands in the time
that its end takes. What a crash tore off the end of the last file was never answered for and is cut. Where anything
else does not read back, all of it is set aside in a folder ``lost-…``, and the journal begins as empty under a new id.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
import uuid
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from ringlog.errors import ConfigurationError, CorruptionError
from ringlog.replication import (
    NO_PRODUCERS,
    Discard,
    Entry,
    Promise,
    Replace,
    ReplicaState,
    StoreOp,
    Write,
    is_still_itself,
)
from ringlog.settings import Fsync
from ringlog.storage.entries import ENTRY_SCHEMA, SUFFIX, encode, file_name, in_writes, needed, read_log, start_of

_logger = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0
"""How long a restarted actor waits for the process before it to be gone."""

STATE = "state.json"
FAILED = "sync-failed"
LOST = "lost-"
"""Begins the names of the folders in which what did not read back is kept."""


class Journal:
    """The journal in ``folder``, made where there is none. One process at a time; not thread-safe.

    Raises `ConfigurationError` when another process holds the folder or it is another shard's, and `OSError` from the
    disk; whatever it raises, it holds the folder no more.
    """

    def __init__(self, folder: Path, shard: str, fsync: Fsync, file_bytes_max: int) -> None:
        self.folder = folder
        self._group = fsync == "group"
        self._file_bytes_max = file_bytes_max
        self._dirty = False
        self._file: int | None = None
        self._size = 0
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _sync_parents(folder)
        self._lock = _lock(folder / "lock")
        self._generation = 1
        self._kept: dict[str, Any] = {}
        self._end = 0
        self._log: list[Entry] = []
        try:
            self._load(shard, fsync)
        except BaseException:
            os.close(self._lock)  # or the next try of this process would find the folder in use
            raise

    @property
    def state(self) -> ReplicaState:
        """The replica that the journal holds now."""
        kept = self._kept
        return ReplicaState(
            shard=kept["shard"],
            id=kept["id"],
            promised=kept["promised"],
            log_epoch=kept["log_epoch"],
            trimmed=kept["trimmed"],
            boundaries=tuple((epoch, start) for epoch, start in kept["boundaries"]),
            producers=kept["producers"],
            entries=tuple(self._log),
        )

    def apply(self, ops: Sequence[StoreOp]) -> None:
        """Write ``ops`` in their order; durable once `sync` returns. After an error the journal must not be used."""
        waiting: list[Entry] = []
        for op in ops:
            if isinstance(op, Write):
                waiting.extend(op.entries)
                continue
            self._append(waiting)
            waiting = []
            if isinstance(op, Promise):
                self._keep(promised=op.promised)
            elif isinstance(op, Discard):
                self._discard(op)
            else:
                self._replace(op)
        self._append(waiting)

    def sync(self) -> None:
        """Make everything applied so far survive a power cut; nothing is done where nothing is to do."""
        if self._dirty and self._file is not None:
            try:
                os.fdatasync(self._file)
            except OSError:
                # From now on the kernel may show what the disk refused: whoever opens this must not believe it.
                (self.folder / FAILED).touch()
                raise
        self._dirty = False

    def close(self) -> None:
        """Sync and say so: a journal that was closed lost nothing, whatever its fsync was."""
        self.sync()
        self._close_file()
        self._write_state({**self._kept, "closed": True, "end": self._end})
        os.close(self._lock)

    def _append(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        if self._file is None or self._size >= self._file_bytes_max:
            self._rotate(entries[0].start)
        self._write(encode(entries))
        self._log.extend(entries)
        self._end = entries[-1].end

    def _write(self, data: pa.Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]  # type: ignore[arg-type]
        self._size += data.size
        self._dirty = True

    def _rotate(self, start: int) -> None:
        self.sync()
        self._close_file()
        path = self.folder / file_name(self._generation, start)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._size = 0
        self._write(ENTRY_SCHEMA.serialize())
        _sync_folder(self.folder)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _discard(self, op: Discard) -> None:
        self.sync()
        self._keep(trimmed=op.trimmed, boundaries=op.boundaries, producers=op.producers)
        paths = self._paths()
        for path in set(paths) - set(needed(paths, op.trimmed)):
            path.unlink()
        del self._log[: bisect_left(self._log, op.trimmed, key=_start)]

    def _replace(self, op: Replace) -> None:
        self.sync()
        self._close_file()
        self._end = self._link_common(op)
        common = bisect_left(op.entries, self._end, key=_start)
        self._log = list(op.entries[:common])
        for entries in in_writes(op.entries[common:]):
            self._append(entries)
        self.sync()
        self._keep(
            promised=op.promised,
            log_epoch=op.log_epoch,
            trimmed=op.trimmed,
            boundaries=op.boundaries,
            producers=op.producers,
            generation=self._generation,
        )
        self._remove_other_generations()

    def _link_common(self, op: Replace) -> int:
        """Begin a generation with those files that hold only what ``op`` has too; where the last of them ends."""
        held = self._log[bisect_left(self._log, op.trimmed, key=_start) :]
        same = takewhile(lambda pair: pair[0] == pair[1], zip(held, op.entries, strict=False))
        agreed = max((entry.end for entry, _ in same), default=op.trimmed)
        paths = needed(self._paths(), op.trimmed)
        ends = [*map(start_of, paths[1:]), self._end]
        self._generation += 1
        common = op.trimmed
        for path, end in zip(paths, ends, strict=False):
            if not common < end <= agreed or not _linked(path, file_name(self._generation, start_of(path))):
                break
            common = end
        _sync_folder(self.folder)
        return common

    def _keep(self, **changes: Any) -> None:
        self._kept = {**self._kept, **changes}
        self._write_state(self._kept)

    def _write_state(self, kept: dict[str, Any]) -> None:
        body = orjson.dumps(kept)
        unfinished = self.folder / f"{STATE}.tmp"
        with unfinished.open("wb") as file:
            file.write(orjson.dumps({"checksum": zlib.crc32(body), "state": kept}))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.folder / STATE)
        _sync_folder(self.folder)

    def _load(self, shard: str, fsync: Fsync) -> None:
        boot = _boot_id()
        try:
            kept, entries = self._read()
        except CorruptionError as error:
            _logger.error(
                "the journal %s does not read back and is set aside; its replica begins as empty, under a new id, "
                "and takes its log from its siblings: %s",
                self.folder,
                error,
            )
            self._set_aside()
            kept, entries = None, ()
        if kept is not None and kept["shard"] != shard:
            raise ConfigurationError(
                f"{self.folder} is a journal of {kept['shard']}, not of {shard}: choose another journal_dir"
            )
        if kept is not None and not is_still_itself(kept["fsync"], kept["closed"], kept["boot_id"], boot):
            _logger.warning(
                "the journal %s may have lost its end with the kernel's memory: it is set aside", self.folder
            )
            self._set_aside()
            kept, entries = None, ()
        if kept is None:
            kept = {
                "id": uuid.uuid4().hex,
                "shard": shard,
                "promised": 0,
                "log_epoch": 0,
                "trimmed": 0,
                "boundaries": (),
                "producers": NO_PRODUCERS,
                "generation": 1,
            }
        self._kept = {**kept, "fsync": fsync, "boot_id": boot, "closed": False}
        self._generation = kept["generation"]
        self._end = entries[-1].end if entries else kept["trimmed"]
        self._log = list(entries)
        # What was read may be in the kernel's memory only; this replica answers for all of it, and may answer at once.
        self._sync_files()
        self._write_state(self._kept)
        self._remove_other_generations()

    def _read(self) -> tuple[dict[str, Any] | None, tuple[Entry, ...]]:
        """What stands in the folder. Raises `CorruptionError`."""
        kept = read_state(self.folder / STATE)
        if kept is None:
            if self._paths(every_generation=True):
                raise CorruptionError(f"{self.folder} has entries but no {STATE}")
            return None, ()
        if (self.folder / FAILED).exists():
            raise CorruptionError(f"a sync of {self.folder} failed, so the disk may lack what the kernel shows")
        self._generation = kept["generation"]
        entries = tuple(read_log(self._paths(), kept["trimmed"], cut=not kept["closed"]))
        end = entries[-1].end if entries else kept["trimmed"]
        if kept["closed"] and end != kept["end"]:
            raise CorruptionError(f"{self.folder} was closed with entries up to {kept['end']}, and ends at {end}")
        return kept, entries

    def _sync_files(self) -> None:
        for path in self._paths():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(handle)
            finally:
                os.close(handle)
        _sync_folder(self.folder)

    def _paths(self, every_generation: bool = False) -> list[Path]:
        pattern = "*" if every_generation else f"{self._generation:08d}-*"
        return sorted(self.folder.glob(pattern + SUFFIX))

    def _remove_other_generations(self) -> None:
        for path in set(self._paths(every_generation=True)) - set(self._paths()):
            path.unlink()

    def _set_aside(self) -> None:
        """Keep the files for whoever wants to look, where nothing reads them: never again vote as who this was."""
        self._generation = 1
        aside = self.folder / f"{LOST}{time.time_ns()}"
        aside.mkdir()
        for path in [self.folder / STATE, self.folder / FAILED, *self._paths(every_generation=True)]:
            if path.exists():
                shutil.move(path, aside)
        _sync_folder(self.folder)


def read_state(path: Path) -> dict[str, Any] | None:
    """What a ``state.json`` says; None where there is none. Raises `CorruptionError`."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = orjson.loads(data)
        state: dict[str, Any] = found["state"]
        intact = zlib.crc32(orjson.dumps(state)) == found["checksum"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CorruptionError(f"{path} does not read back: {error}") from error
    if not intact:
        raise CorruptionError(f"{path} does not match its checksum")
    return state


def _linked(path: Path, name: str) -> bool:
    """Give ``path`` a second name in its folder; False where the file system knows no hard links."""
    try:
        path.with_name(name).hardlink_to(path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def _start(entry: Entry) -> int:
    return entry.start


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise ConfigurationError(
                    f"{path.parent} is in use by another process: stop the pipeline that runs there, "
                    "or choose another journal_dir"
                ) from None
            time.sleep(0.05)
        else:
            return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_parents(folder: Path) -> None:
    """The names of folders that were just made, up to the root of the file system."""
    for parent in folder.parents:
        _sync_folder(parent)
