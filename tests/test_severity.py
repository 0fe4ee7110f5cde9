from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.severity import first_specified, levelno_numbers, severity_number, severity_numbers, short_names

PYTHON = {0: 0, 5: 0, 10: 5, 11: 6, 13: 8, 20: 9, 25: 12, 30: 13, 35: 16, 40: 17, 50: 21, 53: 24, 99: 24}
SYSLOG = {7: 5, 6: 9, 5: 10, 4: 13, 3: 17, 2: 18, 1: 19, 0: 21}
WORDS = {
    "trace": 1, "TRACE2": 2, "Debug": 5, "INFO": 9, "info4": 12, "success": 12, "notice": 10, "warn": 13,
    "WARNING": 13, "error": 17, "err": 17, "dpanic": 18, "panic": 19, "critical": 21, "crit": 18, "alert": 19,
    "emerg": 21, "FATAL": 21, "I": 9, "W": 13, "no such level": 0, "": 0,
}  # fmt: skip


@pytest.mark.parametrize(("levelno", "number"), PYTHON.items())
def test_python_levels(levelno: int, number: int) -> None:
    assert severity_number(levelno, "python") == number
    assert levelno_numbers(pa.array([levelno])).to_pylist() == [number]


@pytest.mark.parametrize(("level", "number"), SYSLOG.items())
def test_syslog_levels(level: int, number: int) -> None:
    assert severity_number(level, "syslog") == number


@pytest.mark.parametrize(("word", "number"), WORDS.items())
def test_words(word: str, number: int) -> None:
    assert severity_number(word) == number
    assert severity_numbers(pa.array([word, None])).to_pylist() == [number, 0]


@pytest.mark.parametrize("value", [-1, 25])
def test_a_number_that_is_none_of_opentelemetrys(value: int) -> None:
    with pytest.raises(ValueError, match="0–24"):
        severity_number(value)


def test_short_names_and_the_first_that_says_something() -> None:
    assert short_names(pa.array([0, 9, 18], pa.int8())).to_pylist() == [None, "INFO", "ERROR2"]
    columns = [pa.array([0, 9, 0], pa.int8()), pa.array([5, 5, 0], pa.int8())]
    assert first_specified(columns, 3).to_pylist() == [5, 9, 0]


@given(st.lists(st.none() | st.text(max_size=8) | st.sampled_from([*WORDS, " info ", "17", "999"])))
def test_a_column_of_words_means_what_each_word_means(words: list[str | None]) -> None:
    expected = [severity_number(word) if word else 0 for word in words]
    assert severity_numbers(pa.array(words, pa.string())).to_pylist() == expected


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 60)))
def test_a_column_of_python_levels_means_what_each_level_means(levels: list[int | None]) -> None:
    expected = [0 if level is None else severity_number(level, "python") for level in levels]
    assert levelno_numbers(pa.array(levels, pa.int64())).to_pylist() == expected


@pytest.mark.parametrize("value", [-1, 8])
def test_a_number_that_is_none_of_syslogs(value: int) -> None:
    with pytest.raises(ValueError, match="0 .emergency. to 7"):
        severity_number(value, "syslog")
