from __future__ import annotations

import uuid
from typing import Any

import pytest

from metadata.contract import MetadataContract, Open
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import S3Store, Versioned, open_store, s3
from seaweed import SeaweedFS


@pytest.mark.s3
class TestS3Store(MetadataContract):
    rounds = 4  # SeaweedFS lets one of 16 conditional writes wait about 1 s

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


@pytest.mark.s3
@pytest.mark.parametrize("others", [1, 2, 3, 6])
def test_a_writer_that_was_stopped_between_look_and_write_never_believes_it_won(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    store.compare_and_set("a", b"first", 0)
    put = store._put

    def late(key: str, value: bytes, version: int) -> None:
        monkeypatch.undo()
        for at in range(1, 1 + others):
            store.compare_and_set("a", b"other %d" % at, at)
        put(key, value, version)

    monkeypatch.setattr(store, "_put", late)
    with pytest.raises((Conflict, OutcomeUnknown)):
        store.compare_and_set("a", b"zombie", 1)
    assert store.get("a") == Versioned(b"other %d" % others, 1 + others)
    assert store._versions("a") == sorted({1, others, 1 + others}), "the first and the last two stay"


@pytest.mark.s3
def test_a_version_that_goes_while_it_is_looked_for_does_not_hide_the_newest(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.compare_and_set("a", b"1", 0)
    store.compare_and_set("a", b"2", 1)
    read = store._read

    def late(key: str, version: int) -> bytes | None:
        monkeypatch.undo()
        for at in range(2, 6):
            store.compare_and_set("a", b"%d" % (at + 1), at)
        return read(key, version)

    monkeypatch.setattr(store, "_read", late)
    assert store.get("a") == Versioned(b"6", 6)


@pytest.mark.s3
def test_an_empty_listing_never_makes_a_key_new(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(5):
        store.compare_and_set("a", b"%d" % version, version)
    monkeypatch.setattr(store, "_find", lambda _: [])
    monkeypatch.setattr(s3, "DEADLINE_S", 1.0)
    with pytest.raises(Unavailable, match="contradict"):
        store.get("a")
    with pytest.raises(Unavailable, match="contradict"):
        store.compare_and_set("a", b"again", 0)


@pytest.mark.s3
def test_a_store_that_goes_away_after_it_was_asked_to_write_leaves_it_unknown(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.compare_and_set("a", b"one", 0)
    put = store._put

    def away(*_: Any) -> Any:
        raise Unavailable("away")

    def then_away(key: str, value: bytes, version: int) -> None:
        put(key, value, version)
        monkeypatch.setattr(store, "_call", away)

    monkeypatch.setattr(store, "_put", then_away)
    with pytest.raises(OutcomeUnknown, match="Read again"):
        store.compare_and_set("a", b"two", 1)
    monkeypatch.undo()
    assert store.get("a") == Versioned(b"two", 2)


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_named(seaweed: SeaweedFS) -> None:
    nowhere = S3Store("s3://no-such-bucket/x", seaweed.storage_options)
    for ask in (lambda: nowhere.get("a"), lambda: nowhere.compare_and_set("a", b"x", 0), lambda: nowhere.list("")):
        with pytest.raises(ConfigurationError, match="no-such-bucket"):
            ask()


def test_a_store_that_is_away_says_so() -> None:
    options = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    with pytest.raises(Unavailable, match="does not answer"):
        S3Store("s3://bucket/prefix", options).get("a")
