"""A metadata store on etcd (3.4 or newer), over the JSON gateway that every etcd server has on its client port.

etcd itself counts the versions of a key, from 1 and without a gap while nothing deletes it: a transaction that compares
that count is the compare-and-set. Reads are linearizable whichever endpoint answers. A write is sent again only where
surely nobody got it, so that its Conflict is never the answer to its own earlier, successful try.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError

from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata.store import Versioned, checked
from ringlog.settings import etcd_address

DEADLINE_S = 10.0
"""How long one call may take, over all endpoints."""
_SILENCE_S = 10.0
"""A watch that hears nothing for this long looks for itself, in case its endpoint is cut off."""
_RETRY_S = 0.1
_CONNECTIONS_KEPT = 16

# A member that has lost its leader then refuses at once what it would otherwise hold back, and ends its watches.
_HEADERS = {"Grpc-Metadata-hasleader": "true"}
_NO_ROOM = 429
_NOT_FOR_US = (400, 401, 403, 404, 405, 421)


class EtcdStore:
    """Versions of ``key`` are those of etcd's ``<prefix>/<key>``; ``url`` is ``etcd://host:port[,host:port]/prefix``."""

    def __init__(self, url: str) -> None:
        endpoints, self._prefix = etcd_address(url)
        self._endpoints = [
            urllib3.connection_from_url(
                f"http://{endpoint}", retries=False, headers=_HEADERS, maxsize=_CONNECTIONS_KEPT
            )
            for endpoint in endpoints
        ]
        self._first = 0  # the endpoint to ask first: the one that answered last

    def get(self, key: str) -> Versioned | None:
        """See `MetadataStore`."""
        return self._read(key)[0]

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        """See `MetadataStore`."""
        name = self._name(checked(key))
        change = {
            "compare": [{"key": name, "target": "VERSION", "result": "EQUAL", "version": str(expected)}],
            "success": [{"request_put": {"key": name, "value": _text(value)}}],
        }
        try:
            answer = self._ask("kv/txn", change, repeatable=False)
        except _NoAnswer as error:
            raise OutcomeUnknown(f"version {expected + 1} of {key} may stand or not: {error}. Read again") from error
        if not answer.get("succeeded"):
            raise Conflict(f"{key} is not at version {expected}")
        return Versioned(value, expected + 1)

    def list(self, prefix: str) -> list[str]:
        """See `MetadataStore`."""
        first = f"{self._prefix}/{prefix}".encode()
        beyond = first[:-1] + bytes([first[-1] + 1])  # UTF-8 has no byte 255
        answer = self._ask("kv/range", {"key": _text(first), "range_end": _text(beyond), "keys_only": True})
        names = (base64.b64decode(found["key"]).decode() for found in answer.get("kvs", ()))
        return sorted(name.removeprefix(f"{self._prefix}/") for name in names)

    def watch(self, key: str, after: int, timeout_s: float) -> Versioned | None:
        """See `MetadataStore`. While etcd is away it goes on trying, and raises when the time is over.

        etcd's watch only wakes: it begins at the revision after a read, and the next read brings the version.
        """
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            try:
                found, revision = self._read(key)
                left_s = deadline - time.monotonic()
                if found is not None and found.version > after:
                    return found
                if left_s <= 0:
                    return None
                self._await_change(key, revision + 1, min(left_s, _SILENCE_S))
            except Unavailable:
                if time.monotonic() >= deadline:
                    raise
                pause.wait(_RETRY_S)
            except _NoAnswer:
                pause.wait(_RETRY_S)  # then the next read finds another endpoint, or says that there is none

    def close(self) -> None:
        """Let go of connections."""
        for endpoint in self._endpoints:
            endpoint.close()

    def _name(self, key: str) -> str:
        return _text(f"{self._prefix}/{key}".encode())

    def _read(self, key: str) -> tuple[Versioned | None, int]:
        """The newest value, and the revision of the whole store as of which it is the newest."""
        answer = self._ask("kv/range", {"key": self._name(checked(key))})
        revision = int(answer["header"]["revision"])
        for found in answer.get("kvs", ()):
            return Versioned(base64.b64decode(found.get("value", "")), int(found["version"])), revision
        return None, revision

    def _await_change(self, key: str, revision: int, timeout_s: float) -> None:
        """Until ``key`` changed at ``revision`` or later, or nothing was heard for so long. Raises `_NoAnswer`."""
        wish = {"create_request": {"key": self._name(key), "start_revision": str(revision)}}
        with self._sent(self._endpoints[self._first], "watch", wish, timeout_s) as response:
            try:
                for line in response:
                    told = orjson.loads(line).get("result", {})
                    if "events" in told:
                        return
                    if not told.get("created"):
                        break
            except ReadTimeoutError:
                return
            finally:
                response.close()
            raise _NoAnswer("the watch was ended")

    def _ask(self, path: str, question: Mapping[str, Any], *, repeatable: bool = True) -> dict[str, Any]:
        """The answer of the first endpoint that gives one.

        Raises `Unavailable` when there is none, and `_NoAnswer` when one may have done what is not ``repeatable``.
        """
        deadline = time.monotonic() + DEADLINE_S
        first, count = self._first, len(self._endpoints)
        troubles = []
        for tried in range(count):
            at = (first + tried) % count
            share_s = (deadline - time.monotonic()) / (count - tried)
            try:
                with self._sent(self._endpoints[at], path, question, max(share_s, _RETRY_S)) as response:
                    answer: dict[str, Any] = orjson.loads(response.data)
            except _NoAnswer as error:
                self._first = (at + 1) % count
                if not (repeatable or isinstance(error, _NothingDone)):
                    raise
                troubles.append(str(error))
            else:
                self._first = at
                return answer
        raise Unavailable(f"etcd does not answer {path}: {'; '.join(troubles)}")

    @contextmanager
    def _sent(
        self, endpoint: urllib3.HTTPConnectionPool, path: str, question: Mapping[str, Any], timeout_s: float
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The good answer, to be read inside the block. Raises `_NoAnswer` or `ConfigurationError`."""
        body = orjson.dumps(question)
        timeout = urllib3.Timeout(total=timeout_s)
        try:
            response = endpoint.urlopen("POST", f"/v3/{path}", body, timeout=timeout, preload_content=False)
            if response.status != 200:
                _raise_refusal(f"{endpoint.host}:{endpoint.port}", response.status, response.data)
            yield response
        except ConnectTimeoutError as error:  # also a refused connection and an unknown host
            raise _NothingDone(str(error)) from error
        except (HTTPError, orjson.JSONDecodeError) as error:
            raise _NoAnswer(str(error)) from error


class _NoAnswer(Exception):
    """The endpoint may have done it or not."""


class _NothingDone(_NoAnswer):
    """The endpoint surely did nothing."""


def _raise_refusal(endpoint: str, status: int, body: bytes) -> None:
    said = f"{endpoint} answers {status}: {body[:200].decode(errors='replace').strip()}"
    if status in _NOT_FOR_US:
        raise ConfigurationError(f"{said}. metadata must name etcd 3.4 or newer that takes plain HTTP without a user")
    if status == _NO_ROOM:
        raise _NothingDone(said)
    raise _NoAnswer(said)  # even "unavailable" may come after the change has gone to the other members


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
