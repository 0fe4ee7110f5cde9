"""What a message carries between processes: one frame of bytes for each message.

A frame is ``[u32 length of the header][header: JSON][payloads, one after the other]``. The header holds the fields of
the message and, of each entry, everything but its payload. Decoding never runs code that a sender chose.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from ringlog.errors import CorruptionError
from ringlog.replication import (
    Append,
    Appended,
    Confirm,
    Confirmed,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Seal,
    Sealed,
    Submit,
    Trim,
)

_LENGTH = struct.Struct("<I")


Reason = Literal["fenced", "unknown", "overloaded", "expected", "rejected", "invalid"]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """To a producer: the batch has offsets ``[start, end)``, at the level that was asked for."""

    shard: str
    producer: str
    producer_epoch: int
    sequence: int
    epoch: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Declined:
    """To a producer: why there is no acknowledgement, in a word that says what to do.

    ``fenced``: not stored by this leader; refresh the routes and retry (``epoch`` is the newest known).
    ``unknown``: may be stored; retry with the same sequence.
    ``overloaded``: not stored; retry after a while.
    ``expected``: not stored; the next sequence is ``sequence_expected``.
    ``rejected``: this producer is not known any more, or superseded; ``invalid``: the payload is no batch of records.
    """

    shard: str
    producer: str
    producer_epoch: int
    sequence: int
    reason: Reason
    message: str
    epoch: int = 0
    sequence_expected: int = -1


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Append, Appended, Seal, Sealed, Fetch, Entries, Join, Joined, Confirm, Confirmed, Trim, Fenced,
        Submit, Acknowledged, Declined,
    )
}  # fmt: skip
_FIELDS: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(one.name for one in dataclasses.fields(kind)) for kind in _KINDS.values()
}


def encode(message: Any) -> bytes:
    """The frame of ``message``."""
    kind = type(message)
    payloads: list[bytes] = []
    fields: list[Any] = []
    for name in _FIELDS[kind]:
        value = getattr(message, name)
        if name == "entries":
            payloads.extend(entry.payload for entry in value)
            value = [_described(entry) for entry in value]
        elif name == "payload":
            payloads.append(value)
            value = len(value)
        fields.append(value)
    header = orjson.dumps([kind.__name__, *fields])
    return b"".join((_LENGTH.pack(len(header)), header, *payloads))


def decode(frame: bytes | memoryview) -> Any:
    """The message of ``frame``. Raises `CorruptionError` for anything that `encode` did not make."""
    try:
        view = memoryview(frame)
        (length,) = _LENGTH.unpack_from(view)
        begin = _LENGTH.size + length
        name, *values = orjson.loads(view[_LENGTH.size : begin])
        kind = _KINDS[name]
        taken = _Taken(view, begin)
        fields = [
            _READERS[field](value, taken) if field in _READERS else value
            for field, value in zip(_FIELDS[kind], values, strict=True)
        ]
        if taken.at != len(view):
            raise ValueError(f"{len(view) - taken.at} bytes too many")
        return kind(*fields)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CorruptionError(f"a frame does not read back: {error}") from error


class _Taken:
    """The payloads of a frame, taken one after the other."""

    __slots__ = ("at", "view")

    def __init__(self, view: memoryview, at: int) -> None:
        self.view = view
        self.at = at

    def take(self, length: int) -> bytes:
        end = self.at + length
        if length < 0 or end > len(self.view):
            raise ValueError(f"a payload of {length} bytes, but {len(self.view) - self.at} are there")
        payload = bytes(self.view[self.at : end])
        self.at = end
        return payload


def _described(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.epoch,
        entry.start,
        entry.end,
        entry.producer,
        entry.producer_epoch,
        entry.sequence,
        len(entry.payload),
        entry.checksum,
    )


def _entries(described: list[list[Any]], taken: _Taken) -> tuple[Entry, ...]:
    return tuple(
        Entry(epoch, start, end, producer, producer_epoch, sequence, taken.take(length), checksum)
        for epoch, start, end, producer, producer_epoch, sequence, length, checksum in described
    )


_READERS: dict[str, Callable[[Any, _Taken], Any]] = {
    "entries": _entries,
    "payload": lambda length, taken: taken.take(length),
    "boundaries": lambda pairs, _: tuple((epoch, start) for epoch, start in pairs),
}
