"""JSON objects as whole columns of text: which texts need no change, and text out of columns or dicts.

What comes out says the same as `values.mapping_text` of each record alone would. What is not plain is left to it:
these functions say so, and never guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ringlog import values
from ringlog.errors import InvalidRecord

SHAPES_MAX = 16
"""Objects with the same keys in the same order have one shape; texts of more shapes than this go one by one."""

_TEXT = r'"(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))*"'
# Whole numbers of at most 18 digits, and fractions of so few that a double keeps them as they are written.
_WHOLE = "0|-?[1-9][0-9]{0,17}"
_FRACTION = r"-?(?:0\.(?:0|0{0,3}[1-9]|0{0,3}[1-9][0-9]{0,7}[1-9])|[1-9][0-9]{0,5}\.(?:0|[1-9]|[0-9]{0,7}[1-9]))"
SCALAR = f"(?:{_TEXT}|{_WHOLE}|{_FRACTION}|true|false|null)"
"""An RE2 pattern: what matches it as a whole is a plain value just as orjson writes it."""

_SHORTEST = 32  # fewer texts are sooner looked at one by one than a pattern is compiled
_PLAIN = frozenset({str, int, bool, float, type(None)})
_BETWEEN = orjson.Fragment(b"\n")
_ESCAPED = ('"', "\\", *map(chr, range(0x20)))


@dataclass(frozen=True)
class Objects:
    """A column of objects as `values.mapping_text` writes them; null for none. It needs no second look."""

    texts: pa.Array


def unchanged(texts: pa.Array) -> tuple[pa.Array, frozenset[str] | None]:
    """Which of ``texts`` surely are what `values.mapping_text` makes of them, nulls among them; and the keys in all of
    those, or None where they are not known.

    Each shape that is met is checked once, by its first text, and made a pattern that no other shape matches.

    >>> found, keys = unchanged(pa.array(['{"a":1}', '{"a":"x"}', '{"a": 1}', None] * 10))
    >>> found.to_pylist()[:4], keys
    ([True, True, False, True], frozenset({'a'}))
    """
    sure = np.asarray(pc.is_null(texts).to_numpy(zero_copy_only=False))
    if len(texts) < _SHORTEST:
        return pa.array(sure), None
    keys: set[str] = set()
    unknown = ~sure
    for _ in range(SHAPES_MAX):
        where = np.flatnonzero(unknown)
        if not len(where):
            break
        rest = texts if len(where) == len(texts) else texts.take(pa.array(where))
        shape = _shape(rest[0].as_py())
        if shape is None:
            unknown[where[0]] = False
            continue
        keys.update(shape)
        sure[where] = pc.match_substring_regex(rest, _pattern(shape)).to_numpy(zero_copy_only=False)
        unknown &= ~sure
    return pa.array(sure), frozenset(keys)


def _shape(text: str) -> list[str] | None:
    """The keys of an object that is as `values.mapping_text` writes it and holds nothing but plain values."""
    try:
        given = orjson.loads(text)
        if values.mapping_text(text) != text:
            return None
    except ValueError:
        return None
    return list(given) if all(type(value) in _PLAIN for value in given.values()) else None


def _pattern(keys: Sequence[str]) -> str:
    parts = (re.escape(orjson.dumps(key).decode()) + ":" + SCALAR for key in keys)
    return r"^\{" + ",".join(parts) + r"\}\z"


def of_dicts(dicts: Sequence[Any]) -> pa.Array | None:
    """The JSON text of each dict, null for None and for an empty one; None where any is not plain."""
    given = [value or {} for value in dicts]
    if not {dict}.issuperset(map(type, given)):
        return None
    kinds = set(map(type, chain.from_iterable(map(dict.values, given))))
    keys: set[Any] = set().union(*given)
    if not _PLAIN.issuperset(kinds) or not all(
        type(key) is str and len(key) <= values.KEY_BYTES_MAX // 4 for key in keys
    ):
        return None
    if len(keys) > values.KEYS_MAX and max(map(len, given)) > values.KEYS_MAX:
        return None
    if float in kinds and not all(
        math.isfinite(value) for one in given for value in one.values() if type(value) is float
    ):
        return None
    # One call for all is much faster than one for each. JSON text has no bare newline but those put in between.
    apart: list[Any] = [_BETWEEN] * (2 * len(given) - 1)
    apart[::2] = given
    try:
        texts = orjson.dumps(apart)[1:-1].split(b",\n,")
    except (TypeError, orjson.JSONEncodeError):
        return None  # a number beyond 64 bits, or a lone surrogate
    made = pa.array(texts, pa.string())
    return pc.if_else(pc.equal(made, "{}"), None, made) if {} in given else made


def of_columns(columns: Mapping[str, pa.Array], rows: int) -> pa.Array | None:
    """One object for each row, of the columns that are not null there; null where all are.

    None where there are too many keys, or one is too long, or a value is nested too deep.

    >>> of_columns({"a": pa.array([1, None]), "b": pa.array(["x", None])}, 2).to_pylist()
    ['{"a":1,"b":"x"}', None]
    """
    if len(columns) > values.KEYS_MAX or any(len(key.encode()) > values.KEY_BYTES_MAX for key in columns):
        return None
    members: list[tuple[str, pa.Array, str]] = []
    for key, column in columns.items():
        if column.null_count == rows:
            continue
        texts = _value_texts(key, column)
        if texts is None:
            return None
        quote = '"' if _is_text(column) else ""
        members.append((f"{orjson.dumps(key).decode()}:{quote}", texts, quote))
    if not members:
        return pa.nulls(rows, pa.string())
    if not any(texts.null_count for _, texts, _ in members):
        between = (part for before, texts, after in members for part in (f",{before}", texts, after))
        return pc.binary_join_element_wise("{" + next(between)[1:], *between, "}", "")
    each = [
        pc.binary_join_element_wise("," + before, texts, after, "").fill_null("") for before, texts, after in members
    ]
    joined = pc.binary_join_element_wise(*each, "}", "")
    return pc.if_else(pc.equal(joined, "}"), None, pc.binary_replace_slice(joined, 0, 1, "{"))


def merged(given: pa.Array, extra: pa.Array, extra_keys: Iterable[str]) -> pa.Array | None:
    """The members of both objects of each row; None where ``given`` might need a change, or has a key of ``extra``.

    Both are text, or null for no members.
    """
    if given.null_count == len(given):
        return extra
    sure, keys = unchanged(given)
    if keys is None or not keys.isdisjoint(extra_keys) or not pc.all(sure).as_py():
        return None
    both = pc.binary_join_element_wise(
        pc.binary_replace_slice(given, -1, 2**62, ""), pc.binary_replace_slice(extra, 0, 1, ","), ""
    )
    return pc.coalesce(both, given, extra)


def python_values(name: str, column: pa.Array) -> list[Any]:
    """Python's values of a column. Times that its datetime cannot hold stand there as the numbers that they are."""
    try:
        # Asking for dicts is fifty times slower, also where there is no map.
        found: list[Any] = column.to_pylist(**({"maps_as_pydicts": "lossy"} if "map<" in str(column.type) else {}))
        return found
    except (OverflowError, ValueError, KeyError) as error:
        if pa.types.is_timestamp(column.type):
            numbers: list[Any] = column.cast(pa.int64()).to_pylist()
            return numbers
        raise InvalidRecord(f"column {name!r} of {column.type} cannot be read: {error}") from error


