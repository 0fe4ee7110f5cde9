"""What the tests of actors in this process share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover waits longer for members that a busy machine keeps from answering: nobody here opens again for them."""
    monkeypatch.setattr("ringlog.replication.takeover.GRACE_S", 1.0)
