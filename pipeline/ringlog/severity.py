"""Severities: the levels of Python, zap, syslog, loguru, log4j and Android on OpenTelemetry's scale of 0–24.

0 is unspecified; TRACE is 1–4, DEBUG 5–8, INFO 9–12, WARN 13–16, ERROR 17–20, FATAL 21–24.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

SeverityKind = Literal["otel", "python", "syslog"]

SHORT_NAMES: tuple[str | None, ...] = (
    None,
    *(
        f"{word}{step}" if step > 1 else word
        for word in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
        for step in (1, 2, 3, 4)
    ),
)
"""OpenTelemetry's short name of each number: ``SHORT_NAMES[18]`` is ``ERROR2``; 0 has none."""

_SYSLOG = (21, 19, 18, 17, 13, 10, 9, 5)

# Where two sources share a word, one reading is fixed: "critical" is Python's 50, "crit" is syslog's 2;
# "panic" is zap's, not the old synonym of syslog's "emerg".
_WORDS: dict[str, int] = {
    **{name.lower(): number for number, name in enumerate(SHORT_NAMES) if name},
    "v": 1,
    "d": 5,
    "i": 9,
    "w": 13,
    "e": 17,
    "f": 21,
    "verbose": 1,
    "success": 12,
    "warning": 13,
    "critical": 21,
    "dpanic": 18,
    "panic": 19,
    "informational": 9,
    "notice": 10,
    "err": 17,
    "crit": 18,
    "alert": 19,
    "emerg": 21,
    "emergency": 21,
}


def severity_number(value: int | str, kind: SeverityKind = "otel") -> int:
    """The OpenTelemetry number, 0–24, of one level.

    A word means the same in every ``kind``, in any case; an unknown one is 0. A number is read as ``kind`` says:
    OpenTelemetry's 0–24, a Python ``levelno``, or a syslog severity 0–7. A numeral is read like the number.
    Raises ``ValueError`` for an integer that the kind does not have.

    >>> severity_number("Warning"), severity_number(18), severity_number("no such level")
    (13, 18, 0)
    >>> severity_number(25, "python"), severity_number(3, "syslog")
    (12, 17)
    """
    if isinstance(value, str):
        word = value.strip()
        if not (word.isascii() and word.isdigit() and len(word) <= 4):
            return _WORDS.get(word.lower(), 0)
        try:
            return severity_number(int(word), kind)
        except ValueError:
            return 0
    if kind == "python":
        return _of_levelno(value)
    if kind == "syslog":
        if not 0 <= value < len(_SYSLOG):
            raise ValueError(f"severity {value} is not a syslog severity: give 0 (emergency) to 7 (debug)")
        return _SYSLOG[value]
    if not 0 <= value <= 24:
        raise ValueError(
            f"severity {value} is not an OpenTelemetry number: give 0–24, a word such as 'ERROR', "
            "or a Python level as levelno"
        )
    return value


def _of_levelno(levelno: int) -> int:
    """Each ten of Python's is a range of four here; what lies between steps up within its range."""
    if levelno < 10:
        return 0
    tens, between = divmod(min(levelno, 53), 10)
    return 4 * tens + 1 + min(between, 3)


_LEVELNO_TABLE = pa.array([_of_levelno(levelno) for levelno in range(54)], pa.int8())
_SHORT_NAME_TABLE = pa.array(SHORT_NAMES, pa.string())


def severity_numbers(texts: pa.Array) -> pa.Array:
    """``severity_number`` of each word in a string array, as int8 without nulls: null and unknown are 0.

    >>> severity_numbers(pa.array(["info", None, "E"])).to_pylist()
    [9, 0, 17]
    """
    words = pc.dictionary_encode(texts)  # few distinct words, however many records
    table = pa.array([severity_number(word) if word else 0 for word in words.dictionary.to_pylist()], pa.int8())
    return table.take(words.indices).fill_null(0)


def levelno_numbers(levelnos: pa.Array) -> pa.Array:
    """``severity_number(…, "python")`` of each in an int64 array, as int8 without nulls: null is 0.

    >>> levelno_numbers(pa.array([10, None, 99])).to_pylist()
    [5, 0, 24]
    """
    clipped = pc.min_element_wise(pc.max_element_wise(levelnos.fill_null(0), 0), 53)
    return _LEVELNO_TABLE.take(clipped)


def short_names(numbers: pa.Array) -> pa.Array:
    """OpenTelemetry's short name of each number 0–24; null for 0."""
    return _SHORT_NAME_TABLE.take(numbers)


def first_specified(candidates: list[pa.Array], length: int) -> pa.Array:
    """Per record the first number that is not 0, of several int8 arrays without nulls."""
    if not candidates:
        return pa.repeat(pa.scalar(0, pa.int8()), length)
    chosen, *others = candidates
    for numbers in others:
        if all_specified(chosen):
            break
        chosen = pc.if_else(pc.equal(chosen, 0), numbers, chosen)
    return chosen


def all_specified(numbers: pa.Array) -> bool:
    """Whether none of an int8 array without nulls is 0."""
    return bool(numbers.to_numpy().all())