def _is_text(column: pa.Array) -> bool:
    kind = column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _value_texts(name: str, column: pa.Array) -> pa.Array | None:
    """JSON text of each value; that of text without its quotes."""
    kind = column.type
    if _is_text(column):
        return _escaped(column.cast(pa.string()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        return _float_texts(column.cast(pa.float64()))
    try:
        parts = [None if value is None else values.part_text(value) for value in python_values(name, column)]
    except ValueError:
        return None  # nested too deep, or with too many keys: which record that is, is said where it stands alone
    return pa.array(parts, pa.string())


def _escaped(texts: pa.Array) -> pa.Array:
    if _any(pc.match_substring_regex(texts, r'["\\\x00-\x1f]')):
        # The backslash first: those that stand for other characters stay.
        for character in sorted(_ESCAPED, key=lambda one: one != "\\"):
            if _any(pc.match_substring(texts, character)):
                texts = pc.replace_substring(texts, character, orjson.dumps(character).decode()[1:-1])
    return texts


def _float_texts(numbers: pa.Array) -> pa.Array:
    texts = numbers.cast(pa.string())
    texts = pc.if_else(
        pc.match_substring_regex(texts, "^-?[0-9]+$"), pc.binary_join_element_wise(texts, ".0", ""), texts
    )
    for given, word in (("nan", '"NaN"'), ("inf", '"Infinity"'), ("-inf", '"-Infinity"')):
        texts = pc.if_else(pc.equal(texts, given), word, texts)
    return texts


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask, min_count=0).as_py())
