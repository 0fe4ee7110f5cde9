"""A proxy before a real S3 server that plays what networks, load balancers and overloaded stores do to requests.

It passes bytes on as they came: the Host header that a client has signed, chunks, `aws-chunked` bodies. A `Fault` says for
one request what of it reaches the server, and what of the answer reaches the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

HOLD_S = 30.0
"""How long a request that gets no answer is held, if its client waits for that long."""
_PIECES = 8
_CODES = {409: "ConditionalRequestConflict", 500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True)
class Fault:
    """What happens to one request."""

    reaches: Literal["nothing", "half", "once", "twice", "slowly", "late"] = "once"
    """What the server gets; ``twice``: the answer is that to the second, as when a load balancer asked again; ``late``: it
    gets it when the client has had its answer for a while, whatever becomes of the client."""
    answer: Literal["its", "reset", "none", "half", "slowly", "stale"] | int = "its"
    """What the client gets: the server's answer, an error of this status, or worse. ``stale``: new objects are not listed."""


FAULTS = {
    "500 before": Fault("nothing", 500),
    "500 after": Fault("once", 500),
    "503 before": Fault("nothing", 503),
    "503 after": Fault("once", 503),
    "409": Fault("nothing", 409),
    "reset before": Fault("nothing", "reset"),
    "reset after": Fault("once", "reset"),
    "silence before": Fault("nothing", "none"),
    "silence after": Fault("once", "none"),
    "slow write": Fault("slowly", "its"),
    "slow read": Fault("once", "slowly"),
    "truncated write": Fault("half", "reset"),
    "truncated read": Fault("once", "half"),
    "asked twice": Fault("twice", "its"),
    "late": Fault("late", "reset"),
    "stale listing": Fault("once", "stale"),
}
"""The kinds by name. ``asked twice`` is a 412 for one's own write, as is every fault after the server wrote that is retried."""


@dataclass(frozen=True)
class Request:
    """One request as it came: ``head`` with its empty line, and ``body`` with its framing."""

    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        """``GET``, ``PUT`` and so on."""
        return self.head.split(b" ", 1)[0].decode()

    @property
    def path(self) -> str:
        """``/bucket/key``, decoded."""
        return unquote(urlsplit(self._target).path)

    @property
    def lists(self) -> str | None:
        """The prefix that a listing asks for; None where this is no listing."""
        query = parse_qs(urlsplit(self._target).query, keep_blank_values=True)
        return query.get("prefix", [""])[0] if self.method == "GET" and query.keys() & {"list-type", "prefix"} else None

    @property
    def decides(self) -> bool:
        """Whether it is a conditional write: a commit, or a compare-and-set."""
        return self.method == "PUT" and bool(_header(self.head, b"if-none-match"))

    @property
    def _target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + ("" if self.lists is None else f" listing {self.lists}")


Plan = Callable[[Request], "str | None"]
"""The name of the fault that a request meets; None lets it pass."""


def always(kind: str) -> Plan:
    """Every request meets ``kind``."""
    return lambda _: kind


class Script:
    """``steps``, in order: a fault and the part of ``str(request)`` that it waits for. All else passes."""

    def __init__(self, *steps: tuple[str, str]) -> None:
        self.left = list(steps)

    def __call__(self, request: Request) -> str | None:
        if self.left and self.left[0][1] in str(request):
            return self.left.pop(0)[0]
        return None


class Chance:
    """``rate`` of the requests, and ``decisions`` of those that decide something, meet any of ``kinds``, as ``seed`` has it."""

    def __init__(self, seed: int, rate: float, decisions: float, kinds: tuple[str, ...] = tuple(FAULTS)) -> None:
        self._draw = random.Random(seed)
        self._rate, self._decisions = rate, decisions
        self._kinds = kinds

    def __call__(self, request: Request) -> str | None:
        fit = [kind for kind in self._kinds if FAULTS[kind].answer != "stale" or request.lists is not None]
        rate = self._decisions if request.decides else self._rate
        return self._draw.choice(fit) if fit and self._draw.random() < rate else None


