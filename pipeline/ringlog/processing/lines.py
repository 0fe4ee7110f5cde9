"""What a line of a text log says about itself: when it happened and how bad it is. Whole columns at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ringlog.severity import severity_numbers

Ints = npt.NDArray[np.int64]

_MONTHS = pa.array(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])
_MON = "(?P<mon>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK = r"(?P<h>\d{2}):(?P<mi>\d{2}):(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?"
_DAY_NS = 86_400 * 10**9
_HEAD = 100
"""A time or a level further inside a line belongs to the message, not to the line."""

# The first that matches wins; names: y/y2 year, mo/mon month, d day, h mi s f, z zone, epoch, lvl a one-letter level.
_FORMATS = (
    r"^\[(?P<y>\d{4})-(?P<mo>\d{2})-(?P<d>\d{2}) " + _CLOCK + r" (?P<lvl>[DIWEF]) \d+ \d+\]",  # Ray, C++ side
    r"^(?P<lvl>[DIWEF])(?P<mo>\d{2})(?P<d>\d{2}) " + _CLOCK + r"\s",  # klog, glog
    r"^(?P<mo>\d{2})-(?P<d>\d{2}) " + _CLOCK + r"\s+\d+\s+\d+ (?P<lvl>[VDIWEF]) ",  # Android
    r"^(?P<y2>\d{2})(?P<mo>\d{2})(?P<d>\d{2}) (?P<h>\d{2})(?P<mi>\d{2})(?P<s>\d{2}) ",  # HDFS
    r"^(?P<y2>\d{2})/(?P<mo>\d{2})/(?P<d>\d{2}) " + _CLOCK,  # log4j, as in Spark
    r"^(?P<y>\d{4})/(?P<mo>\d{2})/(?P<d>\d{2}) " + _CLOCK,  # Go, nginx
    r"^\[?(?:[A-Z][a-z]{2}) " + _MON + r" +(?P<d>\d{1,2}) " + _CLOCK + r" (?P<y>\d{4})",  # Apache error log, ctime
    r"^(?:<\d{1,3}>)?" + _MON + r" +(?P<d>\d{1,2}) " + _CLOCK + " ",  # syslog, RFC 3164
    r"^\[(?P<mo>\d{2})\.(?P<d>\d{2}) " + _CLOCK + r"\]",  # Proxifier
    r"^(?P<y>\d{4})(?P<mo>\d{2})(?P<d>\d{2})-(?P<h>\d{1,2}):(?P<mi>\d{1,2}):(?P<s>\d{1,2}):(?P<f>\d{1,3})\|",  # phones
    r"^(?P<epoch>\d{10})(?P<f>\d{3})?(?:\.\d+)?[\s|,]",  # seconds or milliseconds since 1970
    r"^\S+ \S+ \S+ \S+ (?P<epoch>\d{10}) ",  # HPC clusters (LANL)
    r"^[^\[]{0,100}\[(?P<d>\d{2})/" + _MON + r"/(?P<y>\d{4}):" + _CLOCK + r" (?P<z>[+-]\d{4})\]",  # common log format
    r"^.{0,100}?(?P<y>\d{4})-(?P<mo>\d{2})-(?P<d>\d{2})[T -](?P<h>\d{2})[:.](?P<mi>\d{2})[:.](?P<s>\d{2})"
    r"(?:[.,](?P<f>\d{1,9}))? ?(?P<z>Z|[+-]\d{2}:?\d{2})?",  # ISO 8601, with its cousins of Python and log4j
)
_WORDS = "TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|ERR|CRITICAL|FATAL|PANIC|ALERT|EMERG"
_LEVELS = (
    rf"^.{{0,{_HEAD + 50}}}?(?:^|[\s\[(<|:=-])(?P<lvl>{_WORDS})(?:[\s\])>|:,-]|$)",
    r"^.{0,60}?\[(?:\w+:)?(?P<lvl>trace|debug|info|notice|warn|error|crit|alert|emerg)\d?\] ",
    r"^.{0,80}?\blevel=\"?(?P<lvl>[A-Za-z]+)",
)


@dataclass(frozen=True)
class Recognised:
    """What each line said, null where it said nothing: ``severity_text`` is its own word; 0 is an unknown severity."""

    time_unix_nano: pa.Array
    severity_text: pa.Array
    severity_number: pa.Array


def recognise(lines: pa.Array, *, latest_ns: int) -> Recognised:
    """Read time and level out of text ``lines``. A time without a zone is UTC; one without a year is in the last year
    before ``latest_ns`` (ns since 1970; a day of grace).

    A line in no known format keeps nulls; no text raises.

    >>> found = recognise(pa.array(["2026-01-02 03:04:05,678 ERROR boom", "no idea"]), latest_ns=0)
    >>> found.time_unix_nano.to_pylist(), found.severity_text.to_pylist()
    ([1767323045678000000, None], ['ERROR', None])
    """
    count = len(lines)
    heads = pc.utf8_slice_codeunits(lines, 0, 3 * _HEAD)
    nanos = np.zeros(count, dtype=np.int64)
    known = np.zeros(count, dtype=bool)
    letters: Any = pa.nulls(count, pa.string())
    for pattern in _FORMATS:
        rest = np.flatnonzero(~known)
        if not len(rest):
            break
        found = pc.extract_regex(heads.take(pa.array(rest)), pattern)
        hit = pc.is_valid(found).to_numpy(zero_copy_only=False)
        if not hit.any():
            continue
        where = rest[hit]
        groups = _Groups(found.filter(pa.array(hit)))
        nanos[where], valid = _latest(groups, latest_ns)
        known[where] = valid
        if groups.has("lvl"):
            letters = _put(letters, where, groups.text("lvl"))
    words = pc.coalesce(letters, *(_level(heads, pattern) for pattern in _LEVELS))
    return Recognised(pa.array(nanos, mask=~known), words, severity_numbers(words))


class _Groups:
    """The named groups of a pattern, as columns."""

    def __init__(self, found: Any) -> None:
        self._found = found
        self._names = {field.name for field in found.type}

    def __len__(self) -> int:
        return len(self._found)

    def has(self, name: str) -> bool:
        return name in self._names

    def text(self, name: str) -> pa.Array:
        return pc.struct_field(self._found, name)

    def number(self, name: str, otherwise: int = 0) -> Ints:
        if not self.has(name):
            return np.full(len(self), otherwise, dtype=np.int64)
        text = self.text(name)
        digits = pc.if_else(pc.equal(pc.binary_length(text), 0), str(otherwise), text)
        return np.asarray(digits.cast(pa.int64()).to_numpy())

    def fraction_ns(self) -> Ints:
        if not self.has("f"):
            return np.zeros(len(self), dtype=np.int64)
        digits = pc.utf8_rpad(self.text("f"), 9, "0")
        return np.asarray(digits.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _latest(groups: _Groups, latest_ns: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Formats without a year: the newest year in which the time is not after ``latest_ns``."""
    year = int(np.datetime64(latest_ns, "ns").astype("datetime64[Y]").astype(np.int64)) + 1970
    nanos, valid = _nanos(groups, year)
    if groups.has("y") or groups.has("y2") or groups.has("epoch"):
        return nanos, valid
    earlier, valid_earlier = _nanos(groups, year - 1)
    late = (nanos > latest_ns + _DAY_NS) | ~valid
    return np.where(late, earlier, nanos), np.where(late, valid_earlier, valid)


