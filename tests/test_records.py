from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import duckdb
import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.errors import InvalidRecord
from ringlog.records import LogRecord, split_valid, to_record_batch
from ringlog.schema import RECORD_SCHEMA, check_packed, pack, unpack

NOW = 1_767_225_600_000_000_000
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
MOMENT_NS = 1_767_323_045_678_901_000


def rows(records: Any, **options: Any) -> list[dict[str, Any]]:
    batch = to_record_batch(records, observed_ns=NOW, **options)
    assert batch.schema.equals(RECORD_SCHEMA)
    found: list[dict[str, Any]] = batch.to_pylist()
    return found


def row(record: Any, **options: Any) -> dict[str, Any]:
    (only,) = rows(record, **options)
    return only


def attributes(record: Any) -> Any:
    text = row(record)["attributes"]
    return None if text is None else orjson.loads(text)


def test_every_form_of_a_record() -> None:
    assert row("hello")["body"] == "hello"
    assert row({"body": "hello"})["body"] == "hello"
    assert row(LogRecord(body="hello", severity=17, loss=0.5))["severity_text"] == "ERROR"
    assert [one["body"] for one in rows(["a", {"msg": "b"}, LogRecord(body="c")])] == ["a", "b", "c"]
    assert [one["body"] for one in rows({"body": str(number)} for number in range(3))] == ["0", "1", "2"]
    assert rows([]) == []


@pytest.mark.parametrize("thing", [42, None, b"bytes", 1.5, object()])
def test_what_is_no_record_is_told_what_to_give(thing: Any) -> None:
    with pytest.raises(
        InvalidRecord, match="give one object in each line" if isinstance(thing, bytes) else "give a dict"
    ):
        rows(thing)
    with pytest.raises(InvalidRecord, match="record 1: .*give a dict"):
        rows(["fine", thing])


@pytest.mark.parametrize(
    "moment",
    [
        MOMENT_NS,
        MOMENT,
        MOMENT.replace(tzinfo=datetime.timezone.utc),
        MOMENT.replace(tzinfo=datetime.timezone.utc).astimezone(datetime.timezone(datetime.timedelta(hours=5))),
        "2026-01-02T03:04:05.678901Z",
        "2026-01-02 03:04:05,678901",
        "2026-01-02T05:04:05.678901+02:00",
        np.datetime64("2026-01-02T03:04:05.678901"),
        pd.Timestamp("2026-01-02T03:04:05.678901Z"),
        MOMENT_NS / 1e9,
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [dict, LogRecord])
def test_every_form_of_a_time(form: Any, moment: Any) -> None:
    found = row(form(body="x", timestamp=moment))
    assert abs(found["time_unix_nano"] - MOMENT_NS) < 1_000
    assert found["observed_timestamp"].timestamp() == NOW / 1e9


def test_a_time_may_be_the_first_and_the_last() -> None:
    assert [row({"timestamp": moment})["time_unix_nano"] for moment in (0, 2**63 - 1)] == [0, 2**63 - 1]


def test_nanoseconds_are_kept() -> None:
    assert row({"timestamp": "2026-01-02T03:04:05.123456789Z"})["time_unix_nano"] % 10**9 == 123_456_789
    assert row({"timestamp": MOMENT_NS + 1})["time_unix_nano"] == MOMENT_NS + 1


def test_a_record_without_a_time_has_that_of_its_arrival() -> None:
    assert row({"body": "x"})["time_unix_nano"] == NOW


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("yesterday", "'yesterday' is not a time: give ISO 8601"),
        (-1, "outside 1970"),
        (2**63, "outside 1970"),
        (float("nan"), "is not a time"),
        (True, "is not a time"),
        ([], "is not a time"),
        (datetime.datetime(9999, 1, 1), "outside 1970"),
        ("2026-02-31T00:00:00", "is not a time"),
    ],
)
def test_what_is_no_time(moment: Any, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=f"record 2: timestamp .*{reason}"):
        rows(["a", "b", {"timestamp": moment}])


