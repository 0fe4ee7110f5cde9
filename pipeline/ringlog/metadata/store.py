"""What every metadata store promises."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

KEPT = 2
"""How many of a key's versions stay: a reader that found the newest by name may still be about to read it."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value and its version; versions of a key count from 1 without a gap."""

    value: bytes
    version: int


class MetadataStore(Protocol):
    """Values by key. Keys are words of letters, digits, ``.``, ``_`` and ``-``, joined by ``/``; else `ValueError`.

    Every method raises `Unavailable` when the store does not answer.
    """

    def get(self, key: str) -> Versioned | None:
        """The newest value, None where there never was one."""

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """Make ``value`` the version ``expected + 1``; 0 expects that there is none.

        Raises `Conflict` when another version is the newest, and `OutcomeUnknown` when the answer was lost: the value
        may stand there or not, so read again. Values that carry a nonce can be told apart.
        """

    def list(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``, sorted."""

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """Wait for a version above ``after``; None when there is none in time."""

    def close(self) -> None:
        """Let go of connections."""


def checked(key: str) -> str:
    """``key``, when it is one. Raises `ValueError`."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key: use letters, digits, '.', '_' and '-', joined by '/'")
    return key