def _nanos(groups: _Groups, year: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Nanoseconds since 1970, and which of them belong to a day and an hour that exist."""
    if groups.has("epoch"):
        return groups.number("epoch") * 10**9 + groups.fraction_ns(), np.ones(len(groups), dtype=bool)
    years = groups.number("y", year) if not groups.has("y2") else _four_digits(groups.number("y2"))
    months = groups.number("mo") if groups.has("mo") else _month_numbers(groups.text("mon"))
    days = groups.number("d")
    hours, minutes, seconds = groups.number("h"), groups.number("mi"), groups.number("s")
    valid = (months >= 1) & (months <= 12) & (days >= 1) & (hours < 24) & (minutes < 60) & (seconds < 60)
    valid &= (years >= 1970) & (years < 2262)
    first = (years - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (np.clip(months, 1, 12) - 1)
    valid &= days <= ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
    day = first.astype("datetime64[D]").astype(np.int64) + days - 1
    total = day * 86_400 + hours * 3_600 + minutes * 60 + seconds - _zone_seconds(groups)
    valid &= total >= 0
    return np.where(valid, total, 0) * 10**9 + groups.fraction_ns(), valid


def _four_digits(years: Ints) -> Ints:
    return np.asarray(np.where(years < 70, 2000, 1900) + years, dtype=np.int64)


def _month_numbers(names: pa.Array) -> Ints:
    return np.asarray(pc.index_in(names, _MONTHS).to_numpy()).astype(np.int64) + 1


def _zone_seconds(groups: _Groups) -> Ints:
    if not groups.has("z"):
        return np.zeros(len(groups), dtype=np.int64)
    zones = groups.text("z").dictionary_encode()
    seconds = np.array([_offset_seconds(zone) for zone in zones.dictionary.to_pylist()], dtype=np.int64)
    return np.asarray(seconds[np.asarray(zones.indices.to_numpy())])


def _offset_seconds(zone: str) -> int:
    if zone in ("", "Z"):
        return 0
    digits = zone[1:].replace(":", "")
    return (int(digits[:2]) * 3_600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)


def _level(heads: pa.Array, pattern: str) -> pa.Array:
    found = pc.extract_regex(heads, pattern)
    return pc.struct_field(found, "lvl")


def _put(column: pa.Array, where: Ints, values: pa.Array) -> pa.Array:
    mask = np.zeros(len(column), dtype=bool)
    mask[where] = True
    return pc.replace_with_mask(column, pa.array(mask), values)
