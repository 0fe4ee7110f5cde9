"""What every metadata store promises."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

KEPT = 2
"""How many of a key's versions stay: a reader that found the newest by name may still be about to read it.

A version is removed only while one that is `KEPT` higher stands. So a writer that was stopped for long between its
look and its write, and thereby made a removed version anew, finds such a higher one afterwards: it did not win.
"""


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

        Raises `Conflict` when another version is the newest, `Unavailable` when surely nothing was written, and
        `OutcomeUnknown` when the answer was lost or others went on meanwhile: the value may stand there, have stood
        there, or not, so read again. Values must carry a nonce, so that the writer knows its own.
        """

    def list(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``, sorted."""

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """Wait for a version above ``after``; None when there is none in time."""

    def close(self) -> None:
        """Let go of connections."""


def version_name(version: int) -> str:
    """The name under which a version is kept; names sort as versions do.

    >>> version_name(7)
    '00000000000000000007'
    """
    return f"{version:020d}"


def versions_among(names: Iterable[str]) -> list[int]:
    """The versions that ``names`` name, in order. Other names, such as those of keys below a key, are left out.

    >>> versions_among(["shard-0", "7", version_name(9), version_name(8)])
    [8, 9]
    """
    return sorted(int(name) for name in names if len(name) == len(version_name(0)) and name.isdecimal())


def checked(key: str) -> str:
    """``key``, when it is one. Raises `ValueError`."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key: use letters, digits, '.', '_' and '-', joined by '/'")
    return key