def test_severities() -> None:
    given = [
        {"severity": "warn"}, {"level": 9}, {"levelno": 40}, {"severity_text": "Err"}, {"severity": "odd"}, {},
        {"severity_number": 18}, {"levelno": 25, "severity_text": "SUCCESS"},
    ]  # fmt: skip
    found = [(one["severity_number"], one["severity_text"]) for one in rows(given)]
    assert found == [
        (13, "warn"), (9, "INFO"), (17, "ERROR"), (17, "Err"), (0, "odd"), (0, None), (18, "ERROR2"), (12, "SUCCESS"),
    ]  # fmt: skip


def test_a_level_below_pythons_is_unspecified_unless_it_is_named() -> None:
    found = rows([{"levelno": 5}, {"levelno": 5, "levelname": "TRACE"}])
    assert [one["severity_number"] for one in found] == [0, 1]


@pytest.mark.parametrize("severity", [25, -1, 3.5, True, []])
def test_what_is_no_severity(severity: Any) -> None:
    with pytest.raises(InvalidRecord, match="record 0: severity"):
        rows([{"severity": severity}])


def test_other_names_of_a_field_count_where_it_is_absent() -> None:
    found = row({"message": "m", "logger": "l", "service.name": "s", "host.name": "h", "ts": 7})
    assert (found["body"], found["scope"], found["service"], found["host"], found["time_unix_nano"]) == (
        "m",
        "l",
        "s",
        "h",
        7,
    )
    assert attributes({"body": "b", "message": "m"}) == {"message": "m"}


def test_bodies_of_any_type() -> None:
    given = [5, None, True, {"a": [1, None]}, ["x"], b"caf\xc3\xa9", b"\xff", "\ud800"]
    bodies = [one["body"] for one in rows([{"body": body} for body in given])]
    assert bodies == ["5", None, "true", '{"a":[1,null]}', '["x"]', "café", "\\xff", "\\ud800"]


@pytest.mark.parametrize("name", ["body", "severity", "severity_text", "service", "scope", "event_name", "ray_job_id"])
def test_what_utf8_cannot_say_is_kept_as_an_escape(name: str) -> None:
    column = "severity_text" if name == "severity" else name
    assert row({name: "a\ud800"})[column] == "a\\ud800"
    assert [one[column] for one in rows([{name: "fine"}, {name: "a\ud800"}])] == ["fine", "a\\ud800"]


@pytest.mark.parametrize(
    "body",
    [
        "\x1b[31mred",
        "one\r\n2026-01-01 ERROR forged",
        "${jndi:ldap://x}",
        "{0.__class__}",
        "%s%n",
        "<script>",
        "=cmd()",
    ],
)
def test_a_body_is_stored_as_sent(body: str) -> None:
    assert row(body)["body"] == row({"msg": body})["body"] == row(pa.table({"body": [body]}))["body"] == body


def test_a_field_whose_type_changes_is_stored() -> None:
    assert [one["body"] for one in rows([{"msg": 5}, {"msg": {}}, {"msg": [1]}])] == ["5", "{}", "[1]"]
    assert attributes({"a": 1, "A": 2, "": 3, "\ufeffa": 4}) == {"a": 1, "A": 2, "": 3, "\ufeffa": 4}


def test_ever_new_names_make_no_new_columns() -> None:
    found = rows([{"body": "x", f"field_{number}": number} for number in range(500)])
    assert [orjson.loads(one["attributes"]) for one in found] == [{f"field_{number}": number} for number in range(500)]


def test_unknown_keys_become_attributes_with_their_types() -> None:
    given = {
        "i": 1, "f": 0.5, "b": True, "n": None, "s": "x", "l": [1, "a"], "m": {"k": {"d": 1}}, "nan": float("nan"),
        "inf": float("-inf"), "big": 10**30, "raw": b"\x00\xff", "day": datetime.date(2026, 1, 2), "np": np.float32(0.5),
        "arr": np.arange(3), "dec": decimal.Decimal("1.10"), "id": uuid.UUID(int=1), "set": {7}, 5: "five", "": "empty",
    }  # fmt: skip
    assert attributes(given) == {
        "i": 1, "f": 0.5, "b": True, "n": None, "s": "x", "l": [1, "a"], "m": {"k": {"d": 1}}, "nan": "NaN",
        "inf": "-Infinity", "big": "1" + "0" * 30, "raw": "AP8=", "day": "2026-01-02", "np": 0.5,
        "arr": [0, 1, 2], "dec": "1.10", "id": str(uuid.UUID(int=1)), "set": [7], "5": "five", "": "empty",
    }  # fmt: skip


