"""A metadata store on an S3-compatible bucket, by conditional writes.

Each version is an object of its own, written once by one PutObject with ``If-None-Match: *``. 412, 409 and 500 all
mean "read again, then decide": the refusal may be the answer to one's own earlier, successful try.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata.store import KEPT, Versioned, checked

DEADLINE_S = 20.0
_POLL_S = 0.5


class S3Store:
    """Versions of ``key`` are the objects ``<url>/<key>/<version>``.

    The newest version is looked for by listing and then upwards by reading, so that a listing that lags behind (or is
    empty) decides nothing.
    """

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
        found = None
        version = max(1, self._listed(key))
        while (value := self._read(key, version)) is not None:
            found = Versioned(value, version)
            version += 1
        return found

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        found = self.get(key)
        newest = found.version if found else 0
        if newest != expected:
            raise Conflict(f"{key} is at version {newest}, not {expected}")
        try:
            self._put(key, value, expected + 1)
        except _Refused as refusal:
            standing = self._read(key, expected + 1)
            if standing is None:
                raise OutcomeUnknown(f"the store refused version {expected + 1} of {key}: {refusal}") from refusal
            if standing != value:
                raise Conflict(f"{key} got its version {expected + 1} from somebody else") from refusal
        if expected >= KEPT:
            self._remove(key, expected + 1 - KEPT)
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        paths = self._call("find", self._prefix)
        keys = {path.removeprefix(f"{self._prefix}/").rsplit("/", 1)[0] for path in paths}
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

    def _listed(self, key: str) -> int:
        paths = self._call("find", f"{self._prefix}/{checked(key)}/")
        return max((int(path.rsplit("/", 1)[1]) for path in paths), default=0)

    def _read(self, key: str, version: int) -> bytes | None:
        try:
            return bytes(self._call("cat_file", self._path(key, version)))
        except FileNotFoundError:
            return None

    def _put(self, key: str, value: bytes, version: int) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        bucket, path = self._path(key, version).split("/", 1)
        try:
            self._files.call_s3("put_object", Bucket=bucket, Key=path, Body=value, IfNoneMatch="*")
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
        return f"{self._prefix}/{checked(key)}/{version:020d}"

    def _call(self, name: str, *args: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._files, name)(*args)
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise ConfigurationError(f"{name} {args[0]}: {error}. Check the credentials and the bucket") from error
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            raise Unavailable(f"the object store does not answer {name} {args[0]}: {error}") from error


class _Refused(Exception):
    """The PutObject did not succeed, or its answer was lost."""
