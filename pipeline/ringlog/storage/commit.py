"""The Delta table: one version shows segments and, in the same write, how far each shard is stored.

What always holds: a shard's rows in a version are exactly its committed log ``[0, stored(shard))``, each once
(SL-5), but for ``expired(shard)`` of them, which retention removed. delta-rs compares no numbers for us; what keeps
this is that a commit starts at what its own snapshot says is stored, and that delta-rs refuses a commit whose snapshot
has been overtaken for that shard.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from ringlog.errors import ConfigurationError, Conflict, CorruptionError, InvalidQuery, OutcomeUnknown, Unavailable
from ringlog.replication import outcome
from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.settings import local_path
from ringlog.storage.contents import StoredSegment, paths_of, segments_of
from ringlog.storage.objects import Objects
from ringlog.storage.promotion import promoted_in
from ringlog.storage.segment import STATISTICS, Segment

ATTEMPTS = 5
"""How often one commit is tried; delta-rs itself steps over other shards' commits within each."""
REPLACE_ATTEMPTS = 50
"""How often a replacement is tried, each time from the newest version."""

LAG_S = 10.0
"""How long listings of the table may be behind what can be read there."""
_RELIST_S = 0.1

# delta-rs would wait for minutes; a whole attempt ends in less, and the archiver comes back.
_DEADLINES = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "4", "retry_timeout": "30s"}
HISTORY_HOURS = 24
"""How long earlier versions of a new table stay readable."""
CHECKPOINT_VERSIONS = 20
"""A new table's log has a checkpoint for so many versions. Whoever opens the table reads all commits since the last, so
that with delta-rs's own 100 a flush costs more than twice as much (docs/BENCHMARKS.md)."""
STATISTICS_KEY = "delta.dataSkippingStatsColumns"
"""The property of the table that names the columns of whose values the log keeps bounds."""
_PROPERTIES = {STATISTICS_KEY: ",".join(STATISTICS), "delta.checkpointInterval": str(CHECKPOINT_VERSIONS)}
_HISTORY = ("delta.logRetentionDuration", "delta.deletedFileRetentionDuration")
_VACUUMS = "ringlog.vacuums"
LOG = "_delta_log"
EXPIRED, FENCE = "/expired", "/fence"
"""End the names of the transactions that count what expired of a shard, and that say who may archive it."""


@dataclass(frozen=True)
class Flush:
    """The committed records ``[start, end)`` of one shard, written as ``segments``."""

    shard: str
    start: int
    end: int
    segments: Sequence[Segment]


@dataclass(frozen=True)
class Snapshot:
    """One version of the table. ``delta`` is never changed after it was loaded.

    What is asked of a shard is read when it is first asked, from the log. Raises `Unavailable` where that fails.
    """

    delta: DeltaTable
    _transactions: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def version(self) -> int:
        """The number of the table's version."""
        return int(self.delta.version())

    def stored(self, shard: str) -> int:
        """The first offset of ``shard`` that this version does not hold; 0 for a shard it has never seen."""
        return self._transaction(shard)

    def fence(self, shard: str) -> int:
        """The least epoch whose leader may archive ``shard``; 0 unless a loss was accepted."""
        return self._transaction(_fence(shard))

    def expired(self, shard: str) -> int:
        """How many of the records ``[0, stored(shard))`` were removed since, because they were old or not wanted."""
        return self._transaction(_expired(shard))

    @property
    def vacuums(self) -> int:
        """How often a vacuum has begun: see `Table.begin_vacuum`."""
        return int(self._configuration.get(_VACUUMS) or 0)

    @property
    def history_hours(self) -> int:
        """How long an earlier version stays readable; 0 where the table does not say it in hours."""
        found = re.fullmatch(r"interval (\d+) hours?", self._configuration.get(_HISTORY[0]) or "")
        return int(found[1]) if found else 0

    @property
    def promoted(self) -> tuple[Promoted, ...]:
        """The attributes that have a column of their own in this version."""
        return promoted_in(self.delta)

    def segments(self) -> list[StoredSegment]:
        """What this version consists of."""
        return segments_of(self.delta)

    def _transaction(self, name: str) -> int:
        if name not in self._transactions:
            try:
                self._transactions[name] = int(self.delta.transaction_version(name) or 0)
            except (DeltaError, OSError) as error:
                raise Unavailable(
                    f"cannot read version {self.version} of the table {self.delta.table_uri} now: {_reason(error)}. "
                    "Check that the store answers; then try again"
                ) from error
        return self._transactions[name]

    @property
    def _configuration(self) -> Mapping[str, Any]:
        return dict(self.delta.metadata().configuration)


