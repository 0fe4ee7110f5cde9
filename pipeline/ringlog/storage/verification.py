"""Verification: reads a table and the journals of this machine again, and says exactly what is wrong with them.

Nothing is changed, and whoever writes there may go on. Of the table one version is looked at: every segment is read to
its last bit, and each shard's records must be ``[0, stored)``, each once, but for as many as its log says have expired.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ringlog.errors import CorruptionError
from ringlog.storage.commit import EXPIRED, FENCE, LOG, Snapshot, Table
from ringlog.storage.contents import StoredSegment
from ringlog.storage.examination import Examined, Problem, examine
from ringlog.storage.inspection import JournalReport, inspect
from ringlog.storage.objects import Objects

_READERS = 4
_SHOWN = 5


@dataclass(frozen=True)
class TableReport:
    """What was read of one version of a table, and what is wrong. ``stored`` is where each shard ends there."""

    version: int
    segments: int
    records: int
    bytes: int
    stored: Mapping[str, int]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class JournalsReport:
    """The journals that read back, and what is wrong with the others."""

    journals: tuple[JournalReport, ...]
    problems: tuple[Problem, ...]


def verify_table(table: Table, on_segment: Callable[[StoredSegment], None] | None = None) -> TableReport:
    """Look at the newest version of ``table``. Raises `ConfigurationError` where there is none, and `Unavailable`."""
    snapshot = table.snapshot()
    transactions, problems = _transactions(table.objects, snapshot)
    seen: list[Examined] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ringlog-verify") as readers:
        for one in readers.map(lambda segment: examine(table.objects, segment), snapshot.segments()):
            seen.append(one)
            problems += one.problems
            if on_segment is not None:
                on_segment(one.segment)
    stored = {name: version for name, version in transactions.items() if not name.endswith((EXPIRED, FENCE))}
    for shard in sorted({*stored, *(shard for one in seen for shard in one.spans)}):
        problems += _shard_problems(shard, stored.get(shard, 0), transactions.get(f"{shard}{EXPIRED}", 0), seen)
    return TableReport(
        version=snapshot.version,
        segments=len(seen),
        records=sum(one.rows for one in seen),
        bytes=sum(one.segment.size_bytes for one in seen),
        stored=stored,
        problems=tuple(problems),
    )


def verify_journals(folders: Iterable[Path], table: Table | None = None) -> JournalsReport:
    """Read the journals in ``folders``; where all are of one ``table``, it must hold what they begin after.

    Raises what `Table.find` raises.
    """
    journals: list[JournalReport] = []
    problems: list[Problem] = []
    for path in folders:
        try:
            report = inspect(path)
        except (CorruptionError, OSError) as error:
            problems.append(Problem(f"the journal does not read back: {error}", file=str(path), shard=path.name))
            continue
        if report is not None:
            journals.append(report)
    if table is not None:
        snapshot = table.find()  # after the journals were read: they are trimmed to what the table holds by then
        problems += [
            Problem(
                f"the journal begins at {report.trimmed}, and the table ends at {end}: what is between is gone",
                file=str(report.folder),
                shard=report.shard,
                start=end,
                end=report.trimmed,
            )
            for report in journals
            if report.trimmed > (end := snapshot.stored(report.shard) if snapshot else 0)
        ]
    return JournalsReport(tuple(journals), tuple(problems))


def _shard_problems(shard: str, stored: int, expired: int, seen: Sequence[Examined]) -> Iterator[Problem]:
    """Its records must be ``[0, stored)``, each once, less as many as expired."""
    holes: list[tuple[int, int]] = []
    reached, last = 0, None
    for span in sorted(
        (span for one in seen for span in one.spans.get(shard, ())), key=lambda span: (span.start, span.end)
    ):
        if span.start > reached:
            holes.append((reached, span.start))
        elif span.start < reached and last is not None:
            end = min(span.end, reached)
            where = "twice in it" if last.file == span.file else f"in {last.file} as well"
            yield Problem(f"these records are {where}", file=span.file, shard=shard, start=span.start, end=end)
        if span.end > reached:
            reached, last = span.end, span
    if reached > stored:
        yield Problem(
            f"there are records up to {reached}, and the transaction of {shard} says {stored}",
            file=last.file if last else None,
            shard=shard,
            start=stored,
            end=reached,
        )
    elif reached < stored:
        holes.append((reached, stored))
    yield from _hole_problems(shard, expired, holes, [one for one in seen if not one.whole])


def _hole_problems(
    shard: str, expired: int, holes: Sequence[tuple[int, int]], broken: Sequence[Examined]
) -> Iterator[Problem]:
    """What is missing and neither expired nor in a segment that was found to be broken already."""
    missing = sum(end - start for start, end in holes)
    if missing < expired:
        yield Problem(f"{expired} records expired by the log, and only {missing} are not there", shard=shard)
    unexplained = [hole for hole in holes if not any(_may_be_in(one.segment, shard, hole) for one in broken)]
    if not expired:
        for start, end in unexplained:
            yield Problem("these records are in no segment", shard=shard, start=start, end=end)
    elif missing > expired and unexplained and not broken:
        shown = ", ".join(f"[{start}, {end})" for start, end in unexplained[:_SHOWN])
        more = f" and {len(unexplained) - _SHOWN} more" if len(unexplained) > _SHOWN else ""
        yield Problem(
            f"{missing - expired} records are in no segment and did not expire; they are among {shown}{more}",
            shard=shard,
            start=unexplained[0][0],
            end=unexplained[-1][1],
        )


def _may_be_in(segment: StoredSegment, shard: str, hole: tuple[int, int]) -> bool:
    low, high = segment.bounds.get("record_offset", (None, None))
    within = low is None or high is None or (low <= hole[0] and hole[1] <= high + 1)
    return within and segment.may_hold("shard", shard)


def _transactions(objects: Objects, snapshot: Snapshot) -> tuple[dict[str, int], list[Problem]]:
    """Every transaction of the version, read from the log itself, and where delta-rs says otherwise."""
    found: dict[str, int] = {}
    problems = []
    for path in _log_of(objects, snapshot.version):
        try:
            found.update(_transactions_in(path, objects.read(path)))
        except (FileNotFoundError, orjson.JSONDecodeError, pa.ArrowException, OSError) as error:
            problems.append(Problem(f"this file of the table's log does not read back: {error}", file=path))
    for name, version in found.items():
        known = snapshot.delta.transaction_version(name)
        if known != version:
            problems.append(Problem(f"the log says {version} for {name}, and delta-rs {known}", file=LOG))
    return found, problems


def _log_of(objects: Objects, version: int) -> list[str]:
    """The newest checkpoint up to ``version``, and the commits that follow it."""
    paths = objects.list(LOG)
    parts = [re.fullmatch(rf"{LOG}/(\d{{20}})\.checkpoint\.(?:.*\.)?parquet", path) for path in paths]
    checkpoint = max((int(part[1]) for part in parts if part and int(part[1]) <= version), default=-1)
    commits = [f"{LOG}/{number:020d}.json" for number in range(checkpoint + 1, version + 1)]
    return [*(part[0] for part in parts if part and int(part[1]) == checkpoint), *commits]


def _transactions_in(path: str, data: bytes) -> dict[str, int]:
    if path.endswith(".parquet"):
        actions = pq.read_table(pa.BufferReader(data), columns=["txn"])["txn"].to_pylist()
    else:
        actions = [orjson.loads(line).get("txn") for line in data.splitlines()]
    return {action["appId"]: action["version"] for action in actions if action is not None and action["appId"]}
