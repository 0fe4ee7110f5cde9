"""A metadata store in a local folder. Each version is a file that only one writer can create."""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

from ringlog.errors import Conflict, Unavailable
from ringlog.metadata.store import KEPT, Versioned, checked

_POLL_S = 0.05


class FileStore:
    """Versions of ``key`` are the files ``<folder>/<key>/<version>``; safe between processes of one machine.

    A version is written aside, synced, and then linked to its name, which fails where the name is taken: that is the
    compare-and-set. A name that is there is therefore always a whole value.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def get(self, key: str) -> Versioned | None:
        """See `MetadataStore`."""
        while True:
            version = self._newest(key)
            if version == 0:
                return None
            try:
                return Versioned((self._folder / key / _name(version)).read_bytes(), version)
            except FileNotFoundError:
                continue  # newer versions came and removed it: look again
            except OSError as error:
                raise Unavailable(f"cannot read {self._folder / key}: {error}") from error

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        newest = self._newest(key)
        if newest != expected:
            raise Conflict(f"{key} is at version {newest}, not {expected}")
        target = self._folder / key / _name(expected + 1)
        aside = target.with_name(f".{uuid.uuid4().hex}")
        try:
            _make_folder(target.parent)
            with aside.open("xb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(aside, target)
            except FileExistsError:
                raise Conflict(f"{key} got its version {expected + 1} from somebody else") from None
            finally:
                aside.unlink()
            _sync(target.parent)
        except OSError as error:
            raise Unavailable(f"cannot write {target}: {error}") from error
        for version in range(expected + 1 - KEPT, 0, -1):
            old = target.with_name(_name(version))
            if not old.exists():
                break
            old.unlink(missing_ok=True)
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        folders = {path.parent for path in self._folder.rglob("*") if path.is_file() and path.name.isdigit()}
        keys = (folder.relative_to(self._folder).as_posix() for folder in folders)
        return sorted(key for key in keys if key.startswith(prefix))

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """See `MetadataStore`."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            if self._newest(key) > after:
                return self.get(key)
            if time.monotonic() >= deadline:
                return None
            pause.wait(_POLL_S)

    def close(self) -> None:
        """Nothing to let go of."""

    def _newest(self, key: str) -> int:
        try:
            names = os.listdir(self._folder / checked(key))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise Unavailable(f"cannot read {self._folder / key}: {error}") from error
        return max((int(name) for name in names if name.isdigit()), default=0)


def _name(version: int) -> str:
    return f"{version:020d}"


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for parent in folder.parents:
            _sync(parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
