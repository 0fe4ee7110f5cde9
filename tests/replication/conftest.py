from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import unified_diff
from pathlib import Path

import pytest

from replication.transcript import replay

Check = Callable[[Path, Callable[[str], Iterable[str]]], None]


@pytest.fixture
def unchanged(request: pytest.FixtureRequest) -> Check:
    """Replay a transcript and compare; with ``--regenerate``, write it anew instead."""

    def check(path: Path, execute: Callable[[str], Iterable[str]]) -> None:
        known = path.read_text().rstrip("\n")
        found = replay(known, execute)
        if request.config.getoption("--regenerate"):
            path.write_text(found + "\n")
        else:
            changed = list(unified_diff(known.splitlines(), found.splitlines(), path.name, "now", n=5, lineterm=""))
            assert not changed, "\n".join([f"read this, and --regenerate {path.name} if it is right:", *changed])

    return check
