"""How a process finds its Ray cluster, and a pipeline its root, where something is in the way: no Ray runs here."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ringlog.actors import cluster
from ringlog.errors import OutcomeUnknown, Unavailable
from ringlog.metadata import MemoryStore, Versioned
from ringlog.settings import Settings

REMEMBERED = "ray._private.services.get_ray_address_from_environment"


def test_the_address_of_a_cluster_that_was_killed_is_none_unless_somebody_chose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listens:
        address = f"127.0.0.1:{listens.getsockname()[1]}"
        monkeypatch.setattr(REMEMBERED, lambda *_: address)
        assert cluster.cluster_address() == address
    assert cluster.cluster_address() is None, "Ray remembers it, and nobody listens there"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster.cluster_address() == address, "whoever chose it wants to hear that it does not answer"


def test_where_none_is_known_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> str:
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setattr(REMEMBERED, none)
    assert cluster.cluster_address() is None
    with pytest.raises(Unavailable, match="no Ray cluster was found: start one with `ringlog up`"):
        cluster.join_ray(start_local=False)


def test_nobody_begins_under_an_id_that_may_never_have_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(MemoryStore):
        """Whether it writes, it does not say."""

        writes = False

        def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
            if self.writes:
                super().compare_and_set(key, value, expected)
            raise OutcomeUnknown("no answer")

    store = Lost()
    monkeypatch.setattr(cluster, "open_store", lambda *_: store)
    settings = Settings(root=str(tmp_path))
    with pytest.raises(Unavailable, match=r"cannot be begun now: no answer\. Try again"):
        cluster._record(settings)
    store.writes = True
    first = cluster._record(settings)
    assert cluster._record(settings) == first
