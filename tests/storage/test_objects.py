from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ringlog.errors import ConfigurationError, Unavailable
from ringlog.settings import local_path
from ringlog.storage.objects import Objects


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
        Objects("s3://bucket/logs", options).write("a", b"1")


@pytest.mark.s3
def test_what_a_store_refuses_is_a_setting_to_change(seaweed: Any) -> None:
    with pytest.raises(ConfigurationError, match="Create the bucket"):
        Objects("s3://no-such-bucket/logs", seaweed.storage_options).write("a", b"1")
    wrong = {**seaweed.storage_options, "AWS_SECRET_ACCESS_KEY": "wrong"}
    for call in (lambda o: o.write("a", b"1"), lambda o: o.read("a"), lambda o: o.exists("a")):
        with pytest.raises(ConfigurationError, match="credentials"):
            call(Objects(f"s3://{seaweed.bucket}/logs", wrong))
