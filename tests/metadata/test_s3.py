from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from metadata.contract import MetadataContract, Open
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import S3Store, Versioned, open_store, s3
from s3proxy import Door, Request, S3Proxy, Script, always
from seaweed import SeaweedFS


@pytest.mark.s3
class TestS3Store(MetadataContract):
    rounds = 4  # SeaweedFS lets one of 16 conditional writes wait about 1 s

    @pytest.fixture
    def open_again(self, seaweed: SeaweedFS) -> Open:
        root = seaweed.root(uuid.uuid4().hex)
        return lambda: open_store(root, seaweed.storage_options)


@pytest.fixture
def door(seaweed: SeaweedFS) -> Iterator[Door]:
    with S3Proxy(seaweed.url) as proxy:
        yield proxy.door()


Behind = Callable[[], S3Store]


@pytest.fixture
def behind(seaweed: SeaweedFS, door: Door) -> Behind:
    """Opens one and the same store, behind ``door``; each knows nothing at first."""
    root = seaweed.root(uuid.uuid4().hex)
    return lambda: S3Store(root, {**seaweed.storage_options, "AWS_ENDPOINT_URL": door.url})


def writes(kind: str) -> Callable[[Request], str | None]:
    """Every PutObject meets ``kind``."""
    return lambda request: kind if request.method == "PUT" else None


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["500 after", "reset after", "truncated read", "asked twice"])
def test_a_refusal_for_one_s_own_write_is_found_by_reading(behind: Behind, door: Door, kind: str) -> None:
    store = behind()
    store.compare_and_set("a", b"first", 0)
    door.plan = Script((kind, "PUT"))
    assert store.compare_and_set("a", b"mine", 1) == Versioned(b"mine", 2)
    assert door.met[kind] == 1
    assert behind().get("a") == Versioned(b"mine", 2)


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["reset after", "409", "503 before"])
def test_a_loser_that_got_another_answer_first_learns_that_it_lost(behind: Behind, door: Door, kind: str) -> None:
    others, store = behind(), behind()

    def overtaken(request: Request) -> str | None:
        if request.method != "PUT":
            return None
        door.plan = None
        theirs.append(request.path)
        return kind

    theirs: list[str] = []
    others.compare_and_set("a", b"first", 0)
    assert store.get("a") == Versioned(b"first", 1)
    create = store._objects.create

    def late(path: str, data: bytes) -> None:
        others.compare_and_set("a", b"theirs", 1)
        door.plan = overtaken
        create(path, data)

    store._objects.create = late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        store.compare_and_set("a", b"mine", 1)
    assert len(theirs) == 1
    assert behind().get("a") == Versioned(b"theirs", 2)


@pytest.mark.s3
@pytest.mark.parametrize(("kind", "stands"), [("reset before", False), ("silence after", True), ("reset after", True)])
def test_a_write_that_is_never_answered_stands_or_is_unknown_until_it_is_read(
    behind: Behind, door: Door, monkeypatch: pytest.MonkeyPatch, kind: str, stands: bool
) -> None:
    monkeypatch.setattr(s3, "DEADLINE_S", 3.0)
    store = behind()
    assert store.get("a") is None
    door.plan = writes(kind)
    if stands:
        assert store.compare_and_set("a", b"mine", 0) == Versioned(b"mine", 1)
    else:
        with pytest.raises(OutcomeUnknown):
            store.compare_and_set("a", b"mine", 0)
    door.plan = None
    assert store.get("a") == (Versioned(b"mine", 1) if stands else None)


@pytest.mark.s3
def test_a_write_that_arrives_after_it_was_looked_for_is_unknown_and_then_stands(
    behind: Behind, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "DEADLINE_S", 3.0)
    store = behind()
    door.plan, door.proxy.late_s = writes("late"), 10.0
    with pytest.raises(OutcomeUnknown):
        store.compare_and_set("a", b"mine", 0)
    assert store.get("a") is None
    assert store.watch("a", 0, 20.0) == Versioned(b"mine", 1)
    with pytest.raises(Conflict):
        store.compare_and_set("a", b"again", 0)


@pytest.mark.s3
def test_a_store_that_goes_away_after_it_was_asked_to_write_leaves_it_unknown(
    behind: Behind, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "DEADLINE_S", 3.0)
    store = behind()
    store.compare_and_set("a", b"one", 0)

    def away(request: Request) -> str | None:
        if request.method == "PUT":
            door.plan = always("reset before")
            return "reset after"
        return None

    door.plan = away
    with pytest.raises(OutcomeUnknown, match="Read again"):
        store.compare_and_set("a", b"two", 1)
    door.plan = None
    assert store.get("a") == Versioned(b"two", 2)


@pytest.mark.s3
@pytest.mark.parametrize("others", [1, 2, 6])
def test_a_writer_that_was_stopped_between_look_and_write_never_believes_it_won(behind: Behind, others: int) -> None:
    store, other = behind(), behind()
    store.compare_and_set("a", b"first", 0)
    create = store._objects.create

    def late(path: str, data: bytes) -> None:
        for at in range(1, 1 + others):
            other.compare_and_set("a", b"other %d" % at, at)
        create(path, data)

    store._objects.create = late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        store.compare_and_set("a", b"zombie", 1)
    assert store.get("a") == Versioned(b"other %d" % others, 1 + others)


@pytest.mark.s3
def test_stale_listings_hide_no_version(behind: Behind, door: Door) -> None:
    door.proxy.lag_s = 3600.0
    door.plan = always("stale listing")
    for version in range(9):
        assert behind().compare_and_set("a", b"%d" % version, version) == Versioned(b"%d" % version, version + 1)
        with pytest.raises(Conflict):
            behind().compare_and_set("a", b"again", version)
    assert behind().get("a") == Versioned(b"8", 9)
    assert behind().list("") == []


@pytest.mark.s3
def test_the_newest_of_many_is_found_in_few_steps_and_again_in_one(behind: Behind, door: Door) -> None:
    writer = behind()
    for version in range(70):
        writer.compare_and_set("a", b"%d" % version, version)
    store = behind()
    before = door.requests
    assert store.get("a") == Versioned(b"69", 70)
    assert door.requests - before <= 2 * 7
    before = door.requests
    assert store.get("a") == Versioned(b"69", 70)
    assert door.requests - before == 1


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_named(seaweed: SeaweedFS) -> None:
    nowhere = S3Store("s3://no-such-bucket/x", seaweed.storage_options)
    for ask in (lambda: nowhere.get("a"), lambda: nowhere.compare_and_set("a", b"x", 0), lambda: nowhere.list("")):
        with pytest.raises(ConfigurationError, match="no-such-bucket"):
            ask()


def test_a_store_that_is_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "DEADLINE_S", 3.0)
    options = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    with pytest.raises(Unavailable, match="Check that the store answers"):
        S3Store("s3://bucket/prefix", options).get("a")