def test_attributes_are_merged_with_the_unknown_keys() -> None:
    assert attributes({"attributes": {"a": 1, "b": 1}, "b": 2}) == {"a": 1, "b": 2}
    assert attributes({"attributes": '{"a": 1}', "b": 2}) == {"a": 1, "b": 2}
    assert attributes({"body": "x", "attributes": {}}) is None
    assert attributes({"shard": "mine", "Date": 3}) == {"shard": "mine", "Date": 3}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"k": value}
    return value


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"attributes": 5}, "no mapping"),
        ({"attributes": "text"}, "no mapping"),
        ({"resource": [1]}, "resource .*no mapping"),
        ({"x": nested(40)}, "deeper than 32"),
        ({"x": nested(5000)}, "deeper than 32"),
        ({f"k{number}": 1 for number in range(300)}, "256 at most"),
        ({"k" * 300: 1}, "longer than 256 bytes"),
        ({"body": "x" * 300_000}, "262144 at most"),
        ({"trace_flags": 256}, "trace_flags"),
        ({"pid": "abc"}, "pid"),
        ({"tenant": "../x"}, "tenant"),
        ({"tenant": "a" * 64}, "tenant"),
        ({"tenant": "A"}, "tenant"),
    ],
)
def test_bad_records_say_what_is_wrong(record: Any, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=f"record 0: .*{reason}"):
        rows([record, "fine"])


def test_ids_are_lower_case_hex_or_absent() -> None:
    good = {"trace_id": "0AF7651916CD43DD8448EB211C80319C", "span_id": "B7AD6B7169203331"}
    found = row(good)
    assert (found["trace_id"], found["span_id"]) == tuple(value.lower() for value in good.values())
    for bad in ("0" * 32, "xyz", "", 0, "b7ad"):
        assert row({"trace_id": bad, "span_id": bad})["trace_id"] is None
        assert row(pa.table({"trace_id": [str(bad)]}))["trace_id"] is None
    assert row(pa.table({"trace_id": [good["trace_id"]]}))["trace_id"] == good["trace_id"].lower()


def test_ids_as_bytes() -> None:
    for raw in (bytes(range(16)), bytes(range(240, 256))):  # the first are text as well
        assert row({"trace_id": raw})["trace_id"] == raw.hex()
        assert row(pa.table({"trace_id": [raw]}))["trace_id"] == raw.hex()


def test_defaults_fill_what_is_absent() -> None:
    one, two = rows([{"body": "a"}, {"service": "mine"}], defaults={"service": "train", "pid": 7, "tenant": "acme"})
    assert (one["service"], two["service"], one["pid"], one["tenant"]) == ("train", "mine", 7, "acme")
    assert row("x")["tenant"] == "default"
    assert row("x", defaults={"tenant": None})["tenant"] == "default"
    assert row("x", defaults={"host": "\udcff"})["host"] == "\\udcff"


def test_good_records_are_kept_and_bad_ones_named() -> None:
    records: list[Any] = [{"body": str(number)} for number in range(1000)]
    records[17], records[40] = {"timestamp": "yesterday"}, 5
    batch, problems = split_valid(records, observed_ns=NOW)
    assert batch.num_rows == 998
    assert sorted(problems) == [17, 40]
    with pytest.raises(InvalidRecord, match=r"record 17: .*\(and 1 more\)") as raised:
        rows(records)
    assert raised.value.problems == problems


SOURCE = [
    {"body": "a", "severity": "ERROR", "timestamp": MOMENT, "loss": 0.5, "step": 1, "service": "train"},
    {"body": "b", "severity": "INFO", "timestamp": MOMENT, "loss": 1.5, "step": 2, "service": "serve"},
]


@pytest.mark.parametrize(
    "columnar",
    [
        pa.Table.from_pylist(SOURCE),
        pa.RecordBatch.from_pylist(SOURCE),
        pa.Table.from_pylist(SOURCE).to_reader(),
        pd.DataFrame(SOURCE),
        pl.DataFrame(SOURCE),
    ],
    ids=lambda value: type(value).__module__ + "." + type(value).__name__,
)
def test_columns_and_rows_give_the_same_batch(columnar: Any) -> None:
    assert rows(columnar) == rows(SOURCE)


