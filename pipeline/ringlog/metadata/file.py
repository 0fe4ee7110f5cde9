"""A metadata store in a local folder. Each version is a file that only one writer can create."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringlog.errors import Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata.store import KEPT, Versioned, checked, version_name, versions_among

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
                return Versioned((self._folder / key / version_name(version)).read_bytes(), version)
            except FileNotFoundError:
                continue  # newer versions came and removed it: look again
            except OSError as error:
                raise Unavailable(f"cannot read {self._folder / key}: {error}") from error

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        newest = self._newest(key)
        if newest != expected:
            raise Conflict(f"{key} is at version {newest}, not {expected}")
        target = self._folder / key / version_name(expected + 1)
        linked = False
        try:
            with _aside(target.parent, value) as written:
                try:
                    os.link(written, target)
                except FileExistsError:
                    raise Conflict(f"{key} got its version {expected + 1} from somebody else") from None
                linked = True
            _sync(target.parent)
            newest = self._tidied(key)
        except OSError as error:
            if linked:  # others see it already, so it is not undone
                raise OutcomeUnknown(f"{target} may not survive a power cut: {error}. Read again") from error
            raise Unavailable(f"cannot write {target}: {error}") from error
        if newest > expected + KEPT:
            raise OutcomeUnknown(f"{key} is at version {newest}, {expected + 1} may not have counted: read again")
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        folders = {path.parent for path in self._folder.rglob("*") if versions_among([path.name]) and path.is_file()}
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
        return max(versions_among(names), default=0)

    def _tidied(self, key: str) -> int:
        """The newest version, now that those too old to stay are removed."""
        folder = self._folder / key
        versions = versions_among(os.listdir(folder))
        for version in versions:
            if version <= versions[-1] - KEPT:
                (folder / version_name(version)).unlink(missing_ok=True)
        return versions[-1]


@contextmanager
def _aside(folder: Path, value: bytes) -> Iterator[Path]:
    """A synced file of ``value`` in ``folder``, under a name that no reader looks at; gone at the end."""
    _make_folder(folder)
    aside = folder / f".{uuid.uuid4().hex}"
    try:
        with aside.open("xb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Only the parents that gained a folder are synced: those above may not even be readable."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        _sync(one.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
