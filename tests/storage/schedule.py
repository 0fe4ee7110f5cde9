"""One schedule of faults: three shard actors in this process, their metadata and their table behind the fault proxy.

Every actor has a door of its own, so that a process that dies is one whose door is shut at any moment of what it was doing
at the store. Clients submit all the while; actors die and begin again, leaders move. At the end the store is well, all is
archived, and `check` reads what stands there, past the proxy.

``python tests/storage/schedule.py --seeds 0:200`` runs seeds on every server that is installed, with ``tests``, ``jobs`` and
``pipeline`` on the path.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import pytest

import ringlog
from rgw import Rgw, installed
from ringlog.actors.shard import Place, ShardHost
from ringlog.client.transport import FlightTransport
from ringlog.errors import Fenced, OutcomeUnknown, Overloaded, RinglogError, Unavailable
from ringlog.metadata import open_store
from ringlog.routing import Leading, Routes
from ringlog.settings import Settings
from ringlog.storage import Objects, Table
from s3proxy import FAULTS, Chance, Door, Plan, S3Proxy, always
from seaweed import SeaweedFS

TOKEN = "token"
SHARDS = ("shard-0", "shard-1")
ACTORS = ("shard-0", "shard-1", "shard-2")
LOAD_S = 3.0
PRODUCERS = 4
TROUBLE = ("kill", "move", "away", "calm")
WITHIN_S = 120.0

Server = SeaweedFS | Rgw
SERVERS: dict[str, type[Server]] = {"SeaweedFS": SeaweedFS, **({"Ceph RGW": Rgw} if installed() else {})}
"""The S3 servers that are installed here; SeaweedFS always is."""


@contextmanager
def hasty() -> Iterator[None]:
    """All deadlines so short that a schedule meets many of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "storage.objects.DEADLINE_S": 6.0,
            "metadata.s3.DEADLINE_S": 6.0,
            "storage.commit._DEADLINES": {
                "connect_timeout": "1s",
                "timeout": "1500ms",
                "max_retries": "2",
                "retry_timeout": "6s",
            },
            "actors.archiver._BACKOFF_S": (0.1, 1.0),
        }.items():
            patch.setattr(f"ringlog.{name}", value)
        yield


