"""What the clients of a chaos run were told, what readers saw, what the table holds: can all of it be true? Pure.

One machine, one clock: every time is its monotonic clock in ns. An invocation is written down before it begins and an
answer after it came, so that "answered before it began" in the histories is also true of what they describe.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson

Outcome = Literal["acknowledged", "not stored", "unknown", "unexpected"]
EXAMPLES_MAX = 5
NS = 1_000_000_000
OUTAGE_S = 10.0


class Row(NamedTuple):
    """A record as the table has it: who submitted it, which of theirs it is, and its position."""

    client: str
    number: int
    shard: str
    offset: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Records ``[first, first + count)`` of a client, of one service, so of one shard; and what it was told of them.

    ``stored`` is how far the table held the shard right after an answer that the records are in the table.
    """

    client: str
    first: int
    count: int
    begin: int
    end: int | None = None
    outcome: Outcome = "unknown"
    shard: str = ""
    start: int = 0
    stored: int | None = None
    error: str = ""

    def __str__(self) -> str:
        return f"{self.client} [{self.first}, {self.first + self.count}) of {self.shard or 'a shard'}: {self.outcome}"


@dataclass(frozen=True)
class Read:
    """A reader's view: for each client the numbers that it saw, as half-open runs in order.

    It asked for all that was submitted from ``since`` on.
    """

    begin: int
    missing: tuple[str, ...]
    seen: Mapping[str, Sequence[tuple[int, int]]]
    doubled: int = 0
    since: int = 0


@dataclass(frozen=True)
class Fault:
    """What the nemesis did, when, and the shards that it hit through their leader, or through what all lean on.

    ``seconds``: how long what it hit was away, where the nemesis brought it back itself.
    """

    kind: str
    at: int
    target: str
    shards: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Verdict:
    """How many records were told what, and how many things must not be. ``examples`` names the first of each."""

    acknowledged: int = 0
    not_stored: int = 0
    unknown: int = 0
    reads: int = 0
    lost: int = 0
    """Acknowledged, and not in the table."""
    doubled: int = 0
    """More than once in the table or a read, by who submitted it or by its position."""
    misordered: int = 0
    """Not where its client was told, apart from its own submit, or before one that was acknowledged before it began."""
    returned: int = 0
    """Told "not stored", and in the table."""
    unseen: int = 0
    """Acknowledged before a read began, and not in it, though the shard was not named missing."""
    early: int = 0
    """Told "stored" before the table held it."""
    holes: int = 0
    """Offsets of a shard that the table does not have below its end."""
    strange: int = 0
    """In the table, and submitted by nobody; or an answer that no caller should get."""
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def wrong(self) -> dict[str, int]:
        """What must be nothing, by name."""
        names = ("lost", "doubled", "misordered", "returned", "unseen", "early", "holes", "strange")
        return {name: getattr(self, name) for name in names}

    def found(self, name: str, count: int, example: object) -> None:
        """Count something that must not be."""
        if count:
            setattr(self, name, getattr(self, name) + count)
            if len(self.examples[name]) < EXAMPLES_MAX:
                self.examples[name].append(str(example))


def check(submits: Sequence[Submit], reads: Sequence[Read], rows: Sequence[Row]) -> Verdict:
    """Hold ``submits`` and ``reads`` against the ``rows`` of the table, which were read when all was over."""
    verdict = Verdict(reads=len(reads))
    at: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        at[row.client, row.number].append((row.shard, row.offset))
    _check_rows(rows, at, verdict)
    submitted = 0
    for submit in submits:
        places = [at.get((submit.client, submit.first + number), []) for number in range(submit.count)]
        submitted += sum(len(place) for place in places)
        _check_submit(submit, places, verdict)
    verdict.found("strange", len(rows) - submitted, "rows of records that nobody submitted")
    _check_order(submits, at, verdict)
    _check_reads(reads, submits, verdict)
    return verdict


