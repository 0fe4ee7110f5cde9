"""Break a pipeline for minutes, while clients submit and read; then see whether all that they were told is true.

`python chaos.py --minutes 5 --seed 1 --json`, or the same by `ray job submit`. It starts a small Ray cluster of its own
on loopback, and ends it. Exit code 0 only when nothing was lost, doubled or out of order, and enough happened.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

import ringlog
from chaos_history import Read, Row, Submit, Verdict, check, gaps_ms, reads_of, submits_of
from chaos_nemesis import FAULTS, Crowd, Ground, Nemesis, eventually

NODES = 3
CLIENTS = 2
HEALS_WITHIN_S = 120.0
ANSWERS_WITHIN_S = 120.0
FLUSH_DEADLINE_S = 30.0
FAULTS_MIN_PART = 0.25
"""How many of the faults that there was time for must have taken effect, at the least."""
ACKNOWLEDGED_PER_MINUTE_MIN = 2000


def rows_of(table: str) -> list[Row]:
    """The table, read without ringlog."""
    found = DeltaTable(table).to_pyarrow_table(columns=["body", "shard", "record_offset"])
    bodies = (body.split(" ") for body in found["body"].to_pylist())
    places = zip(found["shard"].to_pylist(), found["record_offset"].to_pylist(), strict=True)
    return [
        Row(client, int(number), shard, offset)
        for (client, number), (shard, offset) in zip(bodies, places, strict=True)
    ]


def histories_of(folder: Path) -> tuple[list[Submit], list[Read]]:
    """What the clients and the reader wrote."""
    submits: list[Submit] = []
    for path in sorted(folder.glob("client-*.jsonl")):
        with path.open("rb") as lines:
            submits.extend(submits_of(lines))
    with (folder / "reader.jsonl").open("rb") as lines:
        return submits, list(reads_of(lines))


def run(
    folder: Path, minutes: float, seed: int, kinds: list[str], every_s: float
) -> tuple[Nemesis, list[str], list[Row]]:
    """Break it and let it heal. What did not come back, and what the table holds then."""
    draw = random.Random(seed)
    ground = Ground(folder, NODES)
    try:
        crowd = Crowd(ground, folder, CLIENTS, draw)
        try:
            if not eventually(lambda: len(crowd.writing()) == CLIENTS, ANSWERS_WITHIN_S):
                sys.exit("the clients do not begin to submit")
            nemesis = Nemesis(ground, crowd, draw, folder / "faults.jsonl")
            nemesis.run(time.monotonic() + 60 * minutes, kinds, every_s)
            failed = [] if eventually(ground.whole, HEALS_WITHIN_S) else ["not every shard is complete again"]
            failed += crowd.finish(ANSWERS_WITHIN_S)
        finally:
            crowd.close()
        if not eventually(lambda: flushed(ground), HEALS_WITHIN_S):
            failed.append("not everything could be archived: what is called lost may lie in the journals")
        return nemesis, failed, rows_of(ground.table)
    finally:
        ground.close()


def flushed(ground: Ground) -> bool:
    """Whether all is in the table."""
    try:
        ground.pipeline.flush(FLUSH_DEADLINE_S)
    except ringlog.Unavailable as error:
        print(error, file=sys.stderr)
        return False
    return True


def told(verdict: Verdict, nemesis: Nemesis, submits: list[Submit]) -> dict[str, Any]:
    """The result as one plain value."""
    return {
        "acknowledged": verdict.acknowledged,
        **verdict.wrong(),
        "faults": dict(sorted(Counter(fault.kind for fault in nemesis.faults).items())),
        "skipped": dict(nemesis.skipped),
        "unknown": verdict.unknown,
        "not_stored": verdict.not_stored,
        "reads": verdict.reads,
        "gaps_ms": gaps_ms(nemesis.faults, submits),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {','.join(FAULTS)}")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between one fault and the next, about")
    parser.add_argument("--folder", type=Path, help="keep the root, the journals and the histories there")
    parser.add_argument("--report", type=Path, help="write the result there too, with examples of what is wrong")
    parser.add_argument("--json", action="store_true", help="the last line is one object")
    given = parser.parse_args()
    kinds = given.faults.split(",")
    if not set(kinds) <= set(FAULTS):
        parser.error(f"the faults are {', '.join(FAULTS)}")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ringlog-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    nemesis, failed, rows = run(folder, given.minutes, given.seed, kinds, given.every)
    submits, reads = histories_of(folder)
    verdict = check(submits, reads, rows)
    result = told(verdict, nemesis, submits)
    if len(nemesis.faults) < FAULTS_MIN_PART * 60 * given.minutes / given.every:
        failed.append(f"only {len(nemesis.faults)} faults took effect")
    if verdict.acknowledged < ACKNOWLEDGED_PER_MINUTE_MIN * given.minutes or not reads:
        failed.append(f"only {verdict.acknowledged} records were acknowledged, and {len(reads)} reads made")
    failed += [f"{count} {name}: {verdict.examples[name]}" for name, count in verdict.wrong().items() if count]
    if given.report:
        given.report.write_text(json.dumps({**result, "failed": failed, "seed": given.seed}, indent=2) + "\n")
    print("\n".join(failed), file=sys.stderr)
    print(json.dumps(result) if given.json else json.dumps(result, indent=2))
    if not given.folder and not failed:
        shutil.rmtree(folder)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
