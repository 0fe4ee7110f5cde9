"""A metadata store on an S3-compatible bucket, by conditional writes.

Each version is an object of its own, written once by one PutObject with ``If-None-Match: *``, and never removed. 412,
409 and 500 all mean "read again, then decide": the refusal may be the answer to one's own earlier, successful try.

How the newest version is found: versions are dense, so it is the one after which nothing can be read. No listing is
asked, because a listing may lag behind on stores that promise less than S3 does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from ringlog.errors import Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata.store import Versioned, checked, version_name, versions_among
from ringlog.storage import Objects

DEADLINE_S = 20.0
"""How long one call of the object store may take, with its retries."""
_POLL_S = 0.5


class S3Store:
    """Versions of ``key`` are the objects ``<url>/<key>/<version>``."""

    def __init__(self, url: str, storage_options: Mapping[str, str]) -> None:
        self._objects = Objects(url, storage_options, DEADLINE_S)
        self._known: dict[str, Versioned] = {}  # of each key the newest that was ever seen: where to look on from

    def get(self, key: str) -> Versioned | None:
        """See `MetadataStore`."""
        found = self._known.get(checked(key))
        stride, widening = 1, True
        while True:
            version = stride + (found.version if found else 0)
            value = self._read(key, version)
            if value is not None:
                found = self._known[key] = Versioned(value, version)
            elif stride == 1:
                return found
            else:
                widening = False
            stride = 2 * stride if widening else max(1, stride // 2)

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        found = self.get(key)
        newest = found.version if found else 0
        if newest != expected:
            raise Conflict(f"{key} is at version {newest}, not {expected}")
        try:
            self._write(key, value, expected + 1)
        except Unavailable as error:
            raise OutcomeUnknown(f"version {expected + 1} of {key} may stand or not: {error}. Read again") from error
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        paths = (path.rpartition("/") for path in self._objects.list())
        keys = {key for key, _, name in paths if versions_among([name])}
        return sorted(key for key in keys if key.startswith(prefix))

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """See `MetadataStore`."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            found = self.get(key)
            if found is not None and found.version > after:
                return found
            if time.monotonic() >= deadline:
                return None
            pause.wait(_POLL_S)

    def close(self) -> None:
        """Nothing to let go of."""

    def _write(self, key: str, value: bytes, version: int) -> None:
        """Create it, and where that was refused or had no answer, read what stands there."""
        try:
            self._objects.create(_path(key, version), value)
        except (FileExistsError, Unavailable) as refusal:
            standing = self._read(key, version)
            if standing is None:
                raise OutcomeUnknown(f"the store refused version {version} of {key}: {refusal}") from refusal
            if standing != value:
                raise Conflict(f"{key} got its version {version} from somebody else") from refusal

    def _read(self, key: str, version: int) -> bytes | None:
        try:
            return self._objects.read(_path(key, version))
        except FileNotFoundError:
            return None


def _path(key: str, version: int) -> str:
    return f"{key}/{version_name(version)}"
