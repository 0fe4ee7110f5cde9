"""Whole objects under one root: a local folder or an S3-compatible store, with the settings of delta-rs."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ringlog.errors import ConfigurationError, RinglogError, Unavailable
from ringlog.settings import local_path

DEADLINE_S = 60.0
"""How long one call to an object store may take, with its retries."""
_ANSWERS_MIN = 4
"""How often a store that takes requests and never answers is asked before the deadline."""
_CONFLICT_PAUSE_S = 0.5
_ONE_PUT_BYTES = 5 * 2**30
_UNFINISHED = ".tmp"


class Objects:
    """Whole objects under ``url``: written once, read whole, durable when the call returns.

    ``storage_options`` are spelled as delta-rs spells them (``AWS_ENDPOINT_URL``, ``AWS_REGION``, …), so that
    one mapping serves both. Paths are relative to ``url`` and use ``/``. ``deadline_s`` bounds every call, the retries
    included; None is `DEADLINE_S`.

    Every method raises `Unavailable` when the store does not answer, and `ConfigurationError` when it refuses
    (wrong credentials, no such bucket, no permission).

    >>> import tempfile
    >>> objects = Objects(tempfile.mkdtemp(), {})
    >>> objects.write("date=2025-01-01/a.parquet", b"PAR1")
    >>> objects.read("date=2025-01-01/a.parquet"), objects.list("date=2025-01-01")
    (b'PAR1', ['date=2025-01-01/a.parquet'])
    """

    def __init__(self, url: str, storage_options: Mapping[str, str], deadline_s: float | None = None) -> None:
        self.url = url.rstrip("/")
        folder = local_path(url)
        self._store: _Store = (
            _Folder(Path(folder)) if folder is not None else _Bucket(url, storage_options, deadline_s or DEADLINE_S)
        )

    def write(self, path: str, data: bytes | pa.Buffer) -> None:
        """Store ``data`` as ``path``, whole or not at all; replaces what was there."""
        with self._explained("write", path):
            self._store.write(path, data)

    def create(self, path: str, data: bytes) -> None:
        """Store ``data`` as ``path``. Raises `FileExistsError` where something is already, which then stays.

        It may be one's own: on an object store, the answer to an earlier try can be lost.
        """
        with self._explained("create", path):
            self._store.create(path, data)

    def remove(self, path: str) -> None:
        """Make ``path`` be gone, and the folders that held nothing else."""
        with self._explained("remove", path):
            self._store.remove(path)

    def read(self, path: str) -> bytes:
        """The bytes of ``path``. Raises `FileNotFoundError` where there is none."""
        with self._explained("read", path, absent=FileNotFoundError(f"{self.url}/{path} does not exist")):
            return self._store.read(path)

    def exists(self, path: str) -> bool:
        """Whether ``path`` is an object."""
        with self._explained("look up", path):
            return self._store.exists(path)

    def sync(self, *paths: str) -> None:
        """Make what another library wrote survive a power cut; an object store promises that by itself."""
        with self._explained("sync", ", ".join(paths)):
            self._store.sync(*paths)

    def list(self, prefix: str = "") -> list[str]:
        """The paths of all objects below the folder ``prefix``, sorted. Unfinished writes are no objects."""
        with self._explained("list", prefix):
            return sorted(path for path in self._store.list(prefix) if not path.endswith(_UNFINISHED))

    @contextmanager
    def _explained(self, verb: str, path: str, absent: Exception | None = None) -> Iterator[None]:
        where = f"{self.url}/{path}"
        try:
            yield
        except (RinglogError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if absent is not None and _said(error).get("Error", {}).get("Code") != "NoSuchBucket":
                raise absent from error
            raise ConfigurationError(
                f"cannot {verb} {where}: {error}. Create the bucket or the folder, or change root"
            ) from error
        except PermissionError as error:
            raise ConfigurationError(
                f"not allowed to {verb} {where}: {error}. Check the credentials and the permissions"
            ) from error
        except OSError as error:
            raise Unavailable(
                f"cannot {verb} {where} now: {error}. Check that the store answers and has room; try again"
            ) from error


class _Store(Protocol):
    """What both kinds of store do; they raise `OSError` and its kinds."""

    def write(self, path: str, data: bytes | pa.Buffer) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def remove(self, path: str) -> None: ...
    def read(self, path: str) -> bytes: ...
    def exists(self, path: str) -> bool: ...
    def sync(self, *paths: str) -> None: ...
    def list(self, prefix: str) -> list[str]: ...


class _Folder:
    """A local folder: an object is there whole, and survives a power cut, when ``write`` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, path: str, data: bytes | pa.Buffer) -> None:
        self._place(path, data, Path.replace)

    def create(self, path: str, data: bytes) -> None:
        self._place(path, data, os.link)

    def remove(self, path: str) -> None:
        target = self._root / path
        target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == self._root:
                break
            try:
                folder.rmdir()
            except OSError:
                break  # it holds something else, or somebody else has removed it

    def _place(self, path: str, data: bytes | pa.Buffer, move: Callable[[Path, Path], object]) -> None:
        """Write aside, ``move`` it to its name, and sync it all."""
        target = self._root / path
        for folder in reversed([target.parent, *target.parent.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                _fsync(folder.parent)
        unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            move(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        # Another process may have made these folders and not have synced them yet.
        for folder in [target.parent, *target.parent.parents]:
            _fsync(folder)
            if folder == self._root:
                break

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def sync(self, *paths: str) -> None:
        targets = [self._root / path for path in paths]
        for target in targets:
            _fsync(target)
        for folder in {target.parent for target in targets}:
            _fsync(folder)

    def list(self, prefix: str) -> list[str]:
        found = (self._root / prefix).rglob("*")
        return [path.relative_to(self._root).as_posix() for path in found if path.is_file()]


class _Bucket:
    """A prefix of an S3 bucket. Every write is one PutObject, never a multipart upload left half done.

    botocore tries again, after pauses that grow and are random, when a request fails on its way or at the server, and
    s3fs when an answer breaks off. So any of these calls may have been carried out more than once.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str], deadline_s: float) -> None:
        self._prefix = url.split("://", 1)[1].rstrip("/")
        self._deadline_s = deadline_s
        self._files = _s3(storage_options, deadline_s / _ANSWERS_MIN)

    def write(self, path: str, data: bytes | pa.Buffer) -> None:
        body = data.to_pybytes() if isinstance(data, pa.Buffer) else data
        self._answered("pipe_file", self._path(path), body, chunksize=_ONE_PUT_BYTES)

    def create(self, path: str, data: bytes) -> None:
        try:
            self._answered("call_s3", "put_object", **self._named(path), Body=data, IfNoneMatch="*")
        except OSError as error:
            if _status(error) == 412:
                raise FileExistsError(str(error)) from error
            raise

    def remove(self, path: str) -> None:
        try:
            self._answered("rm_file", self._path(path))
        except FileNotFoundError:
            return  # it is gone

    def read(self, path: str) -> bytes:
        return bytes(self._answered("cat_file", self._path(path), max_concurrency=1))

    def exists(self, path: str) -> bool:
        try:
            self._answered("call_s3", "head_object", **self._named(path))
        except FileNotFoundError:
            return False
        return True

    def sync(self, *paths: str) -> None:
        """A PutObject that was answered is durable."""

    def list(self, prefix: str) -> list[str]:
        start = len(self._prefix) + 1
        found = (path[start:] for path in self._answered("find", self._path(prefix)))
        # Some stores and consoles keep a folder as an object of its own, which holds nothing.
        return [path for path in found if path.rstrip("/") != prefix.rstrip("/")]

    def _path(self, path: str) -> str:
        return f"{self._prefix}/{path}"

    def _named(self, path: str) -> dict[str, str]:
        bucket, _, key = self._path(path).partition("/")
        return {"Bucket": bucket, "Key": key}

    def _answered(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``name`` of the file system. Raises `OSError` and its kinds."""
        deadline = time.monotonic() + self._deadline_s
        pause = threading.Event()
        while True:
            try:
                return self._ask(name, deadline - time.monotonic(), *args, **kwargs)
            except OSError as error:
                # Somebody else's write of the same object is under way: S3 wants to be asked again.
                wait_s = random.uniform(0.0, _CONFLICT_PAUSE_S)
                if _status(error) != 409 or time.monotonic() + wait_s >= deadline:
                    raise
            pause.wait(wait_s)

    def _ask(self, name: str, within_s: float, *args: Any, **kwargs: Any) -> Any:
        from botocore.exceptions import BotoCoreError, NoCredentialsError  # type: ignore[import-untyped]
        from s3fs.core import S3_RETRYABLE_ERRORS

        try:
            return getattr(self._files, name)(*args, timeout=within_s, **kwargs)
        except NoCredentialsError as error:
            raise PermissionError(str(error)) from error
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {self._deadline_s:g} s") from error
        except (BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
            raise OSError(str(error)) from error


def _status(error: OSError) -> int | None:
    """The HTTP status that an error comes from, if it comes from one."""
    status: int | None = _said(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _said(error: OSError) -> Mapping[str, Any]:
    """What S3 said, where it is S3 that an error comes from."""
    return getattr(error.__cause__, "response", None) or {}


def _s3(options: Mapping[str, str], answer_s: float) -> Any:
    """The s3fs file system that reaches what delta-rs reaches with ``options``; each request waits for ``answer_s``."""
    import s3fs

    chosen = {name.upper(): value for name, value in options.items()}
    return s3fs.S3FileSystem(
        key=chosen.get("AWS_ACCESS_KEY_ID"),
        secret=chosen.get("AWS_SECRET_ACCESS_KEY"),
        token=chosen.get("AWS_SESSION_TOKEN"),
        endpoint_url=chosen.get("AWS_ENDPOINT_URL"),
        client_kwargs={"region_name": chosen["AWS_REGION"]} if "AWS_REGION" in chosen else {},
        # Newer checksum headers are refused by some S3-compatible stores; Parquet pages carry their own.
        config_kwargs={"request_checksum_calculation": "when_required", "read_timeout": answer_s},
        use_listings_cache=False,
    )


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
