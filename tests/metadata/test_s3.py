from __future__ import annotations

import uuid
from typing import Any

import pytest
from metadata.contract import MetadataContract, Open
from seaweed import SeaweedFS

from ringlog.errors import Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import S3Store, Versioned, open_store


@pytest.mark.s3
class TestS3Store(MetadataContract):
    @pytest.fixture
    def open_again(self, seaweed: SeaweedFS) -> Open:
        root = seaweed.root(uuid.uuid4().hex)
        return lambda: open_store(root, seaweed.storage_options)


@pytest.fixture
def store(seaweed: SeaweedFS) -> S3Store:
    return S3Store(seaweed.root(uuid.uuid4().hex), seaweed.storage_options)


def lose_the_answer(store: S3Store, monkeypatch: pytest.MonkeyPatch, *, written: bool) -> None:
    """The next PutObject times out for its caller, after or before the server has stored it."""
    call: Any = store._files.call_s3

    def put(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        if written:
            call(*arguments, **options)
        raise TimeoutError("no answer")

    monkeypatch.setattr(store._files, "call_s3", put)


@pytest.mark.s3
def test_a_lost_answer_of_a_write_that_was_stored_is_found_by_reading(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_answer(store, monkeypatch, written=True)
    assert store.compare_and_set("a", b"mine", 0) == Versioned(b"mine", 1)


@pytest.mark.s3
def test_a_write_that_did_not_arrive_is_unknown_until_it_is_read(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_answer(store, monkeypatch, written=False)
    with pytest.raises(OutcomeUnknown):
        store.compare_and_set("a", b"mine", 0)
    assert store.get("a") is None


@pytest.mark.s3
def test_a_loser_whose_answer_was_lost_learns_that_it_lost(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store._put

    def overtaken(key: str, value: bytes, version: int) -> None:
        monkeypatch.undo()
        put(key, b"theirs", version)
        put(key, value, version)

    monkeypatch.setattr(store, "_put", overtaken)
    with pytest.raises(Conflict):
        store.compare_and_set("a", b"mine", 0)
    assert store.get("a") == Versioned(b"theirs", 1)


def test_a_store_that_is_away_says_so() -> None:
    options = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    with pytest.raises(Unavailable, match="does not answer"):
        S3Store("s3://bucket/prefix", options).get("a")