class Table:
    """The Delta table at ``url``: a local folder or ``s3://bucket/prefix``.

    ``storage_options`` are those of delta-rs; none for a local folder.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str]) -> None:
        self.url = url
        self.objects = Objects(url, storage_options)
        self._local = local_path(url)
        self._options = {**_DEADLINES, **storage_options} if self._local is None else None
        self._settled = -1

    def open_or_create(self) -> Snapshot:
        """The newest version; where there is no table yet, an empty one is made. Any number may race.

        Raises `ConfigurationError` where something else is in its place, or its columns do not fit.
        """
        snapshot = self.find()
        if snapshot is None:
            try:
                DeltaTable.create(
                    self._local or self.url,
                    TABLE_SCHEMA,
                    mode="error",
                    partition_by=["date"],
                    configuration={**_PROPERTIES, **_history(HISTORY_HOURS)},
                    storage_options=self._options,
                    # With retries, delta-rs lets a second creator through, who replaces the table's metadata.
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            except (DeltaError, OSError) as error:
                # Another creator may have won; then its table is the one.
                snapshot = self.find()
                if snapshot is None:
                    raise Unavailable(f"cannot create the table {self.url}: {_reason(error)}") from error
            else:
                snapshot = self.snapshot()
        self._require_columns(snapshot)
        return self.settle(snapshot)

    def find(self) -> Snapshot | None:
        """The newest version, or None where there is no table.

        delta-rs finds it by a listing, and one that lags behind would show an earlier state. So it is looked what comes
        next, and the listing has to show that, too.
        """
        snapshot = self._listed()
        if self._local is not None:
            return snapshot
        newest = snapshot.version if snapshot else -1
        while self.objects.exists(f"{LOG}/{newest + 1:020d}.json"):
            newest += 1
        deadline = time.monotonic() + LAG_S
        pause = threading.Event()
        while (snapshot.version if snapshot else -1) < newest:
            if time.monotonic() >= deadline:
                raise Unavailable(f"listings of {self.url} have not shown version {newest} for {LAG_S:g} s: try again")
            pause.wait(_RELIST_S)
            snapshot = self._listed()
        return snapshot

    def _listed(self) -> Snapshot | None:
        try:
            return Snapshot(DeltaTable(self._local or self.url, storage_options=self._options))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise Unavailable(
                f"cannot read the table {self.url} now: {_reason(error)}. "
                "Check that the store answers and that the credentials are right; then try again"
            ) from error

    def snapshot(self) -> Snapshot:
        """The newest version. Raises `ConfigurationError` where there is no table."""
        snapshot = self.find()
        if snapshot is None:
            raise ConfigurationError(f"there is no table at {self.url}: check root, or start the pipeline once")
        return snapshot

    def at(self, version: int) -> Snapshot:
        """An earlier version. Raises `InvalidQuery` where the table has none of that number, or no more of it."""
        newest = self.snapshot()
        if not 0 <= version <= newest.version:
            raise InvalidQuery(f"the table {self.url} has the versions 0 to {newest.version}, and no {version}")
        try:
            return Snapshot(DeltaTable(self._local or self.url, version, storage_options=self._options))
        except (DeltaError, OSError) as error:
            raise InvalidQuery(
                f"version {version} of the table {self.url} does not read: {_reason(error)}. "
                f"Versions are kept for {newest.history_hours} h: see the setting history_hours"
            ) from error

    def settle(self, snapshot: Snapshot) -> Snapshot:
        """Make what ``snapshot`` shows survive a power cut; only then may journals be trimmed to it.

        delta-rs does not fsync what it writes to a local folder. Nothing is to be done on an object store.
        """
        if self._local is not None and snapshot.version > self._settled:
            self.objects.sync(*self._unsettled(snapshot.version))
            self._settled = snapshot.version
        return snapshot

    def commit(self, snapshot: Snapshot, flushes: Sequence[Flush]) -> Snapshot:
        """Add the segments of ``flushes`` (one per shard) in one version, each exactly once.

        Every flush must start where ``snapshot`` ends for its shard, and ``snapshot`` must have been taken before the
        segments were written (`begin_vacuum` says why). Returns a later snapshot, settled: what
        it says is stored is what the caller goes on from, and may trim to. For a shard that another archiver
        was faster with, that need not be the flush's own end; its segments are then orphans.

        Raises `Conflict` when ``snapshot`` does not fit, the table is too contended or was vacuumed meanwhile, and
        `OutcomeUnknown` when the table cannot be read back. In all cases: take a new snapshot, go on from what it says,
        and write new segments.
        """
        _require_fit(snapshot, flushes)
        pending = list(flushes)
        refusal: Exception | None = None
        fences = {flush.shard: snapshot.fence(flush.shard) for flush in flushes}
        vacuums = snapshot.vacuums
        for _ in range(ATTEMPTS):
            refusal = self._try(snapshot, pending)
            snapshot = self._read_back(refusal, [flush.shard for flush in pending])
            pending = [flush for flush in pending if _still_to_do(snapshot, flush, fences[flush.shard], refusal)]
            if not pending:
                return self.settle(snapshot)
            if snapshot.vacuums != vacuums:
                raise Conflict(
                    f"the table {self.url} was vacuumed before it took these segments, so that some may be gone. "
                    "Take a new snapshot and write them anew"
                )
        shards = ", ".join(flush.shard for flush in pending)
        raise Conflict(
            f"the table {self.url} did not take {shards} in {ATTEMPTS} attempts: {_reason(refusal)}. "
            "Take a new snapshot and try again"
        ) from refusal

    def fence(self, shard: str, epoch: int) -> Snapshot:
        """Close the table to leaders of ``shard`` before ``epoch``; a later snapshot, which says so.

        A leader that was given up for lost may hold what nobody else has; it must not archive that any more. Raises
        `Conflict` when others commit this shard all the while, and `OutcomeUnknown`: then do it again.
        """
        for _ in range(ATTEMPTS):
            snapshot = self.open_or_create()
            if snapshot.fence(shard) >= epoch:
                return snapshot
            # The shard's own transaction is repeated, so that whoever commits it from an older snapshot is refused.
            marks = [Transaction(_fence(shard), epoch), Transaction(shard, snapshot.stored(shard))]
            refusal = self._write(snapshot, [], CommitProperties(app_transactions=marks))
            snapshot = self._read_back(refusal, [shard])
            if snapshot.fence(shard) >= epoch:
                return self.settle(snapshot)
        raise Conflict(f"the table {self.url} did not take the fence of {shard} in {ATTEMPTS} attempts: try again")

    def replace(
        self,
        snapshot: Snapshot,
        removed: Sequence[StoredSegment],
        added: Sequence[Segment],
        expired: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """Put ``added`` in the place of ``removed`` in one version; the files of ``removed`` stay until a vacuum.

        ``expired`` are the records of each shard that are in ``removed`` and not in ``added``; all others must be in
        both. Returns a later snapshot. ``snapshot`` must have been taken before the segments were written. Raises
        `Conflict` when others replaced some of ``removed`` first, the table was vacuumed meanwhile or is too contended:
        take a new snapshot and see what is still to be done; and `OutcomeUnknown` when it cannot be read back.

        Archivers are not held up: they step over a replacement that loses no record. One that does makes them commit
        once more.
        """
        lost = sum(segment.rows for segment in removed) - sum(segment.rows for segment in added)
        if lost != sum((expired or {}).values()) or not removed:
            raise CorruptionError(f"{lost} records would go from the table, and not those that expire: {expired}")
        now_ms = time.time_ns() // 1_000_000
        actions = [
            *(_removed(segment, now_ms, data_change=bool(expired)) for segment in removed),
            *(_added(segment, data_change=bool(expired)) for segment in added),
        ]
        gone, come = {segment.path for segment in removed}, {segment.path for segment in added}
        vacuums, refusal, held = snapshot.vacuums, None, paths_of(snapshot.delta)
        for _ in range(REPLACE_ATTEMPTS):
            if not held >= gone or snapshot.vacuums != vacuums:
                raise Conflict(
                    f"version {snapshot.version} of the table {self.url} has no more what was to be replaced"
                )
            marks = [Transaction(_expired(shard), snapshot.expired(shard) + n) for shard, n in (expired or {}).items()]
            # delta-rs would step over a commit that removes the same segments, and have all their records twice. So it
            # gets no chance to: it commits on top of this very snapshot, or not at all.
            refusal = self._write(snapshot, actions, CommitProperties(app_transactions=marks, max_commit_retries=0))
            snapshot = self._read_back(refusal)
            held = paths_of(snapshot.delta)
            if held >= come and held.isdisjoint(gone):
                return snapshot
        raise Conflict(
            f"others committed to the table {self.url} all the while, {REPLACE_ATTEMPTS} times: {_reason(refusal)}"
        ) from refusal

    def begin_vacuum(self) -> Snapshot:
        """A snapshot, settled, that no commit built on an earlier one can follow.

        So a file that was there before this was called, and is not in the snapshot, never becomes part of the table,
        whatever archiver wrote it and however long it was stopped since: delta-rs refuses every commit whose snapshot
        is from before a change of the table's properties, and `commit` does not offer the same segments again.

        Raises `Conflict` when the properties are changed all the while, and `OutcomeUnknown`.
        """
        before = self.snapshot()
        properties = {_VACUUMS: str(before.vacuums + 1)}
        return self.alter(lambda delta: _set(delta, properties), lambda found: found.vacuums > before.vacuums)

    def keep_history(self, hours: int) -> Snapshot:
        """Keep earlier versions readable for ``hours``; the newest snapshot. Raises what `begin_vacuum` raises."""
        return self.alter(lambda delta: _set(delta, _history(hours)), lambda found: found.history_hours == hours)

    def alter(self, change: Callable[[DeltaTable], None], done: Callable[[Snapshot], bool]) -> Snapshot:
        """Let ``change`` alter the newest version, unless and until it is ``done``; a later snapshot, settled.

        Everybody who has an earlier snapshot takes a new one before the next commit. Raises `Conflict` when others
        alter the table all the while, and `OutcomeUnknown`: then do it again.
        """
        refusal: Exception | None = None
        found = self.snapshot()
        for _ in range(ATTEMPTS):
            if done(found):
                return self.settle(found)
            try:
                # It changes what it is called on, and a snapshot never changes: so on one of its own.
                change(self.snapshot().delta)
            except (DeltaError, OSError) as error:
                refusal = error
            found = self._read_back(refusal)
        if done(found):
            return self.settle(found)
        raise Conflict(
            f"the table {self.url} was not altered in {ATTEMPTS} attempts: {_reason(refusal)}. Try again"
        ) from refusal

    def clean_log(self) -> None:
        """Remove what of the log no version of the history needs. Raises `Unavailable`."""
        try:
            self.snapshot().delta.cleanup_metadata()
        except (DeltaError, OSError) as error:
            raise Unavailable(f"cannot clean the log of {self.url} now: {_reason(error)}. Try again") from error

    def _try(self, snapshot: Snapshot, flushes: Sequence[Flush]) -> Exception | None:
        marks = [Transaction(flush.shard, flush.end) for flush in flushes]
        added = [_added(segment) for flush in flushes for segment in flush.segments]
        return self._write(snapshot, added, CommitProperties(app_transactions=marks))

    def _write(
        self, snapshot: Snapshot, actions: list[AddAction | RemoveAction], properties: CommitProperties
    ) -> Exception | None:
        """Commit from ``snapshot`` itself. An error says nothing about the outcome: only the table knows."""
        try:
            snapshot.delta.create_write_transaction(
                actions=actions,
                mode="append",
                schema=snapshot.delta.schema(),
                partition_by=["date"],
                commit_properties=properties,
                # It would list the whole log after each commit, to see what of it is old: see `clean_log`.
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )
        except Exception as error:  # noqa: BLE001  (whatever it was, the table is read back)
            return error
        return None

    def _read_back(self, refusal: Exception | None, shards: Sequence[str] = ()) -> Snapshot:
        """The newest version, in which what it says of ``shards`` has been read."""
        try:
            snapshot = self.snapshot()
            for shard in shards:
                snapshot.stored(shard)
                snapshot.fence(shard)
            return snapshot
        except (Unavailable, ConfigurationError) as error:
            raise OutcomeUnknown(
                f"a commit to {self.url} may or may not have been stored: {_reason(refusal or error)}. "
                "Take a new snapshot when the store answers, and go on from what it says"
            ) from error

    def _unsettled(self, version: int) -> list[str]:
        """The log's files that make up ``version`` and were not synced by this table before."""
        new = range(self._settled + 1, version + 1)
        commits = [f"{LOG}/{number:020d}.json" for number in new]
        if self._settled >= 0 and all(self.objects.exists(path) for path in commits):  # a log is long: not to be listed
            made = [f"{LOG}/{number:020d}.checkpoint.parquet" for number in new]
            checkpoints = [path for path in made if self.objects.exists(path)]
            return [*commits, *checkpoints, *([f"{LOG}/_last_checkpoint"] if checkpoints else [])]
        numbered = {
            path: int(number[0])
            for path in self.objects.list(LOG)
            if (number := re.findall(rf"^{LOG}/(\d{{20}})\.", path))
        }
        known = [at for path, at in numbered.items() if ".checkpoint" in path and at <= version]
        first = max([self._settled + 1, *known])
        paths = [path for path, at in numbered.items() if first <= at <= version]
        return [*paths, f"{LOG}/_last_checkpoint"] if known else paths

    def _require_columns(self, snapshot: Snapshot) -> None:
        found = {field.name: field.type for field in pa.schema(snapshot.delta.schema())}
        wrong = [
            f"{field.name} ({found.get(field.name, 'missing')} instead of {field.type})"
            for field in TABLE_SCHEMA
            if found.get(field.name) != field.type
        ]
        if wrong or snapshot.delta.metadata().partition_columns != ["date"]:
            raise ConfigurationError(
                f"{self.url} is a Delta table, but not one of ringlog: {', '.join(wrong) or 'not by date'}. "
                "Choose another root"
            )


