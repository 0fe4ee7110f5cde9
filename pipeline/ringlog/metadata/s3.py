"""A metadata store on an S3-compatible bucket, by conditional writes.

Each version is an object of its own, written once by one PutObject with ``If-None-Match: *``. 412, 409 and 500 all
mean "read again, then decide": the refusal may be the answer to one's own earlier, successful try.

How the newest version is found: list the key's versions, then read upwards from the highest until nothing is there.
An empty listing alone says nothing: version 1 is never removed, and only when it cannot be read either is the key new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata.store import KEPT, Versioned, checked, version_name, versions_among

DEADLINE_S = 20.0
"""How long one call may take, with its retries, and how long a listing may contradict what can be read."""
_POLL_S = 0.5
_RELIST_S = 0.05


class S3Store:
    """Versions of ``key`` are the objects ``<url>/<key>/<version>``."""

    def __init__(self, url: str, storage_options: Mapping[str, str]) -> None:
        import s3fs

        self._prefix = url.removeprefix("s3://").rstrip("/")
        options = {name.upper(): value for name, value in storage_options.items()}
        self._files = s3fs.S3FileSystem(
            key=options.get("AWS_ACCESS_KEY_ID"),
            secret=options.get("AWS_SECRET_ACCESS_KEY"),
            token=options.get("AWS_SESSION_TOKEN"),
            endpoint_url=options.get("AWS_ENDPOINT_URL"),
            client_kwargs={"region_name": options["AWS_REGION"]} if "AWS_REGION" in options else {},
            config_kwargs={"request_checksum_calculation": "when_required"},
            use_listings_cache=False,
        )

    def get(self, key: str) -> Versioned | None:
        """See `MetadataStore`."""
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while True:
            listed = max(self._versions(key), default=0)
            value = self._read(key, max(1, listed))
            if value is None and not listed:
                return None
            if value is not None and listed:
                return self._upwards(key, Versioned(value, listed))
            # The key was made just now, newer versions took the place of the listed one, or the listing lags behind.
            if time.monotonic() >= deadline:
                raise Unavailable(f"listings of {self._prefix}/{key} contradict what is there: try again")
            pause.wait(_RELIST_S)

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        found = self.get(key)
        newest = found.version if found else 0
        if newest != expected:
            raise Conflict(f"{key} is at version {newest}, not {expected}")
        try:
            self._write(key, value, expected + 1)
            newest = self._tidied(key)
        except Unavailable as error:
            raise OutcomeUnknown(f"version {expected + 1} of {key} may stand or not: {error}. Read again") from error
        if newest > expected + KEPT:
            raise OutcomeUnknown(f"{key} is at version {newest}, {expected + 1} may not have counted: read again")
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        paths = (path.removeprefix(f"{self._prefix}/").rpartition("/") for path in self._find(self._prefix))
        keys = {key for key, _, name in paths if versions_among([name])}
        return sorted(key for key in keys if key.startswith(prefix))

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """See `MetadataStore`."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            found = self.get(key)
            if found is not None and found.version > after:
                return found
            if time.monotonic() >= deadline:
                return None
            pause.wait(_POLL_S)

    def close(self) -> None:
        """Nothing to let go of."""

    def _versions(self, key: str) -> Sequence[int]:
        folder = f"{self._prefix}/{checked(key)}/"
        return versions_among(path.removeprefix(folder) for path in self._find(folder))

    def _upwards(self, key: str, found: Versioned) -> Versioned:
        while (value := self._read(key, found.version + 1)) is not None:
            found = Versioned(value, found.version + 1)
        return found

    def _write(self, key: str, value: bytes, version: int) -> None:
        """Put, and where that was refused, read what stands there."""
        try:
            self._put(key, value, version)
        except _Refused as refusal:
            standing = self._read(key, version)
            if standing is None:
                raise OutcomeUnknown(f"the store refused version {version} of {key}: {refusal}") from refusal
            if standing != value:
                raise Conflict(f"{key} got its version {version} from somebody else") from refusal

    def _tidied(self, key: str) -> int:
        """The newest version, now that those too old to stay are removed; all but the first."""
        versions = self._versions(key)
        newest = max(versions, default=0)
        for version in versions:
            if 1 < version <= newest - KEPT:
                self._remove(key, version)
        return newest

    def _read(self, key: str, version: int) -> bytes | None:
        try:
            return bytes(self._call("cat_file", self._path(key, version)))
        except FileNotFoundError:
            return None

    def _put(self, key: str, value: bytes, version: int) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        bucket, path = self._path(key, version).split("/", 1)
        try:
            self._files.call_s3("put_object", Bucket=bucket, Key=path, Body=value, IfNoneMatch="*", timeout=DEADLINE_S)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            if isinstance(error, PermissionError):
                raise ConfigurationError(f"may not write {bucket}/{path}: {error}. Check the credentials") from error
            raise _Refused(str(error)) from error

    def _remove(self, key: str, version: int) -> None:
        try:
            self._call("rm_file", self._path(key, version))
        except FileNotFoundError:
            return  # somebody else removed it

    def _path(self, key: str, version: int) -> str:
        return f"{self._prefix}/{checked(key)}/{version_name(version)}"

    def _find(self, folder: str) -> Sequence[str]:
        try:
            found: Sequence[str] = self._call("find", folder)
        except FileNotFoundError as error:
            raise ConfigurationError(f"cannot list {folder}: {error}. Create the bucket, or change root") from error
        return found

    def _call(self, name: str, *args: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._files, name)(*args, timeout=DEADLINE_S)
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise ConfigurationError(f"{name} {args[0]}: {error}. Check the credentials and the bucket") from error
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            raise Unavailable(f"the object store does not answer {name} {args[0]}: {error}") from error


class _Refused(Exception):
    """The PutObject did not succeed, or its answer was lost."""