@dataclass
class Told:
    """What clients were told of the records they submitted."""

    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    refused: Counter[type[RinglogError]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Scene(FlightTransport):
    """Three actors and two shards on ``root``; clients reach it as they reach any pipeline."""

    def __init__(self, server: Server, root: str, journals: Path, doors: Mapping[str, Door], **settings: Any) -> None:
        self._chosen = {"root": root, "journal_dir": str(journals), "fsync": "never", **settings}
        super().__init__(self._settings(server.storage_options), TOKEN)
        self._server = server
        self._journals = journals
        self.doors = doors
        self.failures: list[BaseException] = []
        self._news = threading.Condition()
        self._routes = Routes(0, SHARDS, {})
        self.hosts = {actor: self._host(actor) for actor in ACTORS}

    def close(self) -> None:
        """End every actor."""
        for host in self.hosts.values():
            host.close()

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        """See `Transport`."""
        with self._news:
            self._news.wait_for(lambda: self._routes.version > known, wait_s)
            return self._routes

    def fields(self) -> Mapping[str, Any]:
        """See `Transport`."""
        return {}

    def lead(self, shard: str, actor: str) -> bool:
        """Let ``actor`` take ``shard`` over; whether it leads now."""
        places = [Place(host.replica_id(shard), name, host.location) for name, host in self.hosts.items()]
        try:
            self.hosts[actor].take_over(shard, places, self.locations())
        except (Unavailable, Fenced):
            return False
        finally:
            self.look()
        return True

    def kill(self, actor: str) -> None:
        """End ``actor`` in the middle of what it does at the store: nothing of it gets there any more."""
        host, door = self.hosts.pop(actor), self.doors[actor]
        plan, door.plan = door.plan, always("reset before")
        door.cut()
        self.look()
        host.close()
        door.plan = plan

    def begin(self, actor: str) -> None:
        """Begin ``actor`` again, on its journals."""
        self.hosts[actor] = self._host(actor)
        self.look()

    def look(self) -> None:
        """Ask every actor what it leads, tell it where the others are, and make new routes of it."""
        leaders: dict[str, Leading] = {}
        committed: dict[str, int] = {}
        for actor, host in self.hosts.items():
            for shard, leading in host.status(self.locations())["leading"].items():
                if shard not in leaders or leaders[shard].epoch < leading["epoch"]:
                    leaders[shard] = Leading(shard, actor, host.location, leading["epoch"])
                    committed[shard] = leading["committed"]
        with self._news:
            self._routes = Routes(self._routes.version + 1, SHARDS, leaders, committed)
            self._news.notify_all()

    def locations(self) -> dict[str, str]:
        """Where each actor listens."""
        return {actor: host.location for actor, host in self.hosts.items()}

    @property
    def missing(self) -> tuple[str, ...]:
        """The shards without a leader."""
        return self._routes.missing

    def held(self) -> dict[str, tuple[int, int]]:
        """How far each shard is committed, and how far its leader knows that it is archived; by shard, in order."""
        led = [one for host in self.hosts.values() for one in host.status()["leading"].items()]
        return {shard: (leading["committed"], leading["archived"]) for shard, leading in sorted(led, key=itemgetter(0))}

    def archived(self) -> bool:
        """Try to archive everything; whether all actors did."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            flushes = [pool.submit(host.flush, 10.0) for host in self.hosts.values()]
        try:
            for flush in flushes:
                flush.result()
        except Unavailable:
            return False
        return True

    def _settings(self, options: Mapping[str, str]) -> Settings:
        return Settings(
            **self._chosen,
            s3_endpoint_url=options["AWS_ENDPOINT_URL"],
            s3_region=options["AWS_REGION"],
            s3_access_key_id=options["AWS_ACCESS_KEY_ID"],
            s3_secret_access_key=options["AWS_SECRET_ACCESS_KEY"],
        )

    def _host(self, actor: str) -> ShardHost:
        settings = self._settings({**self._server.storage_options, "AWS_ENDPOINT_URL": self.doors[actor].url})
        store = open_store(settings.root, settings.storage_options())
        return ShardHost(actor, settings, self._journals / actor, store, TOKEN, "127.0.0.1", self.failures.append)


@dataclass(frozen=True)
class Load:
    """What one client submits: batches of up to ``rows_max`` records, pauses of up to ``pause_s`` between them."""

    rows_max: int = 40
    pause_s: float = 0.1
    patience_s: float = WITHIN_S
    """How long a submit may retry."""
    padding: str = ""
    """What every record carries besides."""


def submit_until(
    stop: threading.Event, pipeline: ringlog.Pipeline, name: str, draw: random.Random, told: Told, load: Load
) -> None:
    """Submit batches under ``name``, one after the other, and note what is said of each."""
    number = 0
    while not stop.is_set():
        bodies = [f"{name}/{number}/{row}" for row in range(draw.randint(1, load.rows_max))]
        number += 1
        records = [{"body": body, "service": f"{name}-{number % 3}", "padding": load.padding} for body in bodies]
        try:
            ack = pipeline.submit_logs(records, timeout_s=load.patience_s)
        except (Unavailable, Overloaded) as error:
            with told.lock:
                told.refused[type(error)] += 1
        except OutcomeUnknown:
            with told.lock:
                told.doubtful.update(bodies)
        else:
            (part,) = ack.parts
            with told.lock:
                told.acknowledged |= {(part.shard, part.start + at): body for at, body in enumerate(bodies)}
        stop.wait(draw.uniform(0.0, load.pause_s))


@contextmanager
def submitting(scene: Scene, draw: random.Random, told: Told, load: Load | None = None) -> Iterator[None]:
    """Clients submit while the block runs; at its end all of them have got their last answer."""
    stop = threading.Event()
    with ringlog.Pipeline(scene) as pipeline:
        clients = [
            threading.Thread(
                target=submit_until,
                args=(stop, pipeline, f"p{number}", random.Random(draw.random()), told, load or Load()),
            )
            for number in range(PRODUCERS)
        ]
        for client in clients:
            client.start()
        try:
            yield
        finally:
            stop.set()
            for client in clients:
                while client.is_alive():
                    lead_all(scene, draw)
                    client.join(0.2)


@dataclass(frozen=True)
class Report:
    """What happened under one seed."""

    counts: dict[str, int]
    faults: Counter[str]
    seconds: float

    def line(self) -> str:
        """All of it, short."""
        return f"{self.counts}, {sum(self.faults.values())} faults of {len(self.faults)} kinds, {self.seconds:.1f} s"


def run(seed: int, server: Server, doors: Mapping[str, Door], folder: Path) -> Report:
    """Let the schedule of ``seed`` happen; raises `AssertionError` when anything is lost, doubled or out of place."""
    draw = random.Random(seed)
    began = time.monotonic()
    proxy = next(iter(doors.values())).proxy
    proxy.slow_s, proxy.lag_s, proxy.late_s = draw.uniform(0.0, 1.5), draw.uniform(0.0, 1.0), draw.uniform(0.0, 4.0)
    kinds = tuple(draw.sample(sorted(FAULTS), draw.randint(3, len(FAULTS))))
    rate, decisions = draw.uniform(0.0, 0.12), draw.uniform(0.2, 0.7)
    for number, door in enumerate(doors.values()):
        door.plan, door.requests = Chance(len(doors) * seed + number, rate, decisions, kinds), 0
        door.met.clear()
    root = server.root(f"{seed}-{draw.getrandbits(64):x}")
    told, happened = Told(), Counter[str]()
    scene = Scene(server, root, folder, doors, flush_bytes=draw.choice([50_000, 500_000]), flush_age_s=0.4)
    try:
        _play(scene, draw, told, happened)
        assert scene.failures == []
        _archive(scene)
    finally:
        scene.close()
    assert scene.failures == []
    _until_arrived(proxy)
    options = server.storage_options
    counts = {
        "acknowledged": len(told.acknowledged),
        "doubtful": len(told.doubtful),
        "versions": check(root, options, told),
        "requests": sum(door.requests for door in doors.values()),
        **{what: happened[what] for what in TROUBLE},
    }
    return Report(counts, sum((door.met for door in doors.values()), Counter[str]()), time.monotonic() - began)


def _play(scene: Scene, draw: random.Random, told: Told, happened: Counter[str]) -> None:
    """Load and trouble, for a while."""
    time_passes = threading.Event()
    lead_all(scene, draw)
    with submitting(scene, draw, told):
        ends = time.monotonic() + LOAD_S
        while time.monotonic() < ends:
            time_passes.wait(draw.uniform(0.1, 1.0))
            what = draw.choice(TROUBLE)
            happened[what] += 1
            if what == "kill":
                actor = draw.choice(ACTORS)
                scene.kill(actor)
                time_passes.wait(draw.uniform(0.0, 0.3))
                scene.begin(actor)
            elif what == "move":
                scene.lead(draw.choice(SHARDS), draw.choice(ACTORS))
            elif what == "away":
                _away(scene, draw, time_passes)
            lead_all(scene, draw)


def _away(scene: Scene, draw: random.Random, time_passes: threading.Event) -> None:
    """Nobody reaches the store for a while."""
    kind = always(draw.choice(["503 before", "reset before", "silence before", "silence after"]))
    plans: dict[str, Plan | None] = {actor: door.plan for actor, door in scene.doors.items()}
    for door in scene.doors.values():
        door.plan = kind
    time_passes.wait(draw.uniform(0.2, 1.0))
    for actor, door in scene.doors.items():
        door.plan = plans[actor]


def lead_all(scene: Scene, draw: random.Random) -> None:
    """Until every shard has a leader."""
    deadline = time.monotonic() + WITHIN_S
    scene.look()
    while scene.missing:
        assert scene.failures == []
        assert time.monotonic() < deadline, f"{scene.missing} have no leader"
        for shard in scene.missing:
            scene.lead(shard, draw.choice(sorted(scene.hosts)))


def _until_arrived(proxy: S3Proxy) -> None:
    """Until every late request has reached the server."""
    time_passes = threading.Event()
    while proxy.underway:
        assert not time_passes.wait(0.05)


def _archive(scene: Scene) -> None:
    """All is well now; until everything is in the table."""
    for door in scene.doors.values():
        door.plan = None
    deadline = time.monotonic() + WITHIN_S
    while True:
        lead_all(scene, random.Random(0))
        if scene.archived():
            return
        assert scene.failures == []
        assert time.monotonic() < deadline, [host.status()["archive_trouble"] for host in scene.hosts.values()]


def check(root: str, options: Mapping[str, str], told: Told) -> int:
    """Compare the table with what clients were told, and every version of it with the one before; how many there are."""
    snapshot = Table(f"{root}/logs", options).snapshot()
    held = snapshot.delta.to_pyarrow_table(columns=["shard", "record_offset", "body"])
    rows = Counter(zip(held["shard"].to_pylist(), held["record_offset"].to_pylist(), strict=True))
    assert max(rows.values()) == 1, f"stored twice: {[row for row, times in rows.items() if times > 1][:5]}"
    for shard in SHARDS:
        offsets = sorted(offset for of, offset in rows if of == shard)
        assert offsets == list(range(snapshot.stored(shard))), f"{shard} is not dense up to {snapshot.stored(shard)}"
    bodies = dict(
        zip(
            zip(held["shard"].to_pylist(), held["record_offset"].to_pylist(), strict=True),
            held["body"].to_pylist(),
            strict=True,
        )
    )
    wrong = {at: body for at, body in told.acknowledged.items() if bodies.get(at) != body}
    assert wrong == {}, "acknowledged there, and lost"
    unasked = Counter(body for at, body in bodies.items() if at not in told.acknowledged)
    assert set(unasked) <= told.doubtful
    assert max(unasked.values(), default=1) == 1
    return _check_versions(Objects(f"{root}/logs", options), snapshot.version)


def _check_versions(objects: Objects, newest: int) -> int:
    """Each version adds to each shard exactly the records from where the one before ended, and says so."""
    stored = dict.fromkeys(SHARDS, 0)
    for version in range(newest + 1):
        actions = [orjson.loads(line) for line in objects.read(f"_delta_log/{version:020d}.json").splitlines()]
        ends = {action["txn"]["appId"]: action["txn"]["version"] for action in actions if "txn" in action}
        added: dict[str, list[int]] = {}
        for add in (action["add"] for action in actions if "add" in action):
            stats = orjson.loads(add["stats"])
            low, high = (stats[bound]["record_offset"] for bound in ("minValues", "maxValues"))
            assert high + 1 - low == stats["numRecords"]
            added.setdefault(stats["minValues"]["shard"], []).extend(range(low, high + 1))
        assert added.keys() == ends.keys(), f"version {version}"
        for shard, offsets in added.items():
            assert sorted(offsets) == list(range(stored[shard], ends[shard])), f"version {version} of {shard}"
            stored[shard] = ends[shard]
    return newest + 1


@contextmanager
def stage(server: Server) -> Iterator[dict[str, Door]]:
    """A proxy before ``server``, with a door for each actor; deadlines are `hasty`."""
    with hasty(), S3Proxy(server.url) as proxy:
        doors = {actor: proxy.door() for actor in ACTORS}
        for door in doors.values():
            objects = Objects(server.root(""), {**server.storage_options, "AWS_ENDPOINT_URL": door.url})
            # However long it takes, before any deadline counts: botocore reads its descriptions of S3.
            assert objects._store._files.exists(server.bucket)  # type: ignore[attr-defined]
        yield doors


def main() -> int:
    """Run seeds; the exit code is 1 when one of them fails."""
    parser = argparse.ArgumentParser(description="Schedules of faults between ringlog and real S3 servers.")
    parser.add_argument("--seeds", default="0:20", help="FIRST:AFTER_LAST")
    parser.add_argument("--server", choices=list(SERVERS), action="append", help="default: every one that is installed")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no seed after that long")
    chosen = parser.parse_args()
    logging.getLogger("ringlog").setLevel(logging.CRITICAL)
    first, last = (int(part) for part in chosen.seeds.split(":"))
    ends = time.monotonic() + 60 * chosen.minutes
    failed: list[str] = []
    for name in chosen.server or list(SERVERS):
        reports: list[Report] = []
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(SERVERS[name](folder / "server"))
            doors = stack.enter_context(stage(server))
            for seed in range(first, last):
                if time.monotonic() > ends:
                    break
                try:
                    reports.append(run(seed, server, doors, folder / "journals" / str(seed)))
                    print(f"{name} seed {seed}: {reports[-1].line()}", flush=True)
                except AssertionError as error:
                    failed.append(f"{name} seed {seed}")
                    print(f"{name} seed {seed} FAILED: {error}", flush=True)
        total = sum((Counter(report.counts) for report in reports), Counter[str]())
        faults = sum((report.faults for report in reports), Counter[str]())
        print(f"{name}: {len(reports)} seeds held; {dict(total)}; faults {dict(faults)}", flush=True)
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