def test_a_duckdb_relation() -> None:
    relation = duckdb.sql("SELECT 'a' AS body, 'train' AS service, 0.5::DOUBLE AS loss")
    assert rows(relation) == rows({"body": "a", "service": "train", "loss": 0.5})


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


# What dicts, Arrow, pandas, Polars and DuckDB all say in the same way: text, whole numbers, times in microseconds.
plain_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
PLAIN_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "body": optional(plain_texts),
            "message": optional(plain_texts),
            "severity": optional(st.sampled_from(["info", "ERROR", "odd"])),
            "timestamp": optional(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2261, 1, 1))),
            "trace_id": optional(st.sampled_from(["0" * 32, "AB" * 16, "x", "", "cd" * 17])),
            "user": optional(plain_texts),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(PLAIN_ROWS)
def test_the_same_records_from_anywhere_are_the_same_batch(given_rows: list[dict[str, Any]]) -> None:
    kinds = {"timestamp": pa.timestamp("us")}
    names = list(given_rows[0])
    table = pa.Table.from_pylist(given_rows, pa.schema([(name, kinds.get(name, pa.string())) for name in names]))
    present = [{name: one[name] for name in names if one[name] is not None} for one in given_rows]
    expected = to_record_batch(present, observed_ns=NOW)
    frame = table.to_pandas()
    for source in (table, table.to_batches()[0], frame, pl.from_arrow(table), duckdb.from_arrow(table)):
        assert to_record_batch(source, observed_ns=NOW).equals(expected), type(source)


def test_another_name_counts_in_the_rows_where_the_column_is_null() -> None:
    given: list[dict[str, Any]] = [
        {"body": "a", "message": "m", "msg": "x"},
        {"body": None, "message": "n"},
        {"body": None, "msg": "o"},
    ]
    found = rows(pa.Table.from_pylist(given, pa.schema([(name, pa.string()) for name in given[0]])))
    expected = rows([{name: value for name, value in one.items() if value is not None} for one in given])
    assert found == expected
    assert [one["body"] for one in found] == ["a", "n", "o"]


def test_a_level_that_pandas_made_a_float_is_still_a_level() -> None:
    frame = pd.DataFrame({"severity": [9, None], "levelno": [None, 40], "pid": [7, None]})
    assert rows(frame) == rows([{"severity": 9, "pid": 7}, {"levelno": 40}])
    with pytest.raises(InvalidRecord, match=r"record 1: severity 9\.5"):
        rows(pd.DataFrame({"severity": [9.0, 9.5]}))


def test_only_the_columns_of_a_frame_count() -> None:
    frame = pd.DataFrame({"body": ["a", "b"], "n": [1, 2]})
    assert rows(frame[frame.n > 1]) == rows({"body": "b", "n": 2})


def test_maps_in_columns_are_objects() -> None:
    kind = pa.map_(pa.string(), pa.int64())
    table = pa.table({"attributes": pa.array([[("a", 1)], None], kind), "labels": pa.array([[("b", 2)], []], kind)})
    assert [orjson.loads(one["attributes"]) for one in rows(table)] == [{"a": 1, "labels": {"b": 2}}, {"labels": {}}]
    assert rows(table.select(["attributes"]))[0]["attributes"] == '{"a":1}'


@pytest.mark.parametrize("text", ["{bad", "5", "[1]"])
def test_attributes_in_a_column_that_are_no_object(text: str) -> None:
    for extra in ({}, {"x": [1, 2]}):
        with pytest.raises(InvalidRecord, match="record 1: attributes .*no mapping"):
            rows(pa.table({"attributes": ["{}", text], **extra}))


def test_columns_that_cannot_be_records() -> None:
    body = pa.array(["x"])
    not_utf8 = pa.array([b"\xff"]).view(pa.string())
    for thing, reason in [
        (pa.table([body, body], ["body", "body"]), "column 'body' stands there twice"),
        (pa.table([body, body], ["x", "x"]), "column 'x' stands there twice"),
        (pa.table({"body": not_utf8}), "Invalid UTF8"),
        (pa.table({"x": not_utf8}), "Invalid UTF8"),
        (pd.DataFrame({"body": ["a", 5]}), "give its rows as dicts"),
        (pd.Series(["a"]), "Series cannot be read as columns"),
        (pa.table({"x": pa.array([[2**62]], pa.list_(pa.timestamp("us")))}), "column 'x' of list"),
    ]:
        with pytest.raises(InvalidRecord, match=reason):
            rows(thing)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("count", [-1, 2**62])
