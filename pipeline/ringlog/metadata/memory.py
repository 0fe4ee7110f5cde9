"""A metadata store in the memory of one process: for tests and the simulator."""

from __future__ import annotations

import threading

from ringlog.errors import Conflict
from ringlog.metadata.store import Versioned, checked


class MemoryStore:
    """Forgets everything with its process; otherwise a `MetadataStore` like any other."""

    def __init__(self) -> None:
        self._values: dict[str, Versioned] = {}
        self._changed = threading.Condition()

    def get(self, key: str) -> Versioned | None:
        """See `MetadataStore`."""
        with self._changed:
            return self._values.get(checked(key))

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        with self._changed:
            found = self._values.get(checked(key))
            version = found.version if found else 0
            if version != expected:
                raise Conflict(f"{key} is at version {version}, not {expected}")
            written = self._values[key] = Versioned(value, expected + 1)
            self._changed.notify_all()
            return written

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        with self._changed:
            return sorted(key for key in self._values if key.startswith(prefix))

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """See `MetadataStore`."""

        def newer() -> Versioned | None:
            found = self._values.get(checked(key))
            return found if found and found.version > after else None

        with self._changed:
            return self._changed.wait_for(newer, timeout_s)

    def close(self) -> None:
        """Nothing to let go of."""
