from __future__ import annotations

import datetime
from typing import Any

import pytest

from ringlog.errors import InvalidQuery
from ringlog.query import Cut, Filter, Tail, run_search
from table_rows import rows

NOW = datetime.datetime(2025, 10, 9, 12, 10, tzinfo=datetime.timezone.utc)
BODIES = ["Connection timeout", "100% done", "a_b", "user=7", "plain", "[x] (y)"]
BATCH = rows(
    "s",
    0,
    6,
    body=BODIES,
    severity_number=[17, 9, 9, 13, 5, 21],
    service=["train", "serve", "train", None, "train", "serve"],
    attributes=['{"loss":0.5,"a.b":1}', '{"loss":"0.5"}', None, '{"loss":1}', '{"n":null}', '{"loss":0.5,"x":[1]}'],
    tenant=["default"] * 5 + ["acme"],
    trace_id=["a" * 32] + [None] * 5,
)
CUT = Cut(None, (Tail("s", 0, 6, (BATCH,)),))

FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"text": "TIMEOUT"}, [0]),
    ({"text": "%"}, [1]),
    ({"text": "_"}, [2]),
    ({"text": "[X] (Y)"}, [5]),
    ({"text": "\\d"}, []),
    ({"text": "' OR 1=1 --"}, []),
    ({"regex": r"\d+"}, [1, 3]),
    ({"regex": r"^\[x\]"}, [5]),
    ({"service": "train"}, [0, 2, 4]),
    ({"severity": "WARN"}, [0, 3, 5]),
    ({"severity": 17}, [0, 5]),
    ({"severity": "error", "service": "serve"}, [5]),
    ({"tenant": "acme"}, [5]),
    ({"trace_id": "a" * 32}, [0]),
    ({"attributes": {"loss": 0.5}}, [0, 5]),
    ({"attributes": {"loss": "0.5"}}, [1]),
    ({"attributes": {"a.b": 1}}, [0]),
    ({"attributes": {"loss": 0.5, "x": [1]}}, [5]),
    ({"attributes": {'quoted"key': 1}}, []),
]


def found(**options: Any) -> list[int]:
    times = {name: options.pop(name) for name in ("since", "until", "limit") if name in options}
    result = run_search(CUT, Filter(**options), now=NOW, **times)
    return result.arrow()["record_offset"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("wanted", "offsets"), FILTERS, ids=[str(wanted) for wanted, _ in FILTERS])
def test_search_and_the_live_filter_agree(wanted: dict[str, Any], offsets: list[int]) -> None:
    assert found(**wanted) == offsets
    assert Filter(**wanted).apply(BATCH)["record_offset"].to_pylist() == offsets


@pytest.mark.parametrize(
    ("times", "offsets"),
    [
        ({"since": "1h"}, [0, 1, 2, 3, 4, 5]),
        ({"since": "9m"}, []),
        ({"since": "2025-10-09T12:00:00.003Z"}, [3, 4, 5]),
        ({"until": "2025-10-09T12:00:00.003"}, [0, 1, 2]),
        ({"since": datetime.datetime(2025, 10, 9, 12, 0, 0, 4000)}, [4, 5]),
        ({"since": "2d", "until": "1d"}, []),
        ({"limit": 2}, [4, 5]),
        ({"limit": None}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_times_and_limits(times: dict[str, Any], offsets: list[int]) -> None:
    assert found(**times) == offsets


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"severity": "loud"}, "is no level"),
        ({"severity": 99}, "0–24"),
        ({"since": "yesterday"}, "15m, 1h, 2d"),
        ({"regex": "("}, "is no pattern"),
    ],
)
def test_a_bad_search_says_what_to_write(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        found(**wanted)


def test_a_bad_pattern_is_refused_live_too() -> None:
    with pytest.raises(InvalidQuery, match="is no pattern"):
        Filter(regex="(").apply(BATCH)