def test_a_time_of_arrows_outside_the_range_is_named_by_its_row(unit: str, count: int) -> None:
    table = pa.table({"timestamp": pa.array([1, None, count], pa.timestamp(unit, "UTC"))})
    if unit == "ns" and count > 0:
        assert rows(table)[2]["time_unix_nano"] == count
        return
    with pytest.raises(InvalidRecord, match=f"record 2: timestamp of {count} {unit} since 1970 lies outside"):
        rows(table)


def test_other_times_that_python_cannot_hold_are_kept_as_numbers() -> None:
    table = pa.table(
        {"far": pa.array([2**62], pa.timestamp("us")), "zone": pa.array([5], pa.timestamp("s", "No/Where"))}
    )
    assert orjson.loads(rows(table)[0]["attributes"]) == {"far": 2**62, "zone": 5}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_arrow_timestamps_of_every_unit_and_zone(unit: str, zone: str | None) -> None:
    whole = MOMENT.replace(microsecond=0)
    column = pa.array([whole.replace(tzinfo=datetime.timezone.utc) if zone else whole], pa.timestamp(unit, zone))
    found = row(pa.table({"timestamp": column, "body": ["x"]}))
    assert found["time_unix_nano"] == MOMENT_NS // 10**9 * 10**9


def test_what_stands_behind_a_null_does_not_count() -> None:
    texts = pa.array(["x" * 300_000, "y"])
    hidden = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\x02"), *texts.buffers()[1:]])
    assert [one["body"] for one in rows(pa.table({"body": hidden}))] == [None, "y"]


def test_nulls_in_columns_are_absent() -> None:
    table = pa.table({"body": ["a", None], "x": pa.array([None, 5]), "timestamp": pa.array([None, MOMENT_NS])})
    one, two = rows(table)
    assert (one["attributes"], one["time_unix_nano"]) == (None, NOW)
    assert (two["attributes"], two["time_unix_nano"], two["body"]) == ('{"x":5}', MOMENT_NS, None)


def test_a_bad_value_in_a_column_is_named_by_its_row() -> None:
    with pytest.raises(InvalidRecord, match="record 1: timestamp 'x'"):
        rows(pa.table({"timestamp": ["2026-01-01", "x"]}))


def test_a_table_that_ringlog_wrote_can_be_submitted_again() -> None:
    batch = to_record_batch(SOURCE, observed_ns=NOW)
    assert to_record_batch(batch, observed_ns=NOW + 5).equals(batch)


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda key: key not in RECORD_SCHEMA.names), json))
def test_anything_that_json_can_say_comes_back_as_it_was(extra: dict[str, Any]) -> None:
    known = {
        "severity", "levelno", "message", "msg", "level", "levelname", "time", "ts", "@timestamp", "logger",
        "service.name", "host.name",
    }  # fmt: skip
    extra = {key: value for key, value in extra.items() if key not in known}

    def expected(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, dict):
            return {expected(key): expected(part) for key, part in value.items()}
        return [expected(part) for part in value] if isinstance(value, list) else value

    batch = to_record_batch({"body": "x", **extra}, observed_ns=NOW)
    assert check_packed(pack(batch)) == batch.num_rows
    assert unpack(pack(batch)).equals(batch)
    text = batch["attributes"][0].as_py()
    # By their repr: True is not 1 and 1 is not 1.0.
    assert repr({} if text is None else orjson.loads(text)) == repr(expected(extra))


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_exactly_the_bad_ones_are_named(bad: list[bool]) -> None:
    records = [{"timestamp": "never"} if wrong else {"body": "x"} for wrong in bad]
    batch, problems = split_valid(records, observed_ns=NOW)
    assert sorted(problems) == [at for at, wrong in enumerate(bad) if wrong]
    assert batch.num_rows == bad.count(False)