def _check_rows(rows: Sequence[Row], at: Mapping[tuple[str, int], Sequence[tuple[str, int]]], verdict: Verdict) -> None:
    for record, places in at.items():
        verdict.found("doubled", len(places) - 1, f"{record} at {places}")
    for position, times in Counter((row.shard, row.offset) for row in rows).items():
        verdict.found("doubled", times - 1, f"{times} records at {position}")
    offsets: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        offsets[row.shard].add(row.offset)
    for shard, found in offsets.items():
        verdict.found("holes", max(found) + 1 - len(found), f"{shard} has {len(found)} below {max(found) + 1}")


def _check_submit(submit: Submit, places: Sequence[Sequence[tuple[str, int]]], verdict: Verdict) -> None:
    found = [place[0] for place in places if place]
    if submit.outcome == "acknowledged":
        verdict.acknowledged += submit.count
        verdict.found("lost", submit.count - len(found), submit)
        wrong = sum((submit.shard, submit.start + number) not in place for number, place in enumerate(places) if place)
        verdict.found("misordered", wrong, f"{submit}, told {submit.start}, found {found}")
        if submit.stored is not None and submit.stored < submit.start + submit.count:
            verdict.found("early", submit.count, f"{submit}: the table ended at {submit.stored}")
        return
    if submit.outcome == "not stored":
        verdict.not_stored += submit.count
        verdict.found("returned", len(found), f"{submit}, found {found}")
        return
    if submit.outcome == "unexpected":
        verdict.found("strange", submit.count, f"{submit}: {submit.error}")
    verdict.unknown += submit.count
    together = all(a[0] == b[0] and a[1] + 1 == b[1] for a, b in pairwise(found))
    if found and (len(found) < submit.count or not together):
        verdict.found("misordered", len(found), f"{submit}, of which {found}")


def _check_order(
    submits: Sequence[Submit], at: Mapping[tuple[str, int], Sequence[tuple[str, int]]], verdict: Verdict
) -> None:
    """Within a shard, what was acknowledged before another submit began has the lower offsets, whoever submitted."""
    placed: dict[str, list[tuple[int, Submit]]] = defaultdict(list)
    for submit in submits:
        for shard, offset in at.get((submit.client, submit.first), ())[:1]:
            placed[shard].append((offset, submit))
    for found in placed.values():
        answered: Submit | None = None  # the first to be answered, of those with higher offsets
        for _, submit in sorted(found, key=lambda one: -one[0]):
            if answered is not None and answered.end is not None and answered.end < submit.begin:
                verdict.found("misordered", submit.count, f"{submit} is before {answered}, which was answered first")
            acknowledged = submit.outcome == "acknowledged" and submit.end is not None
            if acknowledged and (answered is None or (submit.end or 0) < (answered.end or 0)):
                answered = submit


class _Due:
    """The acknowledged submits of one client as columns, in order of their first numbers."""

    def __init__(self, submits: Sequence[Submit]) -> None:
        self.submits = sorted(submits, key=lambda submit: submit.first)
        self.first = np.array([submit.first for submit in self.submits])
        self.end_number = np.array([submit.first + submit.count for submit in self.submits])
        self.begin = np.array([submit.begin for submit in self.submits])
        self.end = np.array([submit.end for submit in self.submits])
        self.shard = np.array([submit.shard for submit in self.submits])

    def unseen(self, read: Read, runs: Sequence[tuple[int, int]]) -> Iterator[Submit]:
        """Those that ``read`` should have, and that are not in its ``runs``."""
        begins, ends = np.array([(-1, -1), *runs]).T
        held = ends[np.searchsorted(begins, self.first, side="right") - 1] >= self.end_number
        due = (self.end < read.begin) & (self.begin >= read.since) & ~np.isin(self.shard, read.missing)
        return (self.submits[index] for index in np.nonzero(due & ~held)[0])


def _check_reads(reads: Iterable[Read], submits: Iterable[Submit], verdict: Verdict) -> None:
    acknowledged: dict[str, list[Submit]] = defaultdict(list)
    for submit in submits:
        if submit.outcome == "acknowledged" and submit.end is not None:
            acknowledged[submit.client].append(submit)
    due = {client: _Due(of_client) for client, of_client in acknowledged.items()}
    for read in reads:
        verdict.found("doubled", read.doubled, f"in a read at {read.begin}")
        for client, of_client in due.items():
            for submit in of_client.unseen(read, read.seen.get(client, ())):
                verdict.found("unseen", submit.count, f"{submit}, in a read at {read.begin}")


