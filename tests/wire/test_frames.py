from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.errors import CorruptionError
from ringlog.replication import Append, Entries, Entry, Fenced, Join, Seal, Sealed, Submit
from ringlog.wire import Acknowledged, Declined, decode, encode

ENTRY = Entry.make(3, 10, 20, "producer", 1, 7, b"\x00payload\xff")
MESSAGES = [
    Append("shard-0", "id", 3, 10, (ENTRY, ENTRY), 10, 5, {"p": [0, [[1, 2, 3]]]}),
    Append("shard-0", "id", 3, 10, (), 10, 5),
    Join("shard-0", "id", 3, 0, 10, ((1, 0), (3, 10)), (ENTRY,), {}),
    Entries("shard-0", "id", 3, 0, 20, (ENTRY,), {}),
    Seal("shard-0", "id", 4),
    Sealed("shard-0", "id", 4, 3, ((3, 0),), 0, 20),
    Fenced("shard-0", "id", 3, 4),
    Submit("shard-0", 3, "p", 0, 1, 0, 10, "quorum", b"payload"),
    Acknowledged("shard-0", "p", 0, 1, 3, 10, 20),
    Declined("shard-0", "p", 0, 1, "overloaded", "full"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_frame(message: Any) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        decode(data)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_frame_that_was_cut_or_grew_is_refused(message: Any) -> None:
    frame = encode(message)
    for broken in (frame[:-1], frame + b"x", frame[:3]):
        with pytest.raises(CorruptionError):
            decode(broken)


@given(st.binary(max_size=500), st.text(), st.integers(0, 2**62))
def test_any_payload_and_any_name(payload: bytes, name: str, number: int) -> None:
    message = dataclasses.replace(MESSAGES[7], payload=payload, sequence=number)
    name = name.encode("utf-8", "replace").decode()
    assert decode(encode(dataclasses.replace(message, producer=name))).producer == name
