from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.processing import recognise

NOON = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.timezone.utc)
LATEST_NS = int(NOON.timestamp()) * 10**9

LINES = [
    ("2026-01-02 03:04:05,678 ERROR boom", "2026-01-02T03:04:05.678", "ERROR", 17),
    ("2026-01-02T03:04:05.123456789Z INFO x", "2026-01-02T03:04:05.123456789", "INFO", 9),
    ("2026-01-02T03:04:05+02:00 [WARN] x", "2026-01-02T01:04:05", "WARN", 13),
    ("2026-01-02 03:04:05 no level here", "2026-01-02T03:04:05", None, 0),
    ("17/06/09 20:10:40 INFO executor.Backend: up", "2017-06-09T20:10:40", "INFO", 9),
    ("081109 203615 148 INFO dfs.DataNode: x", "2008-11-09T20:36:15", "INFO", 9),
    ("[Sun Dec 04 04:47:44 2005] [error] mod_jk", "2005-12-04T04:47:44", "error", 17),
    ('1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /"', "2000-10-10T20:55:36", None, 0),
    ("Jun 14 15:16:01 combo sshd[1]: failure", "2026-06-14T15:16:01", None, 0),
    ("Dec 10 06:55:46 LabSZ sshd[1]: failure", "2025-12-10T06:55:46", None, 0),
    ("<34>Oct  1 22:14:15 host su: x", "2026-10-01T22:14:15", None, 0),
    (
        "- 1117838570 2005.06.03 R02-M1-N0-C:J12-U11 2005-06-03-15.42.50.675872 R02 RAS KERNEL INFO x",
        "2005-06-03T15:42:50.675872",
        "INFO",
        9,
    ),
    (
        "nova-api.log.1.2017-05-16_13:53:08 2017-05-16 00:00:00.008 25746 INFO nova.osapi",
        "2017-05-16T00:00:00.008",
        "INFO",
        9,
    ),
    ("03-17 16:13:38.811  1702  2395 D WindowManager: x", "2026-03-17T16:13:38.811", "D", 5),
    ("2015-07-29 17:41:44,747 - INFO  [Quorum]", "2015-07-29T17:41:44.747", "INFO", 9),
    ("[10.30 16:49:06] chrome.exe - open", "2026-10-30T16:49:06", None, 0),
    ("[2026-01-02 03:04:05,678 W 123 456] core_worker.cc:12: x", "2026-01-02T03:04:05.678", "W", 13),
    ("I0102 03:04:05.678901    1 main.go:7] x", "2026-01-02T03:04:05.678901", "I", 9),
    ("20171223-22:15:29:606|Step|x", "2017-12-23T22:15:29.606", None, 0),
    ("1077804742 something", "2004-02-26T14:12:22", None, 0),
    ("1077804742123 something", "2004-02-26T14:12:22.123", None, 0),
    ("134681 node-246 unix.hw state 1077804742 1 Component", "2004-02-26T14:12:22", None, 0),
    ("2024/05/06 07:08:09 [error] 7#7: nginx", "2024-05-06T07:08:09", "error", 17),
    ('time="2026-01-02T03:04:05Z" level=warning msg=x', "2026-01-02T03:04:05", "warning", 13),
    ("WARNING: disk is nearly full", None, "WARNING", 13),
]


@pytest.mark.parametrize(("line", "time", "word", "number"), LINES, ids=[line[:40] for line, *_ in LINES])
def test_usual_formats(line: str, time: str | None, word: str | None, number: int) -> None:
    found = recognise(pa.array([line]), latest_ns=LATEST_NS)
    expected = None if time is None else pa.scalar(time).cast(pa.timestamp("ns")).value
    assert found.time_unix_nano.to_pylist() == [expected]
    assert found.severity_text.to_pylist() == [word]
    assert found.severity_number.to_pylist() == [number]


def test_formats_may_be_mixed_in_one_file() -> None:
    found = recognise(pa.array([line for line, *_ in LINES]), latest_ns=LATEST_NS)
    assert found.severity_number.to_pylist() == [number for *_, number in LINES]
    assert [moment is None for moment in found.time_unix_nano.to_pylist()] == [time is None for _, time, *_ in LINES]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no idea",
        "2026-02-31 10:00:00 x",
        "2026-13-01 10:00:00 x",
        "2026-01-01 25:00:00 x",
        "[Sun Feb 31 04:47:44 2005] [error] x",
        "I am an ERRORS collector, INFORMED",
        "Traceback (most recent call last):",
        "x" * 100_000,
    ],
    ids=lambda line: line[:30],
)
def test_what_is_no_time_is_none(line: str) -> None:
    assert recognise(pa.array([line]), latest_ns=LATEST_NS).time_unix_nano.to_pylist() == [None]


def test_a_word_of_the_message_is_no_level() -> None:
    found = recognise(pa.array(["Errors are counted by INFORMATION", "no error here"]), latest_ns=LATEST_NS)
    assert found.severity_text.to_pylist() == [None, None]


def test_the_29th_of_february_is_in_the_last_leap_year_or_nowhere() -> None:
    found = recognise(pa.array(["Feb 29 10:00:00 host x"]), latest_ns=LATEST_NS)
    assert found.time_unix_nano.to_pylist() == [None]
    leap = int(datetime.datetime(2025, 1, 5, tzinfo=datetime.timezone.utc).timestamp()) * 10**9
    assert recognise(pa.array(["Feb 29 10:00:00 host x"]), latest_ns=leap).time_unix_nano.null_count == 0


@given(st.lists(st.text(max_size=60), max_size=10))
def test_no_text_raises(lines: list[str]) -> None:
    lines = [line.encode("utf-8", "backslashreplace").decode() for line in lines]
    assert len(recognise(pa.array(lines, pa.string()), latest_ns=LATEST_NS).severity_number) == len(lines)


@given(
    st.lists(
        st.from_regex(r"[\[<]?\d{1,4}[-/.]\d\d[-/.]\d\d[T :-]\d\d:\d\d:\d\d[.,]?\d{0,9} ?[A-Z]{0,5}", fullmatch=True),
        max_size=5,
    )
)
def test_nothing_that_looks_like_a_time_raises(lines: list[str]) -> None:
    recognise(pa.array(lines, pa.string()), latest_ns=LATEST_NS)
