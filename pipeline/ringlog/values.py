"""One value of a record at a time: what it means, or the reason why it means nothing.

Each function takes whatever a caller may have written for a field and gives the value of the column. It raises
`ValueError` with a reason that ends with what to give instead. Whole columns of plain values never come here.
"""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from ringlog.severity import severity_number

DEPTH_MAX = 32
KEYS_MAX = 256
KEY_BYTES_MAX = 256
TIME_NS_MAX = 2**63 - 1

_SHOWN = 60
_TIME_FORMS = "give ISO 8601 text, a datetime, seconds as float or nanoseconds as int"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def text(value: Any) -> str | None:
    """Text as it is; bytes as UTF-8; anything else as JSON text. What UTF-8 cannot say stands there as an escape.

    >>> text("hi"), text(b"caf\\xe9"), text({"a": 1})
    ('hi', 'caf\\\\xe9', '{"a":1}')
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return json_text(value)


def time_ns(value: Any) -> int:
    """Nanoseconds since 1970 of a time in any of its usual forms; a datetime without a zone is UTC.

    >>> time_ns("1970-01-01T00:00:01Z"), time_ns(1.5), time_ns(7)
    (1000000000, 1500000000, 7)
    """
    nanos = _nanos(value)
    if not 0 <= nanos <= TIME_NS_MAX:
        raise ValueError(f"{_show(value)} lies outside 1970-01-01 to 2262-04-11: {_TIME_FORMS}")
    return nanos


def _nanos(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a time: {_TIME_FORMS}")
    if isinstance(value, np.datetime64) or hasattr(value, "to_datetime64"):
        moment = value if isinstance(value, np.datetime64) else value.to_datetime64()
        if not np.isnat(moment):
            # numpy wraps around where nanoseconds do not reach, into a time that looks right.
            seconds = int(moment.astype("datetime64[s]").astype(np.int64))
            if not 0 <= seconds <= TIME_NS_MAX // 10**9:
                return seconds * 10**9
            return int(moment.astype("datetime64[ns]").astype(np.int64))
    elif isinstance(value, int | np.integer):
        return int(value)
    elif isinstance(value, float | np.floating):
        if math.isfinite(value):
            return round(float(value) * 1_000_000) * 1_000
    elif isinstance(value, datetime.datetime):
        return _of_datetime(value)
    elif isinstance(value, str):
        return _of_text(value)
    raise ValueError(f"{_show(value)} is not a time: {_TIME_FORMS}")


def _of_datetime(moment: datetime.datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
    since = aware - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def _of_text(value: str) -> int:
    """ISO 8601, with up to nine digits of a second; Python's own parser knows six."""
    words = value.strip().replace(",", ".").replace("Z", "+00:00").replace("z", "+00:00")
    head, dot, tail = words.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    try:
        moment = datetime.datetime.fromisoformat(head + tail[len(digits) :])
    except ValueError:
        raise ValueError(f"{_show(value)} is not a time: {_TIME_FORMS}") from None
    if dot and not 1 <= len(digits) <= 9:
        raise ValueError(f"{_show(value)} is not a time: {_TIME_FORMS}")
    return _of_datetime(moment) + int((digits or "0").ljust(9, "0"))


def severity(value: Any, kind: Any = "otel") -> int:
    """The OpenTelemetry number of a level given as a word or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        raise ValueError(f"severity {_show(value)} is no level: give a word such as 'ERROR', or 0–24")
    return severity_number(value if isinstance(value, str) else int(value), kind)


def integer(value: Any, low: int, high: int) -> int:
    """A whole number in ``[low, high]``; a numeral counts."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_show(value)} is no whole number") from None
    if isinstance(value, bool) or (number != value and not isinstance(value, str)) or not low <= number <= high:
        raise ValueError(f"{_show(value)} is no whole number from {low} to {high}")
    return number


def mapping_text(value: Any) -> str | None:
    """A mapping, or the JSON text of one, as the JSON text of an object."""
    if value is None:
        return None
    given = value
    if isinstance(value, str):
        try:
            given = orjson.loads(value)
        except orjson.JSONDecodeError:
            given = value
    if not isinstance(given, Mapping):
        raise ValueError(f"{_show(value)} is no mapping: give a dict, or the JSON text of an object")
    if not given:
        return None
    return json_text(given)


_PLAIN = frozenset({str, int, bool, type(None)})


def json_text(value: Any) -> str:
    """``value`` as JSON text, each part with its type where JSON has one.

    NaN and the infinities become the strings ``NaN``, ``Infinity``, ``-Infinity``; whole numbers beyond 64 bits become
    text; bytes become base64; what JSON does not know becomes its own text.

    >>> json_text({"loss": 0.25, "at": datetime.date(2026, 1, 2), "bad": float("nan")})
    '{"loss":0.25,"at":"2026-01-02","bad":"NaN"}'
    """
    if isinstance(value, dict) and len(value) <= KEYS_MAX and all(map(_is_plain, value.items())):
        try:
            return orjson.dumps(value).decode()
        except (TypeError, orjson.JSONEncodeError):
            pass  # a number beyond 64 bits, or a lone surrogate: said part by part below
    return orjson.dumps(_plain(value, DEPTH_MAX)).decode()


def part_text(value: Any) -> str:
    """`json_text` of a value inside an object."""
    return orjson.dumps(_plain(value, DEPTH_MAX - 1)).decode()


def _is_plain(item: tuple[Any, Any]) -> bool:
    key, value = item
    if type(key) is not str or len(key) > KEY_BYTES_MAX // 4:
        return False
    kind = type(value)
    return kind in _PLAIN or (kind is float and math.isfinite(value))


def _plain(value: Any, depth: int) -> Any:
    if depth < 0:
        raise ValueError(f"is nested deeper than {DEPTH_MAX} levels: flatten it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value).replace("nan", "NaN").replace("inf", "Infinity")
    if isinstance(value, Mapping):
        if len(value) > KEYS_MAX:
            raise ValueError(f"has {len(value)} keys: {KEYS_MAX} at most")
        return {_key(key): _plain(part, depth - 1) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part, depth - 1) for part in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), depth) if value.dtype.kind not in "OmMV" else str(value)
    return text(str(value))


def _key(key: Any) -> str:
    word = text(key if isinstance(key, str) else str(key)) or ""
    if len(word.encode()) > KEY_BYTES_MAX:
        raise ValueError(f"has the key {_show(word)}, longer than {KEY_BYTES_MAX} bytes")
    return word


def hex_id(value: Any, length: int) -> str | None:
    """An id of ``length`` hex digits in lower case; None for one that is all zero or malformed, which means absent.

    >>> hex_id("00F067AA0BA902B7", 16), hex_id("0" * 16, 16), hex_id("xyz", 16)
    ('00f067aa0ba902b7', None, None)
    """
    if isinstance(value, bytes | bytearray):
        value = bytes(value).hex()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = f"{value:0{length}x}"
    if not isinstance(value, str) or len(value) != length:
        return None
    word = value.lower()
    return word if set(word) <= set("0123456789abcdef") and set(word) != {"0"} else None


def _show(value: Any) -> str:
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        shown = f"<{type(value).__name__}>"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
