"""Whole columns of JSON say what `values.mapping_text` says of each record alone, or leave it to it."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog import json_columns, values
from ringlog.errors import InvalidRecord
from ringlog.records import to_record_batch

keys = st.sampled_from(["a", "b", 'quo"te', "back\\slash", "é", "a b", "", "x" * 65, "x" * 300, "${}()[]|^.*+?-#&~"])
words = st.text(max_size=8) | st.sampled_from(['"', "\\", "\x00\x1f\x7f\u2028", "null", "},{", "\n", "\ud800"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.integers(-(2**70), 2**70) | words
anything = st.recursive(
    plain | st.binary(max_size=3) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)


def told(value: Any) -> str | None:
    """What the record alone gives; a reason where it is refused."""
    try:
        return values.mapping_text(value)
    except ValueError as error:
        return f"refused: {error}"


def spelled(value: Any, spelling: int) -> str:
    if spelling == 0:
        return json.dumps(value)
    if spelling == 1:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = json.dumps(value, separators=(",", ":"))
    return text if spelling == 2 else text[:-1] + "," + text[1:]  # every key twice


json_texts = st.builds(
    spelled,
    st.dictionaries(keys, st.recursive(plain, lambda inner: st.lists(inner, max_size=2), max_leaves=2), max_size=3),
    st.integers(0, 3),
).map(lambda text: text.encode("utf-8", "replace").decode())
number_texts = st.sampled_from(
    [
        "0",
        "-0",
        "1",
        "-1",
        "01",
        "1.0",
        "1.50",
        "1.5",
        "0.1",
        "-0.0",
        "1e5",
        "1E5",
        "1e400",
        "0.00001",
        "0.0001",
        "123456.789",
        "1234567.5",
        "999999999999999999",
        "0.10",
        "12345678901234567890",
        "0.1234567890123456789",
        ".5",
        "5.",
        "+1",
        "NaN",
        "Infinity",
        "0x1",
        "9007199254740993.0",
        "100000.12345678",
    ]
)


@given(st.lists(json_texts | number_texts.map(lambda number: f'{{"n":{number}}}') | words, min_size=1, max_size=40))
def test_what_needs_no_change_is_what_the_record_alone_gives(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts] * 32
    sure, found = json_columns.unchanged(pa.array(texts))
    assert found is not None
    for text, unchanged in zip(texts, sure.to_pylist(), strict=True):
        if unchanged:
            assert told(text) == text
            assert set(orjson.loads(text)) <= found


@given(st.from_regex(re.compile(json_columns.SCALAR), fullmatch=True))
def test_a_plain_value_is_written_in_one_way(text: str) -> None:
    assert told(f'{{"k":{text}}}') == f'{{"k":{text}}}'


@given(
    st.dictionaries(st.text("abc", max_size=3), st.text() | st.integers(-(10**17), 10**17) | st.booleans(), min_size=1)
)
def test_usual_objects_need_no_second_look(given_object: dict[str, Any]) -> None:
    text = json.dumps(given_object, ensure_ascii=False).encode("utf-8", "replace").decode()
    text = orjson.dumps(orjson.loads(text)).decode()
    assert all(json_columns.unchanged(pa.array([text, None] * 40))[0].to_pylist())


def test_texts_of_many_shapes_and_of_none_are_all_looked_at() -> None:
    usual = [orjson.dumps({f"k{number}": number}).decode() for number in range(json_columns.SHAPES_MAX + 5)]
    texts = ["{}", '{"a": 1}', '{"a":[1]}', *usual] * 3
    batch = to_record_batch(pa.table({"attributes": texts}), observed_ns=7)
    assert batch["attributes"].to_pylist() == [told(text) for text in texts]


@given(st.lists(st.none() | st.dictionaries(keys, anything, max_size=3), min_size=1, max_size=8))
def test_dicts_at_once_are_written_like_dicts_alone(dicts: list[dict[str, Any] | None]) -> None:
    found = json_columns.of_dicts(dicts)
    if found is not None:
        assert found.to_pylist() == [told(one) for one in dicts]


def test_usual_dicts_are_written_at_once() -> None:
    found = json_columns.of_dicts([{"s": "},{\n", "i": 1}, None, {}, {"f": 0.5, "b": True, "n": None}])
    assert found is not None
    assert found.to_pylist() == ['{"s":"},{\\n","i":1}', None, None, '{"f":0.5,"b":true,"n":null}']


columns = st.sampled_from(
    [
        (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)),
        (pa.large_string(), st.text('"\\\n\x00é', max_size=4)),
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.bool_(), st.booleans()),
        (pa.float64(), st.floats() | st.integers(-5, 5).map(float)),
        (pa.float32(), st.floats(width=32)),
        (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(datetime.timezone.utc))),
        (pa.list_(pa.int64()), st.lists(st.integers(-5, 5), max_size=2)),
        (
            pa.struct([("q", pa.int64()), ("r", pa.string())]),
            st.fixed_dictionaries({"q": st.none(), "r": st.just("x")}),
        ),
        (pa.binary(), st.binary(max_size=3)),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 4))
    made = {}
    for name in draw(st.lists(keys.filter(lambda key: len(key) < 100), unique=True, min_size=1, max_size=4)):
        kind, found = draw(columns)
        made[name] = pa.array(draw(st.lists(st.none() | found, min_size=rows, max_size=rows)), kind)
    objects = st.none() | st.sampled_from(['{"a":1}', '{"c":1,"d":"}"}', '{"é":1}', "{}", '{"c": 0.10}'])
    if draw(st.booleans()):
        made["attributes"] = pa.array(draw(st.lists(objects, min_size=rows, max_size=rows)), pa.string())
    return pa.table(made)


@given(tables())
def test_columns_beside_the_known_ones_are_attributes_like_keys_of_rows(table: pa.Table) -> None:
    table = pa.concat_tables([table] * 20)
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    found = to_record_batch(table, observed_ns=7)["attributes"].to_pylist()
    expected = to_record_batch(rows, observed_ns=7)["attributes"].to_pylist()
    # By their repr: True is not 1 and 1 is not 1.0. The order of keys is not told by JSON.
    assert list(map(comparable, found)) == list(map(comparable, expected))


def comparable(text: str | None) -> Any:
    return None if text is None else sorted(repr(item) for item in orjson.loads(text).items())


@pytest.mark.parametrize("rows", [1, 100])
def test_columns_that_no_object_can_hold_are_refused_like_rows(rows: int) -> None:
    for table, reason in [
        (pa.table({f"k{number}": [1] * rows for number in range(300)}), "has 300 keys: 256 at most"),
        (pa.table({"k" * 300: [1] * rows}), "longer than 256 bytes"),
        (pa.table({"x": [1] * rows, "attributes": ["{bad"] * rows}), "no mapping"),
        (pa.table({"x": pa.array([[[1]]] * rows), "attributes": ["[1]"] * rows}), "no mapping"),
    ]:
        with pytest.raises(InvalidRecord, match=f"record 0: .*{reason}"):
            to_record_batch(table, observed_ns=7)


times = st.from_regex(
    r"(19|20|22)[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,10})?(Z|z|\+00:00|)?",
    fullmatch=True,
)


alike = st.from_regex(
    r"(1970|2026|2259|2260|19a0)-0[1-9]-[0-2][1-9][T t][0-2][0-9]:[0-6]0:[0-6]9(\.[0-9]{3}|\.12x)?[Zz]", fullmatch=True
)


@given(st.lists(times, min_size=1, max_size=3) | st.lists(alike, min_size=1, max_size=3))
def test_times_at_once_are_read_like_times_alone(texts: list[str]) -> None:
    expected: list[int] = []
    try:
        expected = [values.time_ns(text) for text in texts]
    except ValueError:
        with pytest.raises(InvalidRecord, match="is not a time|outside 1970"):
            to_record_batch(pa.table({"timestamp": texts}), observed_ns=7)
        return
    assert to_record_batch(pa.table({"timestamp": texts}), observed_ns=7)["time_unix_nano"].to_pylist() == expected
    assert to_record_batch([{"ts": text} for text in texts], observed_ns=7)["time_unix_nano"].to_pylist() == expected