def gaps_ms(faults: Sequence[Fault], submits: Iterable[Submit]) -> dict[str, dict[str, float]]:
    """By kind of fault: the longest time without an acknowledgement of a shard that it hit, until the next fault.

    A silence that outlasts the next fault counts whole. The first acknowledgement would say less: what dies may answer
    once more.
    """
    answers = _answers(submits)
    found: dict[str, list[float]] = defaultdict(list)
    in_order = sorted(faults, key=lambda fault: fault.at)
    for fault, following in zip_longest(in_order, in_order[1:]):
        for shard in fault.shards:
            times = answers.get(shard, [])
            first = bisect_right(times, fault.at)
            last = bisect_right(times, following.at) if following else len(times)
            silences = [after - before for before, after in pairwise([fault.at, *times[first : last + 1]])]
            if silences:
                found[fault.kind].append(max(silences) / 1e6)
    return {
        kind: {"p50": _percentile(gaps, 50), "p99": _percentile(gaps, 99), "max": round(max(gaps), 1), "n": len(gaps)}
        for kind, gaps in sorted(found.items())
    }


def outages(
    faults: Sequence[Fault], submits: Iterable[Submit], begin: int, end: int, least_s: float = OUTAGE_S
) -> list[dict[str, Any]]:
    """Where a shard acknowledged nothing for more than ``least_s`` between ``begin`` and ``end``, the longest first.

    ``at_s`` counts from ``begin``. Each names the faults that were dealt or went on in it, or up to a second before.
    """
    found = []
    for shard, times in sorted(_answers(submits).items()):
        for last, following in pairwise([begin, *times, end]):
            if following - last > least_s * NS:
                within = [fault for fault in faults if _overlaps(fault, last - NS, following)]
                found.append(
                    {
                        "shard": shard,
                        "at_s": round((last - begin) / NS, 1),
                        "seconds": round((following - last) / NS, 1),
                        "faults": [
                            f"{fault.kind} {fault.target} at {(fault.at - begin) / NS:.1f} s, away {fault.seconds:g} s"
                            for fault in within
                        ],
                    }
                )
    return sorted(found, key=lambda outage: -float(outage["seconds"]))


def _answers(submits: Iterable[Submit]) -> dict[str, list[int]]:
    """When each shard acknowledged, in order."""
    answers: dict[str, list[int]] = defaultdict(list)
    for submit in submits:
        if submit.outcome == "acknowledged" and submit.end is not None:
            answers[submit.shard].append(submit.end)
    return {shard: sorted(times) for shard, times in answers.items()}


def _overlaps(fault: Fault, begin: int, end: int) -> bool:
    return fault.at <= end and fault.at + fault.seconds * NS >= begin


def _percentile(values: Iterable[float], percent: int) -> float:
    """The nearest rank: a value that occurred."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 1)


def submits_of(lines: Iterable[bytes]) -> Iterator[Submit]:
    """A client's history; what it does not answer is unknown. A line that the client's death tore is none."""
    open_: dict[int, Submit] = {}
    for line in _whole(lines):
        if line["op"] == "submit":
            open_[line["first"]] = Submit(line["client"], line["first"], line["count"], line["at"])
        else:
            asked = open_.pop(line["first"])
            answer = {name: value for name, value in line.items() if name not in ("op", "first", "at")}
            yield Submit(asked.client, asked.first, asked.count, asked.begin, line["at"], **answer)
    yield from open_.values()


def reads_of(lines: Iterable[bytes]) -> Iterator[Read]:
    """A reader's history, without the reads that got no answer."""
    for line in _whole(lines):
        if line["op"] != "read":
            continue
        seen = {client: [(first, end) for first, end in runs] for client, runs in line["seen"].items()}
        yield Read(line["begin"], tuple(line["missing"]), seen, line["doubled"], line["since"])


def _whole(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    return (orjson.loads(line) for line in lines if line.endswith(b"\n"))
