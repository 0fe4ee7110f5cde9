"""Lines of JSON read at once are what the same lines are one by one."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog import ndjson
from ringlog.cli.bench import corpus
from ringlog.errors import InvalidRecord
from ringlog.records import split_valid, to_record_batch

words = st.text(max_size=6) | st.sampled_from(
    ["2026-01-02", "2026-01-02T03:04:05Z", "null", ': null, "', "\\", '"', "}\n{", "\u2028é"]
)
numbers = (
    st.integers(-5, 5)
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-5, 5).map(float)
)
KINDS: list[st.SearchStrategy[Any]] = [
    words, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), numbers, st.none(),
    st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.sampled_from("ab"), numbers, max_size=2),
]  # fmt: skip
NAMES = [
    "body",
    "message",
    "severity",
    "level",
    "timestamp",
    "service",
    "pid",
    "trace_id",
    "x",
    "é",
    'q"',
    "shard",
    "attributes",
]


@st.composite
def objects(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that mostly have the same keys with the same kinds of values, as logs do."""
    kinds = {
        name: draw(st.sampled_from(KINDS[:5])) for name in draw(st.lists(st.sampled_from(NAMES[:-1]), unique=True))
    }
    inner = {name: draw(st.sampled_from(KINDS[:5])) for name in draw(st.lists(st.sampled_from("abcdx"), unique=True))}
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = {name: draw(kind) for name, kind in kinds.items() if draw(st.integers(0, 9))}
        if inner:
            row["attributes"] = {name: draw(kind) for name, kind in inner.items() if draw(st.integers(0, 9))}
        if not draw(st.integers(0, 9)):
            row[draw(st.sampled_from(NAMES))] = draw(st.sampled_from(KINDS).flatmap(lambda kind: kind))
        rows.append(row)
    return rows


def spelled(row: dict[str, Any], how: int) -> bytes:
    text = json.dumps(row, ensure_ascii=how % 2 == 0, separators=(",", ":") if how < 4 else (" , ", " : "))
    if how == 7:  # each key twice; the last one counts
        text = text[:-1] + "," + text[1:] if row else text
    return text.encode("utf-8", "replace")