class S3Proxy:
    """Doors to the server at ``url``, served by one thread from when the ``with`` block begins until it ends."""

    def __init__(self, url: str) -> None:
        self._host, self._port = str(urlsplit(url).hostname), int(urlsplit(url).port or 80)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="s3proxy", daemon=True)
        self._doors: list[Door] = []
        self.failures: list[BaseException] = []
        """What the proxy itself could not do; the end of the block raises it."""
        self.born: dict[str, float] = {}
        """When each object was last written, by ``/bucket/key``."""
        self.slow_s = 0.5
        """How long a slow request takes on top."""
        self.lag_s = 0.5
        """How old an object must be to stand in a stale listing."""
        self.late_s = 0.5
        """When a late request gets to the server."""
        self.underway: set[asyncio.Task[None]] = set()
        """The late requests that are still to get there."""

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for door in self._doors:
            self.run(door.close())
        self.run(end(self.underway))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for failure in self.failures:
            raise failure

    def door(self, plan: Plan | None = None) -> Door:
        """Another way in, with a plan of its own; without one, all is well."""
        door = Door(self, plan)
        self.run(door.open())
        self._doors.append(door)
        return door

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the proxy's thread do it, and wait."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def send_late(self, request: Request) -> None:
        """Let the server have ``request`` some time from now."""

        async def send() -> None:
            await asyncio.sleep(self.late_s)
            await self.ask(request)

        task = asyncio.ensure_future(send())
        self.underway.add(task)
        task.add_done_callback(self.ended)
        task.add_done_callback(self.underway.discard)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Note what a task of the proxy failed with."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def ask(self, request: Request, *, half: bool = False, slowly: bool = False) -> tuple[bytes, bytes]:
        """Head and body of the server's answer; both empty to a request of which it got only ``half``."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            if half:
                whole = request.head if not request.body else request.head + request.body[: len(request.body) // 2]
                writer.write(whole[: -len(whole) // 3] if not request.body else whole)
                await writer.drain()
                return b"", b""
            writer.write(request.head)
            await _send(writer, request.body, self.slow_s if slowly else 0.0)
            head = await _head(reader)
            while head.split(b" ", 2)[1].startswith(b"1"):
                head = await _head(reader)
            empty = request.method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304")
            body = b"" if empty else await _body(reader, head, until_end=True)
        finally:
            writer.close()
        if request.method == "PUT" and head.split(b" ", 2)[1] == b"200":
            self.born[request.path] = time.monotonic()
        return head, body

    def aged(self, request: Request, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """The answer to a listing without the objects that are younger than `lag_s`."""
        bucket = "/" + request.path.strip("/")
        old = time.monotonic() - self.lag_s
        if _header(head, b"transfer-encoding"):
            body = b"".join(_chunks(body))

        def kept(found: re.Match[bytes]) -> bytes:
            key = unquote(html.unescape(found[1].decode()))
            return found[0] if self.born.get(f"{bucket}/{key}", 0.0) <= old else b""

        body = re.sub(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", kept, body, flags=re.DOTALL)
        lines = [line for line in head.split(b"\r\n")[:-2] if not re.match(rb"(?i)content-length|transfer-enc", line)]
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]), body


class Door:
    """One address of the proxy. ``plan`` may be exchanged at any time; ``met`` counts the faults."""

    def __init__(self, proxy: S3Proxy, plan: Plan | None) -> None:
        self.proxy = proxy
        self.plan = plan
        self.met: Counter[str] = Counter()
        self.requests = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Whoever is connected is cut off, whatever it was about to do."""
        self.proxy.run(end(self._serving))

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        await end(self._serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self.proxy.ended)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # What ends a connection at either side ends it at the other.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection goes on."""
        head = await _head(reader)
        if _header(head, b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = Request(head, await _body(reader, head))
        self.requests += 1
        kind = None if self.plan is None else self.plan(request)
        fault = Fault() if kind is None else FAULTS[kind]
        if kind is not None:
            self.met[kind] += 1
        answer = (b"", b"")
        if fault.reaches == "twice":
            await self.proxy.ask(request)
        if fault.reaches == "late":
            self.proxy.send_late(request)
        elif fault.reaches != "nothing":
            answer = await self.proxy.ask(request, half=fault.reaches == "half", slowly=fault.reaches == "slowly")
        return await self._answer(reader, writer, request, fault.answer, answer)

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Request,
        how: str | int,
        answer: tuple[bytes, bytes],
    ) -> bool:
        head, body = _error(int(how), request) if isinstance(how, int) else answer
        if how == "reset":
            # Unread or unsent bytes are dropped, and the client gets RST instead of an end.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if how == "none":
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), HOLD_S)
            return False
        if how == "half":
            writer.write(head + body[: len(body) // 2] if body else head[: len(head) // 2])
            await writer.drain()
            return False
        if how == "stale" and request.lists is not None:
            head, body = self.proxy.aged(request, head, body)
        writer.write(head)
        await _send(writer, body, self.proxy.slow_s if how == "slowly" else 0.0)
        ended = b"close" in _header(head, b"connection").lower() + _header(request.head, b"connection").lower()
        return not ended


async def end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel ``tasks`` and wait for their ends."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def _body(reader: asyncio.StreamReader, head: bytes, *, until_end: bool = False) -> bytes:
    """What follows ``head``, with its framing."""
    if b"chunked" in _header(head, b"transfer-encoding").lower():
        parts = []
        while not parts or parts[-1] != b"0\r\n":
            size = await reader.readuntil(b"\r\n")
            length = int(size.split(b";")[0], 16)
            parts += [size, await reader.readexactly(length + 2)] if length else [b"0\r\n"]
        while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
            parts.append(trailer)
        return b"".join(parts) + b"\r\n"
    length = _header(head, b"content-length")
    if length:
        return await reader.readexactly(int(length))
    return await reader.read() if until_end else b""


async def _send(writer: asyncio.StreamWriter, body: bytes, seconds: float) -> None:
    """Write ``body``, in as many pieces as it takes to be slow."""
    size = len(body) if not seconds else max(1, -(-len(body) // _PIECES))
    for at in range(0, max(1, len(body)), max(1, size)):
        if seconds:
            await writer.drain()
            await asyncio.sleep(seconds / _PIECES)
        writer.write(body[at : at + size])
    await writer.drain()


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*)", head)
    return found[1] if found else b""


def _chunks(body: bytes) -> list[bytes]:
    """The contents of chunks."""
    found = []
    while (length := int(body.split(b"\r\n", 1)[0].split(b";")[0], 16)) > 0:
        body = body.split(b"\r\n", 1)[1]
        found.append(body[:length])
        body = body[length + 2 :]
    return found


def _error(status: int, request: Request) -> tuple[bytes, bytes]:
    """S3's own way to say it; a HEAD has no body."""
    code = _CODES[status]
    body = b"" if request.method == "HEAD" else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body