def _require_fit(snapshot: Snapshot, flushes: Sequence[Flush]) -> None:
    shards = [flush.shard for flush in flushes]
    if not flushes or len(set(shards)) != len(shards):
        raise ValueError(f"a commit takes one flush of each of its shards, not {shards}")
    for flush in flushes:
        if sum(segment.rows for segment in flush.segments) != flush.end - flush.start or not flush.segments:
            raise CorruptionError(f"the segments of {flush.shard} do not hold exactly [{flush.start}, {flush.end})")
        if snapshot.stored(flush.shard) != flush.start:
            raise Conflict(
                f"version {snapshot.version} of the table holds {flush.shard} up to "
                f"{snapshot.stored(flush.shard)}, so a flush cannot start at {flush.start}: go on from there"
            )


def _still_to_do(snapshot: Snapshot, flush: Flush, fence: int, refusal: Exception | None) -> bool:
    """Whether ``flush`` is to be tried again from ``snapshot``, which was read after an attempt."""
    stored, fenced = snapshot.stored(flush.shard), snapshot.fence(flush.shard) > fence
    return outcome(flush.shard, flush.start, flush.end, stored, fenced, accepted=refusal is None) == "again"


def _fence(shard: str) -> str:
    return f"{shard}{FENCE}"


def _expired(shard: str) -> str:
    return f"{shard}{EXPIRED}"


def _set(delta: DeltaTable, properties: Mapping[str, str]) -> None:
    delta.alter.set_table_properties(dict(properties), raise_if_not_exists=False)


def _history(hours: int) -> dict[str, str]:
    return dict.fromkeys(_HISTORY, f"interval {hours} hours")


def _removed(segment: StoredSegment, now_ms: int, data_change: bool) -> RemoveAction:
    return RemoveAction(segment.path, data_change, now_ms, segment.size_bytes, {"date": segment.date.isoformat()})


def _added(segment: Segment, data_change: bool = True) -> AddAction:
    return AddAction(
        path=segment.path,
        size=segment.size_bytes,
        partition_values={"date": segment.date.isoformat()},
        modification_time=time.time_ns() // 1_000_000,
        data_change=data_change,
        stats=segment.stats_json,
    )


def _reason(error: Any) -> str:
    """The error's own words in one line; delta-rs paints its arrows."""
    return " ".join(re.sub(r"\x1b\[\d+m|↳", "", str(error)).split())