def told(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows to compare: an object says the same in any order of its keys; True is not 1 and 1 is not 1.0."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    for row in rows:
        for name in ("attributes", "resource"):
            if row[name] is not None:
                row[name] = sorted(repr(item) for item in orjson.loads(row[name]).items())
    return rows


def alone(lines: list[bytes]) -> Any:
    """The same lines one by one: what they are, or what is wrong with which of them."""
    rows, bad = [], {}
    for at, line in enumerate(lines):
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            rows.append({})
            bad[at] = "no JSON"
    batch, problems = split_valid(rows, observed_ns=7)
    kept = [
        row
        for at, row in zip([at for at in range(len(rows)) if at not in problems], told(batch), strict=True)
        if at not in bad
    ]
    return kept, {at + 1 for at in {**problems, **bad}}


@given(objects(), st.data(), st.sampled_from([b"\n", b"\r\n"]))
def test_lines_at_once_are_what_they_are_alone(rows: list[dict[str, Any]], data: st.DataObject, end: bytes) -> None:
    lines = [spelled(row, data.draw(st.integers(0, 7))) for row in rows]
    batch, problems = split_valid(end.join(lines) + data.draw(st.sampled_from([b"", end])), observed_ns=7)
    assert (told(batch), set(problems)) == alone(lines)


odd_lines = st.sampled_from(
    [
        b'{"a":1}', b'{"a":1.5}', b'{"a":1}{"a":2}', b'{"a":', b'1}', b"{}", b'{"a":NaN}', b'{"a":-0}', b'{"a":1e400}', b"[1]",
        b'{"a":9223372036854775808}', b'{"a":01}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":null}', b'{"\\u0061":1}', b' {"a":1}',
        b'{"a":1} ', b'{"a":1,"a":2}', b'{"a":{"b":{}}}', b'{"a":[]}', b'{"b":"2026-01-01"}', b'{"b":"x"}', b'"text"', b"nonsense",
        b'{"a":"\x00"}', b'{"a":1}\x00', b'{"attributes":{"a":2}}', b'{"attributes":{"a":2},"a":3}', b'{"attributes":"{\\"a\\":4}"}',
        b'{"attributes":"{\\"a\\":4}","a":5}', b'{"attributes":5}', b'{"attributes":{}}', b'{"attributes":null}', b'{"body":5}',
        b'{"\\u0061":1.0}', b'{"a":1,}', b'{"a":Infinity}', b'{"body":null,"message":null}', b'{"body":"b","message":null}',
        b'{"a":' + b'{"k":' * 40 + b"1" + b"}" * 41, b'{"a":"null"}', b'{"a":123456789.123456789123456789}', b'{"a":1E5}',
    ]
)  # fmt: skip


@given(st.lists(odd_lines, min_size=1, max_size=5))
def test_odd_lines_are_what_they_are_alone(lines: list[bytes]) -> None:
    batch, problems = split_valid(b"\n".join(lines), observed_ns=7)
    not_objects = {at + 1 for at, line in enumerate(lines) if line in (b'"text"', b"[1]", b"1}", b"nonsense")}
    rows, bad = alone([b"{}" if at + 1 in not_objects else line for at, line in enumerate(lines)])
    expected = [
        row
        for row, at in zip(rows, [at for at in range(1, len(lines) + 1) if at not in bad], strict=True)
        if at not in not_objects
    ]
    assert (told(batch), set(problems)) == (expected, bad | not_objects)


def test_as_many_objects_as_lines_are_not_always_one_in_each() -> None:
    with pytest.raises(InvalidRecord) as raised:
        to_record_batch(b'{"a":1}{"a":2}\n{"a":\n1}', observed_ns=7)
    assert sorted(raised.value.problems) == [1, 2, 3]


def test_usual_lines_are_read_at_once() -> None:
    lines = [
        b'{"body":"a","ts":"2026-01-02T03:04:05Z","level":"info","attributes":{"id":"f","n":1,"day":"2026-01-02"},"loss":0.5}',
        b'{"body":"b","ts":"2026-01-02T03:04:06Z","level":"warn","attributes":{"id":"e\\n"},"loss":1.0,"more":"2026-01-02"}',
    ]
    (piece,) = ndjson.pieces(b"\n".join(lines))
    found = ndjson.Reader({"body", "timestamp", "attributes"}).read(piece)
    assert found is not None
    assert found.sure.tolist() == [True, False], (
        "a line with a backslash and a whole number with a fraction is looked at"
    )
    (piece,) = ndjson.pieces(corpus.ndjson(next(corpus.batches(1000))))
    found = ndjson.Reader({"body", "timestamp", "severity", "service", "host", "attributes"}).read(piece)
    assert found is not None
    assert found.sure.all()


def test_the_corpus_as_lines_is_the_corpus() -> None:
    batch = next(corpus.batches(20_000))
    same = [name for name in batch.schema.names if name != "observed_timestamp"]
    found = to_record_batch(corpus.ndjson(batch), observed_ns=7)
    assert found.select(same).equals(batch.select(same))


def test_pieces_are_cut_between_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "PIECE_BYTES", 100)
    lines = [orjson.dumps({"body": "x" * size, "n": size}) for size in (5, 300, 1, 0, 90, 80, 70, 99, 100, 101)]
    lines[4] = b'{"body":'
    data = b"\n".join(lines)
    batch, problems = split_valid(data, observed_ns=7)
    assert list(problems) == [5]
    assert [len(body) for body in batch["body"].to_pylist()] == [5, 300, 1, 0, 80, 70, 99, 100, 101]
    assert to_record_batch(memoryview(data.replace(lines[4] + b"\n", b"\n")), observed_ns=7).equals(batch)


def test_bad_lines_are_named_by_their_number() -> None:
    data = b'\xef\xbb\xbf{"body":"a"}\n\n \t\r\n{"body":"b"}\r\n{"body":\n{"timestamp":"never"}\n[]\n{"body":"c"}'
    with pytest.raises(InvalidRecord, match=r"line 5: it is no JSON object: .* \(and 2 more\)") as raised:
        to_record_batch(data, observed_ns=7)
    problems = raised.value.problems
    assert sorted(problems) == [5, 6, 7]
    assert problems[6].startswith("timestamp 'never' is not a time")
    assert problems[7] == "it is no JSON object but []; give one object in each line"
    batch, found = split_valid(data, observed_ns=7)
    assert (batch["body"].to_pylist(), found) == (["a", "b", "c"], problems)


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \r\n"])
def test_no_line_is_no_record(data: bytes) -> None:
    assert to_record_batch(data, observed_ns=7).num_rows == 0


def test_lines_of_text_are_bodies_where_they_may_be() -> None:
    data = b'{"body":"a","pid":5}\nplain\n\n{brace\n[1]\n"quoted"\n\xff\n{"pid":"x"}\r\n{"body":"z"}'
    batch, problems = split_valid(data, observed_ns=7, plain_lines=True)
    assert batch["body"].to_pylist() == ["a", "plain", "", "{brace", "[1]", '"quoted"', "\\xff", "z"]
    assert list(problems) == [8]


def test_what_is_no_record_in_a_line_is_nothing_for_the_others() -> None:
    lines = [orjson.dumps({"body": str(number), "loss": number / 3}) for number in range(1000)]
    lines[500] = b'{"body":"500","loss":{"deep":[1]}}'
    found = to_record_batch(b"\n".join(lines), observed_ns=7)
    assert told(found) == told(to_record_batch([orjson.loads(line) for line in lines], observed_ns=7))
