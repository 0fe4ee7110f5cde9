from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ringlog.errors import ConfigurationError, Unavailable
from ringlog.settings import local_path
from ringlog.storage.objects import Objects
from s3proxy import FAULTS, Door, S3Proxy, Script, always
from seaweed import SeaweedFS


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty root on each kind of store."""
    if request.param == "local":
        return Objects(str(tmp_path / "not yet made" / "root"), {})
    seaweed = request.getfixturevalue("seaweed")
    return Objects(f"s3://{seaweed.bucket}/{tmp_path.name}", seaweed.storage_options)


def test_what_is_written_is_read_listed_and_replaced_whole(objects: Objects) -> None:
    assert objects.list() == []
    assert not objects.exists("a/b.bin")
    objects.write("a/b.bin", b"first, and longer")
    objects.write("a/b.bin", pa.py_buffer(b"second"))
    objects.write("c.bin", b"")
    assert objects.read("a/b.bin") == b"second"
    assert objects.read("c.bin") == b""
    assert objects.list() == ["a/b.bin", "c.bin"]
    assert objects.list("a") == ["a/b.bin"]
    assert objects.exists("a/b.bin")
    assert not objects.exists("a")
    objects.sync("a/b.bin", "c.bin")


def test_only_one_creator_wins_and_what_is_removed_leaves_nothing(objects: Objects) -> None:
    objects.create("a/b/c.bin", b"first")
    with pytest.raises(FileExistsError):
        objects.create("a/b/c.bin", b"second")
    assert objects.read("a/b/c.bin") == b"first"
    objects.write("a/d.bin", b"")
    objects.remove("a/b/c.bin")
    objects.remove("a/b/c.bin")
    assert objects.list() == ["a/d.bin"]
    assert objects.list("a/b") == []
    objects.remove("a/d.bin")
    assert objects.list() == []
    folder = local_path(objects.url)
    assert folder is None or not (Path(folder) / "a" / "b").exists()
    objects.create("a/b/c.bin", b"third")


def test_an_absent_object_is_named(objects: Objects) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing/here\.bin does not exist"):
        objects.read("nothing/here.bin")


@pytest.mark.s3
def test_a_large_object_is_one_put(seaweed: Any, tmp_path: Path) -> None:
    objects = Objects(f"s3://{seaweed.bucket}/{tmp_path.name}", seaweed.storage_options)
    objects.write("large.bin", pa.py_buffer(b"x" * (101 * 2**20)))
    etag = objects._store._files.info(f"{seaweed.bucket}/{tmp_path.name}/large.bin")["ETag"]  # type: ignore[attr-defined]
    assert "-" not in etag, "an ETag with a dash is that of a multipart upload"


def test_bytes_names_and_folders_are_synced_before_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    real = os.fsync

    def recording(handle: int) -> None:
        status = os.fstat(handle)
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "file"
        synced.append((kind, status.st_ino))
        real(handle)

    monkeypatch.setattr(os, "fsync", recording)
    root = tmp_path / "root"
    Objects(str(root), {}).write("date=2025-10-09/a", b"1")
    written = root / "date=2025-10-09" / "a"
    assert ("file", written.stat().st_ino) in synced
    last = len(synced) - synced[::-1].index(("folder", written.parent.stat().st_ino))
    assert last > synced.index(("file", written.stat().st_ino)), "the name must be synced after the bytes"
    for folder in (root, tmp_path):
        assert ("folder", folder.stat().st_ino) in synced


def test_a_failed_write_leaves_the_old_object_and_no_rubbish(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path), {})
    (tmp_path / "a").mkdir()
    with pytest.raises(Unavailable, match="cannot write"):
        objects.write("a", b"a folder cannot be replaced by a file")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_an_unfinished_write_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.0123.tmp").write_bytes(b"half")
    assert Objects(str(tmp_path), {}).list() == []


def test_nobody_at_the_endpoint_is_unavailable() -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }
    with pytest.raises(Unavailable, match=r"s3://bucket/logs/a.*try again"):
        Objects("s3://bucket/logs", options, deadline_s=2.0).write("a", b"1")


@pytest.mark.s3
def test_what_a_store_refuses_is_a_setting_to_change(seaweed: Any) -> None:
    with pytest.raises(ConfigurationError, match="Create the bucket"):
        Objects("s3://no-such-bucket/logs", seaweed.storage_options).write("a", b"1")
    wrong = {**seaweed.storage_options, "AWS_SECRET_ACCESS_KEY": "wrong"}
    for call in (lambda o: o.write("a", b"1"), lambda o: o.read("a"), lambda o: o.exists("a")):
        with pytest.raises(ConfigurationError, match="credentials"):
            call(Objects(f"s3://{seaweed.bucket}/logs", wrong))


@pytest.fixture
def proxy(seaweed: SeaweedFS) -> Iterator[S3Proxy]:
    with S3Proxy(seaweed.url) as made:
        made.slow_s, made.lag_s = 0.2, 0.0
        yield made


@dataclass(frozen=True)
class Behind:
    """An empty root behind a door of its own."""

    objects: Objects
    usual: Objects
    """The same with the usual deadline: for calls that a busy machine may take its time for."""
    door: Door

    @classmethod
    def made(cls, seaweed: SeaweedFS, proxy: S3Proxy, deadline_s: float) -> Behind:
        door = proxy.door()
        options = {**seaweed.storage_options, "AWS_ENDPOINT_URL": door.url}
        root = seaweed.root(uuid.uuid4().hex)
        objects, usual = Objects(root, options, deadline_s), Objects(root, options)
        # However long it takes, before any deadline counts: botocore reads its descriptions of S3.
        assert objects._store._files.exists(seaweed.bucket)  # type: ignore[attr-defined]
        return cls(objects, usual, door)


def meet(behind: Behind, kind: str) -> None:
    """Every call, each with one fault."""
    script = Script()
    behind.door.plan = script
    objects = behind.objects

    def once(at: str) -> None:
        assert script.left == [], "the fault before did not happen"
        script.left.append((kind, at))

    once("PUT")
    objects.write("a", b"a" * 1000)
    once("PUT")
    try:
        objects.create("b", b"b")
    except FileExistsError:
        assert FAULTS[kind].reaches != "nothing", "one's own, stored by a request whose answer was lost"
    objects.write("c", b"c")
    once("GET")
    assert objects.read("a") == b"a" * 1000
    once("listing")
    assert objects.list() == ["a", "b", "c"]
    once("HEAD")
    assert objects.exists("a")
    once("HEAD")
    assert not objects.exists("d")
    once("DELETE")
    objects.remove("a")
    once("GET")
    with pytest.raises(FileNotFoundError):
        objects.read("a")
    once("nothing of this")
    assert objects.list() == ["b", "c"]


@pytest.mark.s3
def test_one_fault_fails_nothing(seaweed: SeaweedFS, proxy: S3Proxy) -> None:
    kinds = [kind for kind in FAULTS if kind != "late"]  # a late write may well come after a removal
    roots = [Behind.made(seaweed, proxy, deadline_s=12.0) for _ in kinds]
    with ThreadPoolExecutor(len(roots)) as pool:
        assert list(pool.map(meet, roots, kinds)) == [None] * len(kinds)


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["503 before", "409", "reset after", "silence before", "truncated read"])
def test_a_store_that_fails_for_longer_than_the_deadline_is_unavailable(
    seaweed: SeaweedFS, proxy: S3Proxy, kind: str
) -> None:
    behind = Behind.made(seaweed, proxy, deadline_s=2.0)
    objects = behind.objects
    behind.usual.write("a", b"a" * 1000)
    behind.door.plan = always(kind)
    calls: list[Callable[[], object]] = [
        lambda: objects.read("a"),
        lambda: objects.exists("a"),
        lambda: objects.remove("x"),
        lambda: objects.write("b", b"b"),
        lambda: objects.create("c", b"c"),
        objects.list,
    ]

    def refused(call: Callable[[], object]) -> None:
        with pytest.raises(Unavailable, match="try again"):
            call()

    with ThreadPoolExecutor(len(calls)) as pool:
        assert list(pool.map(refused, calls)) == [None] * len(calls)
    behind.door.plan = None
    assert behind.usual.read("a") == b"a" * 1000


@pytest.mark.s3
def test_an_answer_that_always_breaks_off_is_unavailable(seaweed: SeaweedFS, proxy: S3Proxy) -> None:
    behind = Behind.made(seaweed, proxy, deadline_s=30.0)
    behind.objects.write("a", b"a" * 100_000)
    behind.objects.create("b", b"b")
    behind.objects._store._files.retries = 1  # type: ignore[attr-defined]  # it would take long
    behind.door.plan = always("truncated read")
    for call in (lambda: behind.objects.read("a"), lambda: behind.objects.create("b", b"b")):
        with pytest.raises(Unavailable, match="try again"):
            call()


@pytest.mark.s3
def test_half_a_write_is_no_object(seaweed: SeaweedFS, proxy: S3Proxy) -> None:
    behind = Behind.made(seaweed, proxy, deadline_s=2.0)
    behind.door.plan = always("truncated write")
    with pytest.raises(Unavailable):
        behind.objects.write("a", b"a" * 1000)
    behind.door.plan = None
    assert behind.usual.list() == []
    assert not behind.usual.exists("a")
